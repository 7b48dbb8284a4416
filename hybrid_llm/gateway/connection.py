"""One connection of a client: uvicorn's, which bounds neither how long the head of a request takes nor how large it is.

A client that sends a header a minute, or one without an end, would else hold its connection, or memory, for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES: Final = 64 << 10
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(HttpToolsProtocol):
    """A connection whose client sends the head of a request within *timeout_s*, in at most 64 KiB."""

    def __init__(self, timeout_s: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timeout_s = timeout_s
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client may send its first request."""
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request; one whose head grows without an end is refused."""
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        """A request has begun."""
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        """The head of a request is there."""
        self._end_head()
        super().on_headers_complete()

    def _begin_head(self) -> None:
        self._end_head()
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self._timeout_s, self._late)

    def _late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # an answer that runs is not cut
            self._head_timer = self.loop.call_later(self._timeout_s, self._late)
        else:
            self.transport.close()

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

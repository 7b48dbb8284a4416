"""Server-sent events, as they come in pieces of any size (WHATWG HTML, 9.2.6), and what a server's answer holds."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Final

_MOST_CHARACTERS: Final = 8 << 20
"""One event has no more: a line without an end must not fill the memory."""
_MOST_BYTES: Final = 16 << 20
_MOST_TOKEN_BYTES: Final = 8 << 10
"""An answer has no more than this, and this for each token: one with 20 log-probabilities takes 4 KiB."""


class EventTooLarge(Exception):
    """A server sends an event, or an answer, without an end."""


class EventReader:
    """Yields the data of each event. Lines end in CR, LF or both; comments and other fields are skipped.

    Args:
        tokens: How many tokens were asked for.
    """

    def __init__(self, tokens: int = 0) -> None:
        self._left = _MOST_BYTES + _MOST_TOKEN_BYTES * tokens
        """Bytes that may still come."""
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
        self._rest: list[str] = []
        """The pieces of a line that is not ended."""
        self._after_cr = False
        self._data: list[str] = []
        self._size = self._waiting = 0
        """Characters of the event so far, and of the line that is not ended."""

    def feed(self, piece: bytes, *, last: bool = False) -> Iterator[str]:
        """Yield the data of the events that end in *piece*; with *last*, also of one that is not ended by a blank line.

        Raises:
            EventTooLarge: an event has more than 8 million characters, or the answer more bytes than its tokens take.
        """
        self._left -= len(piece)
        if self._left < 0:
            raise EventTooLarge
        for line in self._lines(self._decode(piece, last), last=last):
            if line:
                self._take(line)
            elif self._data:
                yield self._event()
        if last and self._data:
            yield self._event()

    def _lines(self, text: str, *, last: bool) -> Iterator[str]:
        if self._after_cr and text:
            text, self._after_cr = text.removeprefix("\n"), False
        self._after_cr = text.endswith("\r") or (self._after_cr and not text)
        first, *more = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest.append(first)
        if more or last:
            lines = ["".join(self._rest), *more]
            self._rest = [] if last else [lines.pop()]
            self._waiting = sum(map(len, self._rest))
            self._check(self._waiting)
            yield from lines
        else:
            self._waiting += len(first)
            self._check(self._waiting)

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name == "data":
            value = value.removeprefix(" ")
            self._data.append(value)
            self._size += len(value) + 1
            self._check(0)

    def _event(self) -> str:
        data, self._data, self._size = "\n".join(self._data), [], 0
        return data

    def _check(self, more: int) -> None:
        if self._size + more > _MOST_CHARACTERS:
            raise EventTooLarge

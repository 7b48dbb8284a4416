"""Server-sent events, as they come in pieces of any size (WHATWG HTML, 9.2.6), and what a server's answer holds."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Final

_MOST_CHARACTERS: Final = 8 << 20
"""One event has no more: a line without an end must not fill the memory."""


class EventTooLarge(Exception):
    """A server sends an event without an end."""


class EventReader:
    """Yields the data of each event. Lines end in CR, LF or both; comments and other fields are skipped."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
        self._rest = ""
        self._after_cr = False
        self._data: list[str] = []
        self._size = 0

    def feed(self, piece: bytes, *, last: bool = False) -> Iterator[str]:
        """Yield the data of the events that end in *piece*; with *last*, also of one that is not ended by a blank line.

        Raises:
            EventTooLarge: an event has more than 8 million characters.
        """
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
        lines = (self._rest + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = "" if last else lines.pop()
        self._check(len(self._rest))
        yield from lines

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name == "data":
            value = value.removeprefix(" ")
            self._data.append(value)
            self._size += len(value)
            self._check(0)

    def _event(self) -> str:
        data, self._data, self._size = "\n".join(self._data), [], 0
        return data

    def _check(self, more: int) -> None:
        if self._size + more > _MOST_CHARACTERS:
            raise EventTooLarge

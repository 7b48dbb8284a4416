"""Reads a JSON file that is one array of records, as many data sets come, without holding it in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any, Final

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_READ: Final = 1 << 16


class NotJson(ValueError):
    """The file is no array of records from here on; the message says why, without its content."""


def array_items(file: IO[bytes], encoding: str, most: int) -> Iterator[tuple[Any, int]]:
    """Each item of the array in *file*, and the characters that it takes.

    Raises:
        NotJson: the array is broken, or an item is longer than *most* characters.
    """
    text = _Buffer(file, encoding, most)
    if text.take() != "[":
        raise NotJson("not a JSON array")
    if text.peek() == "]":
        return
    while True:
        yield text.item()
        mark = text.take()
        if mark == "]":
            return
        if mark != ",":
            raise NotJson("the array is not continued or closed")


class _Buffer:
    """The part of the file that is decoded and not yet used."""

    def __init__(self, file: IO[bytes], encoding: str, most: int) -> None:
        self._file, self._most = file, most
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._text, self._at = "", 0

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            if found := _SPACE.match(self._text, self._at):
                self._at = found.end()
            if self._at < len(self._text) or not self._more(_READ):
                return self._text[self._at : self._at + 1]

    def take(self) -> str:
        """The same, which is used thereby."""
        mark = self.peek()
        self._at += 1
        return mark

    def item(self) -> tuple[Any, int]:
        """The next value, and how long it is."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError as error:
                if len(self._text) - self._at > self._most or not self._more(len(self._text) - self._at + _READ):
                    raise NotJson("not JSON, or longer than `max_line_mb`") from error
            except RecursionError:
                raise NotJson("nested too deeply") from None
            else:
                size, self._at = end - self._at, end
                return value, size

    def _more(self, size: int) -> bool:
        """Read on, at least *size* bytes where there are so many; False at the end."""
        data = self._file.read(size)
        try:
            decoded = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise NotJson("wrongly encoded: set `encoding`") from error
        self._text, self._at = self._text[self._at :] + decoded, 0
        return bool(data)

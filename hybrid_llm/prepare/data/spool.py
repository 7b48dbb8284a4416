"""Sorts more records than fit in memory: lines go to files by the beginning of their key, each small enough to sort."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TextIO

_BYTES: Final = 8 << 20
"""Bytes of records that one file shall hold."""
_MOST: Final = 256


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One record of the spool; entries are in the order of *key*, of equal ones in that of *line* and *number*.

    Attributes:
        key: hexadecimal digits.
        line: the record, without line ends.
        number: in the order of the input.
    """

    key: str
    line: str
    number: int


class Spool:
    """Entries on the disk, which are written in any order and read in that of their keys."""

    def __init__(self, folder: Path, expected: int) -> None:
        """Begin a spool of about *expected* bytes in *folder*, which is made."""
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._count = max(1, min(_MOST, expected // _BYTES))
        self._opened = ExitStack()
        self._files: list[TextIO] = [
            self._opened.enter_context(self._path(part).open("w", encoding="utf-8")) for part in range(self._count)
        ]

    def _path(self, part: int) -> Path:
        return self._folder / f"{part:03}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def add(self, entry: Entry) -> None:
        """Add an entry."""
        part = int(entry.key[:8], 16) * self._count >> 32
        self._files[part].write(f"{entry.key}\t{entry.number}\t{entry.line}\n")

    def sorted(self) -> Iterator[Entry]:
        """Every entry, in order. The files are deleted as they are read."""
        self._opened.close()
        for part in range(self._count):
            with self._path(part).open(encoding="utf-8", newline="\n") as lines:
                entries = sorted(_entry(line) for line in lines)
            self._path(part).unlink()
            yield from entries


def _entry(line: str) -> Entry:
    key, number, rest = line.rstrip("\n").split("\t", 2)
    return Entry(key, rest, int(number))

"""Reads the small text files in which Linux tells about itself. It knows no signal; what a file means is its source's.

A file that is not there, or has nothing to say now, is None. One that may not be read or cannot be understood is None
too, and is told once in the log: a sensor is never a reason for an exception.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

_log = logging.getLogger("hybrid_llm.sensors")
_T = TypeVar("_T")
_CHUNK: Final = 1 << 16
_NOTHING_TO_SAY: Final = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENODATA,
        errno.ESRCH,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINVAL,
        errno.EOPNOTSUPP,
    }
)
"""What the kernel answers for a part that is absent, asleep, just unplugged, or switched off at boot (PSI)."""


class Files:
    """The files below *root*, which is `/` but in tests; paths are relative to it. One object serves one source."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = os.fspath(root)
        self._kept: dict[str, io.FileIO] = {}
        self._told = False

    def path(self, path: str) -> str:
        """Where *path* is on this machine."""
        return os.path.join(self._root, path)  # a Path costs more than the reading

    def text(self, path: str) -> str | None:
        """The whole text, without white space around it; None where there is none."""
        try:
            with open(self.path(path), "rb", buffering=0) as file:
                return _decode(_all(file.fileno()))
        except OSError as error:
            self._absent(path, error)
            return None

    def kept(self, path: str) -> str | None:
        """As `text`, for what is read every second: the descriptor stays open, and one `pread` costs about 1 us.

        A descriptor whose file is gone (a control group that was removed) is opened anew once.
        """
        file = self._kept.get(path)
        if file is not None:
            try:
                return _decode(_all(file.fileno()))
            except OSError:
                self._kept.pop(path).close()
        try:
            file = self._kept[path] = io.FileIO(self.path(path))
            return _decode(_all(file.fileno()))
        except OSError as error:
            self._absent(path, error)
            return None

    def number(self, path: str, *, keep: bool = False) -> int | None:
        """The whole number that the file holds; a leading minus is understood, words such as `max` are None."""
        text = self.kept(path) if keep else self.text(path)
        return self.whole(text, path) if text else None

    def whole(self, text: str, path: str) -> int | None:
        """*text*, which comes from *path*, as a whole number; None for a word, and told once for anything else."""
        if len(text) < 40 and text.isascii() and text.removeprefix("-").isdecimal():
            return int(text)
        if not text.isalpha():
            self.damaged(path)
        return None

    def names(self, folder: str) -> list[str]:
        """The names in *folder*, sorted; empty where it is absent."""
        try:
            return sorted(os.listdir(self.path(folder)))
        except OSError as error:
            self._absent(folder, error)
            return []

    def is_folder(self, path: str) -> bool:
        """Whether *path* is a folder."""
        return os.path.isdir(self.path(path))

    def exists(self, path: str) -> bool:
        """Whether there is anything at *path*."""
        return os.path.exists(self.path(path))

    def damaged(self, path: str) -> None:
        """Tell, once for this source, that *path* cannot be understood."""
        self._tell(path, "does not hold what the kernel documents")

    def _absent(self, path: str, error: OSError) -> None:
        if error.errno not in _NOTHING_TO_SAY:
            self._tell(path, error.strerror or type(error).__name__)

    def _tell(self, path: str, why: str) -> None:
        if not self._told:
            self._told = True
            _log.warning("%s: %s; what it tells is absent", self.path(path), why)

    def close(self) -> None:
        """Close what is open."""
        for path in list(self._kept):
            with suppress(OSError):
                self._kept.pop(path).close()


class Found(Generic[_T]):
    """What a search found, kept for *every* seconds: devices come and go, but not each second."""

    def __init__(self, search: Callable[[], _T], *, every: float = 60.0) -> None:
        self._search = search
        self._every = every
        self._found: tuple[float, _T] | None = None

    def get(self) -> _T:
        """The findings, searched for again once they are old."""
        now = time.monotonic()
        if self._found is None or now >= self._found[0]:
            self._found = (now + self._every, self._search())
        return self._found[1]


def _all(descriptor: int) -> bytes:
    """Everything from the start: the kernel gives tables in pieces of a page, so reading ends with an empty one."""
    return b"".join(_chunks(descriptor))


def _chunks(descriptor: int) -> Iterator[bytes]:
    offset = 0
    while offset < 16 * _CHUNK and (chunk := os.pread(descriptor, _CHUNK, offset)):
        yield chunk
        offset += len(chunk)


def _decode(data: bytes) -> str:
    return data.decode("ascii", errors="replace").strip()

"""What a source of signals is, and the helper with which the sources for Linux read small text files.

To add a signal: declare its field in `core.signals`, name it in `signals` of a source here or of a new one, and list a
new source in `system`.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

_log = logging.getLogger("hybrid_llm.sensors")
_T = TypeVar("_T")
_CHUNK: Final = 1 << 16
_ABSENT: Final = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ENODATA, errno.ESRCH, errno.EAGAIN, errno.EBUSY,
        errno.EINVAL, errno.EOPNOTSUPP,
    }
)  # fmt: skip
"""The kernel's answers for a part that is absent, asleep, just unplugged, or switched off at boot (PSI)."""
MIB: Final = 1024 * 1024

Value = float | bool | None
"""The value of a signal; None where it is absent."""


class Source(Protocol):
    """Reads a few signals of one part of the system. Only one thread at a time uses it."""

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that `read` returns, such as `device.battery`."""
        ...

    @property
    def every(self) -> float:
        """The time between two readings, in intervals of the sampler."""
        ...

    def read(self) -> tuple[Value, ...]:
        """One value for each name in *signals*. It may block: other sources are read without it."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class FileSource:
    """A source that reads *files*. Subclasses set `signals` and, unless it is 1, `every`, and define `read`."""

    signals: tuple[str, ...]
    every: float = 1.0

    def __init__(self, files: Files) -> None:
        self._files = files

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def within(value: float | None, least: float, most: float) -> float | None:
    """*value* if it is finite and in range, else None: some devices report values that cannot be true."""
    return value if value is not None and math.isfinite(value) and least <= value <= most else None


class Files:
    """Small text files below *root*, which is `/` except in tests; one object serves one source.

    A missing file, or one without a value at the moment, is None. A file that cannot be read or parsed is None too, and
    is logged once per object: a sensor never raises.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = os.fspath(root)
        self._open: dict[str, io.FileIO] = {}
        self._warned = False

    def path(self, path: str) -> str:
        """*path* with the root."""
        return os.path.join(self._root, path)  # `Path` would cost more than reading the file

    def text(self, path: str) -> str | None:
        """The whole text without surrounding white space; None where there is none."""
        try:
            with open(self.path(path), "rb", buffering=0) as file:
                return _read_text(file)
        except OSError as error:
            self._on_error(path, error)
            return None

    def poll(self, path: str) -> str | None:
        """Like `text`, for a file that is read every second: its descriptor stays open, and a read costs about 1 us."""
        file = self._open.get(path)
        if file is not None:
            try:
                return _read_text(file)
            except OSError:  # the file is gone, such as a control group that was removed: open it again once
                self._open.pop(path).close()
        try:
            file = self._open[path] = io.FileIO(self.path(path))
            return _read_text(file)
        except OSError as error:
            self._on_error(path, error)
            return None

    def fields(self, path: str, separator: str) -> dict[str, str]:
        """The lines `name SEPARATOR value` of a file that is polled; empty where it is absent."""
        lines = (line.partition(separator) for line in (self.poll(path) or "").splitlines())
        return {name: value.strip() for name, _, value in lines}

    def number(self, path: str, *, poll: bool = False) -> int | None:
        """The integer in the file; None for words such as `max`."""
        text = self.poll(path) if poll else self.text(path)
        return self.integer(text, path) if text else None

    def integer(self, text: str, path: str) -> int | None:
        """*text* from *path* as an integer; None for a word. Anything else is malformed."""
        if len(text) < 40 and text.isascii() and text.removeprefix("-").isdecimal():
            return int(text)
        if not text.isalpha():
            self.malformed(path)
        return None

    def names(self, folder: str) -> list[str]:
        """The names in *folder*, sorted; empty where it is absent."""
        try:
            return sorted(os.listdir(self.path(folder)))
        except OSError as error:
            self._on_error(folder, error)
            return []

    def exists(self, path: str) -> bool:
        """Whether *path* exists."""
        return os.path.exists(self.path(path))

    def malformed(self, path: str) -> None:
        """Log, once per object, that the content of *path* is not what the kernel documents."""
        self._warn(path, "does not hold what the kernel documents")

    def _on_error(self, path: str, error: OSError) -> None:
        if error.errno not in _ABSENT:
            self._warn(path, error.strerror or type(error).__name__)

    def _warn(self, path: str, why: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("%s: %s; its signals are absent", self.path(path), why)

    def close(self) -> None:
        """Close what is open."""
        for path in list(self._open):
            with suppress(OSError):
                self._open.pop(path).close()


class Cached(Generic[_T]):
    """The result of *search*, searched for again every *every* seconds: devices come and go, but not each second."""

    def __init__(self, search: Callable[[], _T], *, every: float = 60.0) -> None:
        self._search = search
        self._every = every
        self._found: tuple[float, _T] | None = None

    def get(self) -> _T:
        """The latest result."""
        now = time.monotonic()
        if self._found is None or now >= self._found[0]:
            self._found = (now + self._every, self._search())
        return self._found[1]


def _read_text(file: io.FileIO) -> str:
    return b"".join(_chunks(file.fileno())).decode("ascii", errors="replace").strip()


def _chunks(descriptor: int) -> Iterator[bytes]:
    """The file from its start: the kernel returns tables one page at a time, so only an empty read is the end."""
    offset = 0
    while offset < 16 * _CHUNK and (chunk := os.pread(descriptor, _CHUNK, offset)):
        yield chunk
        offset += len(chunk)

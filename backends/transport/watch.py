"""Notices that a side's certificate files were replaced; whether the new ones are any good is asked elsewhere."""

from __future__ import annotations

from pathlib import Path

from hybrid_llm.backends.transport.certificates import TLSFiles

__all__ = ["FileWatch"]


class FileWatch:
    """Tells whether files changed since it was last asked, by size, time and inode."""

    def __init__(self, files: TLSFiles) -> None:
        self._paths = (files.ca, files.cert, files.key)
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether a file is another one than at the last call; a few microseconds."""
        before, self._seen = self._seen, self._look()
        return self._seen != before

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)

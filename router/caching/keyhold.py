"""Who uses a cache on disk: each client holds its key file, shared, for as long as it has the cache open."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


class KeyHold:
    """A shared lock on the key file at *path*.

    Raises:
        OSError: it cannot be opened, or another client is deleting the cache.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            _share(self._handle)
        except BlockingIOError:
            self.release()
            raise

    def is_alone(self) -> bool:
        """Whether no other client, of this process or another, holds it; nobody can come to hold it until `release`."""
        if _exclude(self._handle):
            return True
        with suppress(BlockingIOError):
            _share(self._handle)
        return False

    def release(self) -> None:
        """Let go of it."""
        os.close(self._handle)


if sys.platform == "win32":  # a file that is open elsewhere cannot be deleted there anyway

    def _share(handle: int) -> None:
        del handle

    def _exclude(handle: int) -> bool:
        del handle
        return True

else:
    import fcntl

    def _share(handle: int) -> None:
        """Raise BlockingIOError where it is held exclusively."""
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks: nobody is ever alone
            return

    def _exclude(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held by another client, or a file system without locks
            return False
        return True

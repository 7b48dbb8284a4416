"""Locks of the store: between processes, freed by the system when their owner dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(folder: Path, name: str, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock *name* of *folder*; yields whether it is held.

    If another process holds it, *waiting* is called once, and the lock is waited for; without *waiting* it is not.
    """
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is not None:
            waiting()
            lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()

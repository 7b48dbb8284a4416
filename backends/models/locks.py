"""Locks of the store: between processes, freed by the system when their owner dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(folder: Path, name: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock *name* of *folder*; *waiting* is called once if another process holds it."""
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def try_lock(folder: Path, name: str) -> Iterator[bool]:
    """Hold the lock if it is free; yields whether it is held."""
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()

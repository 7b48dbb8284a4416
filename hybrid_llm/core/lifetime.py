"""What becomes of whatever is open when Python exits, or when the process is forked.

At the exit it is closed, before Python ends the threads: one that Python ends inside C++ or Rust aborts the process,
and one that it ends while it holds a lock makes whoever needs that lock wait for ever. In a child made by `os.fork`
there are no threads of the parent, and their locks stay locked: there it is neither used nor released.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from hybrid_llm.core.errors import BackendUnavailable, UnsupportedRuntime
from hybrid_llm.core.threads import in_thread_or_here

_EXIT_S: Final = 0.7
"""How long the exit waits for what is open, seconds."""
_EACH_S: Final = 0.1
"""How long it waits for one of them before it goes on to the next, seconds."""
_NATIVE_S: Final = 5.0
"""How long it waits for a thread in native code, whose return after that would abort the process, seconds."""
_FORK_HELP: Final = (
    "start child processes by `spawn` or `forkserver`, or make the first client in the child (docs/apps.md, "
    '"Threads, forks and event loops")'
)


class Closable(Protocol):
    """What may be open: a client, a stream, a connection, a model. `close` is idempotent."""

    def close(self) -> None:
        """Stop its work, and let no more begin."""


class _Process:
    """This process: how often it was forked from another, and what is open in it, the newest last."""

    def __init__(self) -> None:
        self.forks = 0
        self.exiting = False
        self.used = self.forked_in_use = False
        """Whether anything was ever open, here or where this process was forked from."""
        self.lock = threading.RLock()
        self.open: WeakKeyDictionary[Closable, None] = WeakKeyDictionary()

    def forked(self) -> None:
        """Abandon what was open in the parent; called in the child, which has this one thread."""
        self.forks += 1
        self.forked_in_use = self.used
        _never_release(self.open)
        self.open = WeakKeyDictionary()
        native.forget()
        self.lock.release()

    def end(self) -> None:
        """Keep every thread out of native code, and close what is open."""
        self.exiting = True
        native.cancel()
        until = time.monotonic() + _EXIT_S
        with self.lock:
            newest_first = list(reversed(list(self.open)))
        works = []
        for owner in newest_first:
            works.append(in_thread_or_here("hybrid-llm-exit", owner.close))
            wait(works[-1:], max(0.0, min(_EACH_S, until - time.monotonic())))
        wait(works, max(0.0, until - time.monotonic()))
        native.drain(time.monotonic() + _NATIVE_S)
        _never_release(newest_first)


def is_forked() -> bool:
    """Whether this process was made by a fork since this module was imported."""
    return _process.forks > 0


class Origin:
    """The process in which something was made."""

    __slots__ = ("_forks",)

    def __init__(self) -> None:
        self._forks = _process.forks

    @property
    def is_here(self) -> bool:
        """Whether it is this process, rather than one from which this one was forked."""
        return self._forks == _process.forks

    def check(self, what: str) -> None:
        """Raise UnsupportedRuntime if *what* was made before a fork."""
        if self._forks != _process.forks:
            raise UnsupportedRuntime(f"{what} in a process that was forked into this one: {_FORK_HELP}")


class _Native:
    """The threads that are in native code which lets others run. At the exit none may enter it any more."""

    def __init__(self) -> None:
        self._inside: set[int] = set()
        self._cancels: set[Callable[[], None]] = set()

    def __enter__(self) -> None:
        self._inside.add(threading.get_ident())
        if _process.exiting:
            self._inside.discard(threading.get_ident())
            self._check()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._inside.discard(threading.get_ident())

    @contextmanager
    def cancelled_by(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Have *cancel* called if Python exits during the block, which may take longer than the exit waits.

        Raises:
            BackendUnavailable: Python exits.
        """
        self._cancels.add(cancel)
        try:
            self._check()
            yield
        except Exception:
            self._check()
            raise
        finally:
            self._cancels.discard(cancel)

    @staticmethod
    def _check() -> None:
        if _process.exiting:
            raise BackendUnavailable("Python exits", backend="") from None

    def cancel(self) -> None:
        """Cancel what may take long."""
        for cancel in list(self._cancels):
            cancel()

    def drain(self, until: float) -> None:
        """Wait until no other thread is inside, or until `time.monotonic()` reaches *until*."""
        while self._inside and time.monotonic() < until:
            time.sleep(0.001)

    def forget(self) -> None:
        """The threads inside exist in the parent only."""
        self._inside.clear()
        self._cancels.clear()


def close_at_exit(owner: Closable) -> None:
    """Close *owner* when Python exits, unless it is garbage by then, and abandon it in forked children.

    Raises:
        UnsupportedRuntime: this process was forked from one that has used the library. A new client works there in 98
            cases of 100; in the others a lock or a half imported module of the parent ends it or makes it hang.
    """
    import ctypes  # noqa: F401  # for `_never_release`: at the exit, or at a fork, an import may fail or never end

    with _process.lock:
        if _process.forked_in_use:
            raise UnsupportedRuntime(f"hybrid_llm was in use in a process that was forked into this one: {_FORK_HELP}")
        _process.used = True
        _process.open[owner] = None


def _never_release(owners: Iterable[Closable]) -> None:
    """Let none of *owners* ever be garbage: what would release them waits for threads that do not exist."""
    objects = list(owners)
    if objects:
        import ctypes

        for each in objects:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


native: Final = _Native()
_process: Final = _Process()
atexit.register(lambda: _process.end())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _process.lock.acquire(),
        after_in_parent=lambda: _process.lock.release(),
        after_in_child=lambda: _process.forked(),
    )

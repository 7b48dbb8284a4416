"""Work in a thread, waited for by a thread or an event loop for as long as either has time; and what is never closed.

A caller that stops waiting leaves the work running; whatever it raises later is reported to nobody.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from _thread import start_new_thread
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import Generic, TypeVar

T = TypeVar("T")


def in_thread(name: str, call: Callable[[], T]) -> Future[T]:
    """Start *call* in a daemon thread of its own, with the context variables of the caller."""
    work: Future[T] = Future()
    context = copy_context()

    def run() -> None:
        try:
            work.set_result(context.run(call))
        except BaseException as error:  # noqa: BLE001  # who waits raises it
            work.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return work


async def awaited(work: Future[T]) -> T:
    """Wait for *work* without blocking the event loop; cancelling the task does not stop it."""
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()

    def arrive() -> None:
        if not arrived.done():
            arrived.set_result(None)

    def wake(_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(arrive)

    # Not `asyncio.wrap_future`: the exception of a future that nobody waits for any more would be logged.
    work.add_done_callback(wake)
    await arrived
    return work.result()


class Once(Generic[T]):
    """A value that one thread makes when it is first needed, however many callers wait; a failure is tried again."""

    def __init__(self, name: str, make: Callable[[], T]) -> None:
        self._name = name
        self._make = make
        self._lock = threading.Lock()
        self._work: Future[T] | None = None

    def begin(self) -> Future[T]:
        """The work that makes the value, begun if need be."""
        with self._lock:
            work = self._work
            if work is None or (work.done() and work.exception() is not None):
                work = self._work = in_thread(self._name, self._make)
            return work


def release_dropped(owner: object, what: str, release: Callable[[], object]) -> None:
    """Release what an *owner* holds that becomes garbage without having been closed, and warn; for its `__del__`.

    The release runs in a thread: garbage is collected wherever an allocation happens to be made, under any lock.
    """

    def begin() -> None:
        threading.Thread(target=release, name="hybrid-llm-release", daemon=True).start()

    with suppress(RuntimeError):  # Python exits, and ends every thread
        start_new_thread(begin, ())  # `Thread.start` waits for locks, which the interrupted code may hold
    warnings.warn(f"unclosed {what}; call close, or use it in a with statement", ResourceWarning, 2, source=owner)

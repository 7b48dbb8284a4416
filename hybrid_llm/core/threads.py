"""Work in a thread, waited for by a thread or an event loop for as long as either has time; and what is never closed.

A caller that stops waiting leaves the work running; whatever it raises later is reported to nobody.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from _thread import start_new_thread
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Final, Generic, Protocol, TypeVar

from hybrid_llm.core.errors import HybridLLMError

T = TypeVar("T")
_THREADS: Final = 4
caller_left: ContextVar[threading.Event | None] = ContextVar("caller_left", default=None)
"""Set in a thread that works for an event loop: whether the caller has been cancelled, so that the work may end."""


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


class Aside(Protocol):
    """How blocking work is done: in a thread for a caller with an event loop, at once for one without."""

    def __call__(self, call: Callable[[], T], drop: Callable[[T], object]) -> Awaitable[T]:
        """The result of *call*; *drop* gets a result that the caller did not wait for."""
        ...


async def at_once(call: Callable[[], T], drop: Callable[[T], object]) -> T:  # noqa: ARG001  # the Protocol's signature
    """Do *call* in the thread of a caller that has no event loop."""
    return call()


class Workers:
    """The few threads of a client, started when needed, for what would block an event loop: scanning, deciding."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False

    async def run(self, call: Callable[[], T], drop: Callable[[T], object]) -> T:
        """Do *call* in a thread, with the context variables of the caller, and wait for it.

        If the caller is cancelled, it does not wait: work that has begun is told at its next `check_deadline`, and
        *drop* gets what it returns all the same.
        """
        left = threading.Event()
        context = copy_context()
        context.run(caller_left.set, left)
        work = self._submit(lambda: context.run(call))
        try:
            return await awaited(work)
        except CancelledError:
            raise _closed() from None
        except BaseException:
            if not work.done() or not work.cancelled():
                left.set()
                work.cancel()
                work.add_done_callback(lambda done: _drop(done, drop))
            raise

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._closed:
                raise _closed()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="hybrid-llm-route")
            return self._executor.submit(call)

    def close(self) -> None:
        """Do nothing more; what waits for a thread ends with an error. Idempotent."""
        with self._lock:
            executor, self._executor, self._closed = self._executor, None, True
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)


def _drop(done: Future[T], drop: Callable[[T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        drop(done.result())


def _closed() -> HybridLLMError:
    return HybridLLMError("this client is closed; make a new one")

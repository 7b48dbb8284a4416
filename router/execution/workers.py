"""The few threads in which a client does what would block an event loop: scanning, counting, replacing, deciding."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Final, Protocol, TypeVar

from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.request import caller_left
from hybrid_llm.core.threads import awaited

T = TypeVar("T")
_THREADS: Final = 4


class Aside(Protocol):
    """How blocking work is done: in a thread for a caller with an event loop, at once for one without."""

    def __call__(self, call: Callable[[], T], drop: Callable[[T], object]) -> Awaitable[T]:
        """The result of *call*; *drop* gets a result that the caller did not wait for."""
        ...


async def at_once(call: Callable[[], T], drop: Callable[[T], object]) -> T:  # noqa: ARG001  # the Protocol's signature
    """Do *call* in the thread of a caller that has no event loop."""
    return call()


class Workers:
    """At most four threads, started when they are needed."""

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

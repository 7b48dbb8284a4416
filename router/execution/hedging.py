"""Hedging: several calls of one round at once, as tasks of an event loop, which sync callers get in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

from hybrid_llm.core.errors import BackendUnavailable
from hybrid_llm.core.threads import started
from hybrid_llm.router.execution.call import Attempt

T = TypeVar("T")
_PATIENCE_S: Final = 5.0
"""How long a caller that leaves waits for the work to end, seconds."""
_Item = tuple[T | None, BaseException | None]


@dataclass(slots=True)
class TaskRace:
    """A race of tasks in the running event loop. Cancelling one also stops the backend's work."""

    _tasks: dict[asyncio.Task[None], Attempt] = field(default_factory=dict)

    @property
    def running(self) -> int:
        """Tasks that `ready` has not returned yet."""
        return len(self._tasks)

    def start(self, attempt: Attempt) -> None:
        """Let *attempt* run beside the others."""
        self._tasks[asyncio.create_task(attempt.begin())] = attempt

    async def ready(self, timeout: float | None) -> Attempt | None:
        """The first attempt with a chunk or an error; of several, the one that began first."""
        await asyncio.wait(self._tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        done = next((task for task in self._tasks if task.done()), None)
        if done is None:
            return None
        attempt = self._tasks.pop(done)
        done.result()
        return attempt

    async def stop(self) -> list[Attempt]:
        """Cancel the tasks, wait until they have ended, and close their streams."""
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task.cancel()
        for task, attempt in tasks.items():
            with suppress(asyncio.CancelledError, Exception):
                await task
            await attempt.stream.aclose()
        return list(tasks.values())


class LoopThread:
    """One daemon thread with an event loop, started by the first use. Safe to use from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._lock = threading.Lock()

    def _begin(self, work: _Work[Any]) -> asyncio.AbstractEventLoop:
        """Start *work* in the loop. What is begun before `close` also ends: the loop takes calls in order."""
        with self._lock:
            if self._closed:
                raise _closed()
            if self._loop is None:
                loop = asyncio.new_event_loop()
                try:
                    started(_run, loop, name="hybrid-llm-loop")
                except RuntimeError:
                    loop.close()
                    raise BackendUnavailable("this process can start no further thread", backend="") from None
                self._loop = loop
            self._loop.call_soon_threadsafe(work.begin, self._loop)
            return self._loop

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
        """Yield the items of the async iterator that *make* returns, run in the loop; closing the generator cancels it.

        Raises:
            BackendUnavailable: the loop was closed meanwhile; else whatever the iterator raises.
        """
        work = _Work(make)
        loop = self._begin(work)
        try:
            while True:
                item, error = work.items.get()
                if isinstance(error, StopAsyncIteration):
                    return
                if isinstance(error, asyncio.CancelledError):
                    raise _closed() from None
                if error is not None:
                    raise error
                yield item  # type: ignore[misc]  # an item, since it is no error
        finally:
            item = error = None  # an error and the frame that raised it would hold each other
            if not work.over.is_set():
                with suppress(RuntimeError):  # the loop is closed, and has ended the work
                    loop.call_soon_threadsafe(work.cancel)
                work.over.wait(_PATIENCE_S)

    def close(self) -> None:
        """Cancel what runs, then stop the loop. Idempotent."""
        with self._lock:
            loop, self._loop, self._closed = self._loop, None, True
            if loop is not None:
                loop.call_soon_threadsafe(loop.stop)

    def __del__(self) -> None:
        if (loop := getattr(self, "_loop", None)) is not None:
            loop.call_soon_threadsafe(loop.stop)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(_end_all())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _closed() -> BackendUnavailable:
    return BackendUnavailable("the client is closed", backend="", reason="closed")


async def _end_all() -> None:
    """Cancel every task, and wait until each has reported to its caller."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Work(Generic[T]):
    """The items of the async iterator that *make* returns, pulled in an event loop and put into *items*.

    Its end is reported by the task, which may be cancelled before its first step.
    """

    def __init__(self, make: Callable[[], AsyncIterator[T]]) -> None:
        self._make = make
        self._task: asyncio.Task[None] | None = None
        self.items: SimpleQueue[_Item[T]] = SimpleQueue()
        self.over = threading.Event()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start; in the loop."""
        self._task = loop.create_task(self._pump())
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Stop; in the loop."""
        if self._task is not None:
            self._task.cancel()

    async def _pump(self) -> None:
        made = self._make()
        try:
            async for item in made:
                self.items.put((item, None))
        finally:
            close: Any = getattr(made, "aclose", None)
            if close is not None:
                await close()

    def _end(self, task: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._task = None
        self.items.put((None, error or StopAsyncIteration()))
        self.over.set()

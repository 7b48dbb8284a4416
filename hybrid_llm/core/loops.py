"""An event loop in a thread of its own, for callers that have none, and for work that belongs to none of theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

from hybrid_llm.core.errors import BackendUnavailable
from hybrid_llm.core.threads import started

T = TypeVar("T")
_PATIENCE_S: Final = 5.0
"""How long a caller that leaves waits for the work to end, seconds."""
_Item = tuple[T | None, BaseException | None]


class LoopThread:
    """One daemon thread with an event loop, started by the first use. Safe to use from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: set[asyncio.Task[None]] = set()
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
                    started(_run, loop, self._running, name="hybrid-llm-loop")
                except RuntimeError:
                    loop.close()
                    raise BackendUnavailable("this process can start no further thread", backend="") from None
                self._loop = loop
            self._loop.call_soon_threadsafe(work.begin, self._loop, self._running)
            return self._loop

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
        """Yield the items of the async iterator that *make* returns, run in the loop; closing the generator cancels it.

        Raises:
            BackendUnavailable: the loop was closed meanwhile; else whatever the iterator raises.
        """
        items: SimpleQueue[_Item[T]] = SimpleQueue()
        work = _Work(make, items.put)
        loop = self._begin(work)
        try:
            while True:
                item, error = items.get()
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

    async def aiterate(self, make: Callable[[], AsyncIterator[T]]) -> AsyncGenerator[T, None]:
        """Do as `iterate` does, without blocking the caller's event loop."""
        here = asyncio.get_running_loop()
        items: asyncio.Queue[_Item[T]] = asyncio.Queue()

        def deliver(item: _Item[T]) -> None:
            with suppress(RuntimeError):  # the caller's loop is closed: nobody waits
                here.call_soon_threadsafe(items.put_nowait, item)

        work = _Work(make, deliver)
        loop = self._begin(work)
        error: BaseException | None = None
        try:
            while True:
                item, error = await items.get()
                if isinstance(error, StopAsyncIteration):
                    return
                if isinstance(error, asyncio.CancelledError):
                    raise _closed() from None
                if error is not None:
                    raise error
                yield item  # type: ignore[misc]  # an item, since it is no error
        finally:
            item = None
            if error is None:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(work.cancel)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE_S):
                        while (await items.get())[1] is None:
                            pass
            error = None

    def close(self) -> None:
        """Cancel what runs, then stop the loop. Idempotent."""
        with self._lock:
            loop, self._loop, self._closed = self._loop, None, True
            if loop is not None:
                loop.call_soon_threadsafe(loop.stop)

    def __del__(self) -> None:
        if (loop := getattr(self, "_loop", None)) is not None:
            loop.call_soon_threadsafe(loop.stop)


def _run(loop: asyncio.AbstractEventLoop, running: set[asyncio.Task[None]]) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(_end(running))
        loop.run_until_complete(_end(asyncio.all_tasks(loop)))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _closed() -> BackendUnavailable:
    return BackendUnavailable("the client is closed", backend="", reason="closed")


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel *tasks*, and wait until each has reported to its caller.

    Those that they have started are theirs to end: one that is cancelled before its first step would leave a coroutine
    that nobody awaits, and Python says so.
    """
    ending = tuple(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


class _Work(Generic[T]):
    """The items of the async iterator that *make* returns, pulled in an event loop and handed to *deliver*.

    Its end is reported by the task, which may be cancelled before its first step.
    """

    def __init__(self, make: Callable[[], AsyncIterator[T]], deliver: Callable[[_Item[T]], object]) -> None:
        self._make = make
        self._deliver = deliver
        self._task: asyncio.Task[None] | None = None
        self.over = threading.Event()

    def begin(self, loop: asyncio.AbstractEventLoop, running: set[asyncio.Task[None]]) -> None:
        """Start; in the loop. The task is in *running* until it ends."""
        self._task = loop.create_task(self._pump())
        running.add(self._task)
        self._task.add_done_callback(running.discard)
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Stop; in the loop."""
        if self._task is not None:
            self._task.cancel()

    async def _pump(self) -> None:
        made = self._make()
        try:
            async for item in made:
                self._deliver((item, None))
        finally:
            close: Any = getattr(made, "aclose", None)
            if close is not None:
                await close()

    def _end(self, task: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._task = None
        self._deliver((None, error or StopAsyncIteration()))
        self.over.set()

"""Run the async core for callers that have no event loop: the generators are stepped by hand, in the caller's thread.

The core awaits nothing but what is injected here, so one `send(None)` runs each step to its end (0.4 us; an event loop
in a background thread would cost 26 us).

An event loop in a thread of its own, for synchronous callers whose request needs several things at once: hedging.

A request that needs no hedge never comes here: it is stepped in the caller's thread, which is cheaper.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from hybrid_llm.core.errors import BackendUnavailable

T = TypeVar("T")


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine*, which never really waits, to its end and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("the core awaited something that a synchronous call cannot wait for")


async def blocking_sleep(seconds: float) -> None:
    """Sleep in the caller's thread."""
    time.sleep(seconds)


async def stepped(items: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Show a plain generator to the core as an async one; closing it closes the plain one, in the same step."""
    try:
        for item in items:
            yield item
    finally:
        items.close()


def iterate(items: AsyncIterator[T]) -> Generator[T, None, None]:
    """Show the core's async generator as a plain one."""
    try:
        while True:
            try:
                yield finish(_anext(items))
            except StopAsyncIteration:
                return
    finally:
        if isinstance(items, AsyncGenerator):
            finish(_aclose(items))


async def _anext(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def _aclose(items: AsyncGenerator[Any, Any]) -> None:
    await items.aclose()


_PATIENCE_S: Final = 5.0
"""Longest that a caller who leaves waits for the work to end."""
_Item = tuple[T | None, BaseException | None]


class LoopThread:
    """One daemon thread with an event loop, started by the first use. Safe to use from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._lock = threading.Lock()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise _closed()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, args=(self._loop,), name="hybrid-llm-loop", daemon=True).start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(_end_all())
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
        """The items of what *make* gives, which runs in the loop; closing the generator cancels it and waits for it.

        Raises:
            BackendUnavailable: this was closed meanwhile. Whatever *make* raises, else.
        """
        loop = self._started()
        items: SimpleQueue[_Item[T]] = SimpleQueue()
        over = threading.Event()
        work = asyncio.run_coroutine_threadsafe(_pump(make, items, over), loop)
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
            work.cancel()
            over.wait(_PATIENCE_S)

    def close(self) -> None:
        """Cancel what runs, then stop the loop. Twice is once."""
        with self._lock:
            loop, self._loop, self._closed = self._loop, None, True
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)


def _closed() -> BackendUnavailable:
    return BackendUnavailable("the client is closed", backend="")


async def _end_all() -> None:
    """Cancel every task, and wait until its caller has been told."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(make: Callable[[], AsyncIterator[T]], items: SimpleQueue[_Item[T]], over: threading.Event) -> None:
    made = make()
    try:
        async for item in made:
            items.put((item, None))
        items.put((None, StopAsyncIteration()))
    except BaseException as error:  # noqa: BLE001  # whatever it is, the caller's thread raises it
        items.put((None, error))
    finally:
        close: Any = getattr(made, "aclose", None)
        try:
            if close is not None:
                await close()
        finally:
            over.set()

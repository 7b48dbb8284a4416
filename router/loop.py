"""An event loop in a thread of its own, for synchronous callers whose request needs several things at once: hedging.

A request that needs no hedge never comes here: it is stepped in the caller's thread (`router.drive`), which is cheaper.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from hybrid_llm.router.errors import BackendUnavailable

__all__ = ["LoopThread"]

T = TypeVar("T")
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

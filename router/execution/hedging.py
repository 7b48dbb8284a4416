"""Waits for the first chunk of one backend, or of several that race. It knows neither policy nor budget.

`OneByOne` waits for one at a time and awaits nothing of asyncio, so that synchronous callers can step it. `TaskRace`
waits for several at once, in an event loop; who is not chosen is cancelled, and with it the work on the other side.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeVar

from hybrid_llm.core.errors import BackendUnavailable, HybridLLMError, StreamInterrupted
from hybrid_llm.core.generation import Chunk

T = TypeVar("T")
_PATIENCE_S: Final = 5.0
"""Longest that a caller who leaves waits for the work to end."""
_Item = tuple[T | None, BaseException | None]


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """One call of one backend: its *stream*, when it *began*, and then its *first* chunk or its *error*."""

    name: str
    stream: AsyncGenerator[Chunk, None]
    began: float
    hedge: bool = False
    """It was started beside one that was silent."""
    first: Chunk | None = None
    error: HybridLLMError | None = None

    async def next(self) -> Chunk:
        """The next chunk.

        Raises:
            StreamInterrupted: the stream ended, and its last chunk had no finish reason.
        """
        try:
            return await anext(self.stream)
        except StopAsyncIteration:
            message = f"{self.name} ended its stream without a finish reason"
            raise StreamInterrupted(message, backend=self.name) from None

    async def begin(self) -> None:
        """Wait for *first* or *error*."""
        try:
            self.first = await self.next()
        except HybridLLMError as error:
            self.error = error


class Race(Protocol):
    """The lanes of one round."""

    @property
    def running(self) -> int:
        """How many lanes have neither a chunk nor an error yet."""
        ...

    def start(self, lane: Attempt) -> None:
        """Let *lane* run."""
        ...

    async def ready(self, timeout: float | None) -> Attempt | None:
        """A lane that has its first chunk or has failed; None when *timeout* seconds are over."""
        ...

    async def stop(self) -> list[Attempt]:
        """Cancel what still runs, and return it."""
        ...


class OneByOne:
    """A race of one: `ready` waits for the lane that was started, however long it takes."""

    def __init__(self) -> None:
        self._lanes: list[Attempt] = []

    @property
    def running(self) -> int:
        """Started, and not waited for yet."""
        return len(self._lanes)

    def start(self, lane: Attempt) -> None:
        """Let *lane* run when it is waited for."""
        self._lanes.append(lane)

    async def ready(self, timeout: float | None) -> Attempt | None:  # noqa: ARG002  # nobody else could be started
        """The lane, with its first chunk or its error."""
        await self._lanes[0].begin()
        return self._lanes.pop(0)

    async def stop(self) -> list[Attempt]:
        """What was waited for when the caller left; it is closed already."""
        stopped, self._lanes = self._lanes, []
        return stopped


@dataclass(slots=True)
class TaskRace:
    """A race of tasks, in the running event loop."""

    clock: Callable[[], float] = time.monotonic
    _tasks: dict[asyncio.Task[None], Attempt] = field(default_factory=dict)

    @property
    def running(self) -> int:
        """Tasks that are not over, or whose end was not looked at yet."""
        return len(self._tasks)

    def start(self, lane: Attempt) -> None:
        """Let *lane* run beside the others."""
        self._tasks[asyncio.create_task(lane.begin())] = lane

    async def ready(self, timeout: float | None) -> Attempt | None:
        """The first lane that has a chunk or an error; the one that began first where several have."""
        await asyncio.wait(self._tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        done = next((task for task in self._tasks if task.done()), None)
        if done is None:
            return None
        lane = self._tasks.pop(done)
        done.result()
        return lane

    async def stop(self) -> list[Attempt]:
        """Cancel the tasks, wait until they are over, and close their streams."""
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task.cancel()
        for task, lane in tasks.items():
            with suppress(asyncio.CancelledError, Exception):
                await task
            await lane.stream.aclose()
        return list(tasks.values())


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

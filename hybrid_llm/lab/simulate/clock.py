"""A virtual clock that runs coroutines: they sleep for simulated seconds, and no real time passes.

It does not use asyncio. The router's attempts await only what is injected, so they run on it unchanged:
`Clock.sleep` pauses them and `VirtualRace` lets several calls run at once.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress

from hybrid_llm.router.execution.call import Attempt


class Cancelled(BaseException):
    """Raised inside a task that `Clock.cancel` ends."""


class Wait:
    """What one task awaits. `Clock.wake` ends it, with an error that the task then raises or without."""

    __slots__ = ("error", "over", "task")

    def __init__(self) -> None:
        self.over = False
        self.error: Exception | None = None
        self.task: Task | None = None

    def __await__(self) -> Generator[Wait, None, None]:
        if not self.over:
            yield self
        if self.error is not None:
            raise self.error


class Task:
    """A coroutine on the clock. Tasks that it spawns have the same *owner*."""

    __slots__ = ("coroutine", "done", "on_done", "owner")

    def __init__(self, coroutine: Coroutine[Wait, None, None], owner: object) -> None:
        self.coroutine = coroutine
        self.owner = owner
        self.done = False
        self.on_done: Callable[[], None] | None = None


class Clock:
    """Simulated time, and the tasks that run on it. The simulation sets *now* and calls `run_due`."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the start of the trace."""
        self.current: Task | None = None
        """The task that runs now."""
        self._timers: list[tuple[float, int, Wait]] = []
        self._count = 0
        self._ready: deque[Task] = deque()

    def time(self) -> float:
        """Return *now*: the clock to inject."""
        return self.now

    @property
    def due(self) -> float:
        """When the next timer ends; infinity without one."""
        return self._timers[0][0] if self._timers else math.inf

    def timer(self, at: float) -> Wait:
        """Return a timer to await that ends at *at*; timers of the same instant end in the order of creation."""
        wait = Wait()
        self._count += 1
        heapq.heappush(self._timers, (at, self._count, wait))
        return wait

    async def sleep(self, seconds: float) -> None:
        """Pause the task."""
        await self.timer(self.now + seconds)

    def wake(self, wait: Wait, error: Exception | None = None) -> None:
        """End *wait*, once; its task resumes, or raises *error*, after the tasks that are ready now."""
        if wait.over:
            return
        wait.over, wait.error = True, error
        if wait.task is not None:
            self._ready.append(wait.task)

    def spawn(self, coroutine: Coroutine[Wait, None, None], owner: object = None) -> Task:
        """Run *coroutine* as a task, after those that are ready now."""
        if owner is None and self.current is not None:
            owner = self.current.owner
        task = Task(coroutine, owner)
        self._ready.append(task)
        return task

    def cancel(self, task: Task) -> None:
        """End *task* now; it may clean up but not wait. Idempotent."""
        if task.done:
            return
        task.done, before, self.current = True, self.current, task
        # throw() and not close(): before Python 3.13 close() does not reach an async generator that is being iterated.
        with suppress(Cancelled, StopIteration):
            task.coroutine.throw(Cancelled())
        self.current = before

    def run_due(self) -> None:
        """Run the tasks that are ready, then end the timers that are due and run what awaits them."""
        self._run_ready()
        while self.due <= self.now:
            self.wake(heapq.heappop(self._timers)[2])
            self._run_ready()

    def _run_ready(self) -> None:
        while self._ready:
            self._step(self._ready.popleft())

    def _step(self, task: Task) -> None:
        if task.done:
            return
        self.current = task
        try:
            task.coroutine.send(None).task = task
        except StopIteration:
            task.done = True
            if task.on_done is not None:
                task.on_done()
        finally:
            self.current = None


class VirtualRace:
    """A race of calls on a `Clock`, as `router.execution.hedging.TaskRace` is in an event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: dict[Task, Attempt] = {}
        self._news = Wait()

    @property
    def running(self) -> int:
        """Calls that `ready` has not returned yet."""
        return len(self._tasks)

    def start(self, attempt: Attempt) -> None:
        """Start *attempt* beside the others."""
        task = self._clock.spawn(attempt.begin())
        task.on_done = lambda: self._clock.wake(self._news)
        self._tasks[task] = attempt

    async def ready(self, timeout: float | None) -> Attempt | None:
        """The first attempt that has a chunk or an error; None when *timeout* seconds are over."""
        if not any(task.done for task in self._tasks):
            self._news = Wait() if timeout is None else self._clock.timer(self._clock.now + timeout)
            await self._news
        done = next((task for task in self._tasks if task.done), None)
        return None if done is None else self._tasks.pop(done)

    async def stop(self) -> list[Attempt]:
        """Cancel what still runs, and return it."""
        tasks, self._tasks = self._tasks, {}
        for task, attempt in tasks.items():
            self._clock.cancel(task)
            await attempt.stream.aclose()
        return list(tasks.values())

"""Hedging: several calls of one round at once, as tasks of an event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from hybrid_llm.router.execution.call import Attempt


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

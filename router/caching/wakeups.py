"""How a caller waits for what another thread or event loop does: a thread blocks, a task does not block its loop."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Protocol

from hybrid_llm.core.threads import in_event_loop


class Wakeup(Protocol):
    """One caller that waits, again and again."""

    def wake(self) -> None:
        """Let it look again; from any thread."""
        ...

    def clear(self) -> None:
        """Forget earlier calls of `wake`: the caller is about to look."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Wait until `wake` is called, or for *timeout_s*."""
        ...


class ThreadWakeup:
    """Blocks the caller's thread; the core steps it, so that it awaits nothing of asyncio."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.wake = self._event.set
        self.clear = self._event.clear

    async def wait(self, timeout_s: float) -> None:
        """Block."""
        self._event.wait(timeout_s)


class LoopWakeup:
    """Suspends a task of the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.clear = self._event.clear

    def wake(self) -> None:
        """Wake the task; a loop that is closed has none."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float) -> None:
        """Suspend."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()


def thread_wakeup() -> Wakeup | None:
    """For a caller without an event loop; None in the thread of one: what is waited for may need that loop to run."""
    return None if in_event_loop() else ThreadWakeup()

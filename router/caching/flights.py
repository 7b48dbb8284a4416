"""One answer that several identical requests wait for: its chunks so far, and who generates the rest.

The first request leads: it calls a backend and publishes what arrives. The others follow. A leader that fails, leaves
or stops taking chunks loses the lead; the next follower takes it, and generates the answer once more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Hashable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from hybrid_llm.core.errors import StreamInterrupted
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.threads import in_event_loop
from hybrid_llm.router.execution.answer import Run

PATIENCE_S: Final = 0.25
"""How long followers wait for a leader whose app takes no further chunk, seconds."""


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


Wakeup = ThreadWakeup | LoopWakeup
"""One caller that waits for what another does: `clear`, look, then `wait` until `wake` is called, from any thread."""


def thread_wakeup() -> Wakeup | None:
    """For a caller without an event loop; None in the thread of one: what is waited for may need that loop to run."""
    return None if in_event_loop() else ThreadWakeup()


class Flight:
    """The chunks of one answer in progress. Thread-safe."""

    def __init__(self, key: Hashable) -> None:
        self.key: Final = key
        self.users = 0
        """Requests that lead or follow; `Flights` counts them."""
        self._lock = threading.Lock()
        self._chunks: list[Chunk] = []
        self.source: Run | None = None
        """What generates the chunks, or did last."""
        self._is_led = False
        self._paused_at: float | None = None
        self._wakeups: list[Wakeup] = []

    def take_lead(self, leader: Run) -> bool:
        """Let *leader* generate the answer, unless another one does or it is whole."""
        with self._lock:
            if self._is_led or self.is_whole:
                return False
            self.source, self._is_led, self._paused_at = leader, True, None
            return True

    def publish(self, leader: Run, chunk: Chunk) -> None:
        """Hand *chunk* of *leader* to the followers; ignored of one that lost the lead."""
        with self._lock:
            if not self._leads(leader):
                return
            self._chunks.append(chunk)
            self._wake()

    def pause(self, leader: Run) -> None:
        """The app of *leader* has a chunk, and has not asked for the next one yet."""
        if self._leads(leader):
            self._paused_at = time.monotonic()

    def resume(self, leader: Run) -> None:
        """The app of *leader* asks for the next chunk."""
        if self._leads(leader):
            self._paused_at = None

    def drop_lead(self, leader: Run) -> None:
        """*leader* generates no more; whoever follows may take the lead."""
        with self._lock:
            if not self._leads(leader):
                return
            self._is_led = False
            self._wake()

    def patience_s(self) -> float | None:
        """How long to wait for the app of the leader; None while a backend is waited for, 0 if nobody leads.

        A leader whose app has taken no chunk for `PATIENCE_S` loses the lead.
        """
        with self._lock:
            if not self._is_led or self._paused_at is None:
                return None if self._is_led else 0.0
            left = max(0.0, self._paused_at + PATIENCE_S - time.monotonic())
            self._is_led = left > 0.0
            return left

    def _leads(self, leader: Run) -> bool:
        return self._is_led and self.source is leader

    def _wake(self) -> None:
        for wakeup in self._wakeups:
            wakeup.wake()

    def chunk(self, position: int) -> Chunk | None:
        """The chunk at *position*, if it is there."""
        return self._chunks[position] if position < len(self._chunks) else None

    def published(self) -> tuple[Chunk, ...]:
        """All chunks so far."""
        return tuple(self._chunks)

    def attach(self, wakeup: Wakeup) -> None:
        """Wake *wakeup* at each change."""
        with self._lock:
            self._wakeups.append(wakeup)

    def detach(self, wakeup: Wakeup) -> None:
        """Wake it no more."""
        with self._lock:
            self._wakeups.remove(wakeup)

    @property
    def is_whole(self) -> bool:
        """Whether the last chunk is there."""
        return bool(self._chunks) and self._chunks[-1].finish_reason is not None


class Flights:
    """The answers in progress of one client, by what distinguishes requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Flight] = {}

    def join(self, key: Hashable) -> Flight:
        """The answer in progress under *key*, or a new one."""
        with self._lock:
            flight = self._flights.setdefault(key, Flight(key))
            flight.users += 1
            return flight

    def leave(self, flight: Flight, run: Run | None = None) -> None:
        """A request is over. Once the one that generated the answer leaves, or the last one, nobody joins it."""
        with self._lock:
            flight.users -= 1
            is_done = flight.is_whole and flight.source is run
            if (is_done or not flight.users) and self._flights.get(flight.key) is flight:
                del self._flights[flight.key]


class Overlap:
    """What an app already has of an answer that is generated once more: it must not get it twice, nor two halves."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        known = tuple(chunks)
        self._known = ["".join([each.text for each in known]), "".join([each.reasoning for each in known])]

    def rest(self, chunk: Chunk, backend: str) -> Chunk | None:
        """What is new in *chunk*; None if nothing is.

        Raises:
            StreamInterrupted: *backend* writes something else than the app has.
        """
        if not any(self._known):
            return chunk
        new = [chunk.text, chunk.reasoning]
        is_same = all(map(_begin_alike, new, self._known))
        rest = [piece[len(known) :] for piece, known in zip(new, self._known, strict=True)]
        self._known = [known[len(piece) :] for piece, known in zip(new, self._known, strict=True)]
        if not is_same or (chunk.finish_reason is not None and any(self._known)):
            text = f"the request that generated this answer ended, and {backend} writes another one: ask again"
            raise StreamInterrupted(text, backend=backend, received_tokens=0)
        if chunk.finish_reason is None and not any(rest):
            return None
        return replace(chunk, text=rest[0], reasoning=rest[1])


def _begin_alike(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)

"""One answer that several identical requests wait for: its chunks so far, and who generates the rest.

The first request leads: it calls a backend and publishes what arrives. The others follow. A leader that fails, leaves
or stops taking chunks loses the lead; the next follower takes it, and generates the answer once more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Final

from hybrid_llm.core.errors import StreamInterrupted
from hybrid_llm.core.generation import Chunk
from hybrid_llm.router.caching.wakeups import Wakeup
from hybrid_llm.router.execution.answer import Run

PATIENCE_S: Final = 0.25
"""How long followers wait for a leader whose app takes no further chunk, seconds."""


class Flight:
    """The chunks of one answer in progress. Thread-safe."""

    def __init__(self) -> None:
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
            if self._is_led or self._is_whole:
                return False
            self.source, self._is_led, self._paused_at = leader, True, None
            return True

    def publish(self, leader: Run, chunk: Chunk) -> None:
        """Hand *chunk* of *leader* to the followers; ignored of one that lost the lead."""
        with self._lock:
            if not self._leads(leader):
                return
            self._chunks.append(chunk)
            waiting = tuple(self._wakeups)
        _wake(waiting)

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
            waiting = tuple(self._wakeups)
        _wake(waiting)

    def is_free(self) -> bool:
        """Whether nobody leads: also not one whose app has taken no chunk for `PATIENCE_S`, which loses the lead."""
        with self._lock:
            if self._paused_at is not None and time.monotonic() - self._paused_at >= PATIENCE_S:
                self._is_led = False
            return not self._is_led

    def _leads(self, leader: Run) -> bool:
        return self._is_led and self.source is leader

    @property
    def patience_s(self) -> float | None:
        """How long to wait for the app of the leader; None while a backend is waited for."""
        paused_at = self._paused_at
        return None if paused_at is None else max(0.0, paused_at + PATIENCE_S - time.monotonic())

    def chunk(self, position: int) -> Chunk | None:
        """The chunk at *position*, if it is there."""
        return self._chunks[position] if position < len(self._chunks) else None

    def published(self) -> tuple[Chunk, ...]:
        """All chunks so far."""
        with self._lock:
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
    def _is_whole(self) -> bool:
        return bool(self._chunks) and self._chunks[-1].finish_reason is not None


def _wake(waiting: Iterable[Wakeup]) -> None:
    for wakeup in waiting:
        wakeup.wake()


class Flights:
    """The answers in progress of one client, by what distinguishes requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Flight] = {}
        self.ended = 0
        """How many are over: their answers may be cached by now."""

    def join(self, key: Hashable) -> Flight:
        """The answer in progress under *key*, or a new one."""
        with self._lock:
            flight = self._flights.setdefault(key, Flight())
            flight.users += 1
            return flight

    def leave(self, key: Hashable, flight: Flight, *, led: bool) -> None:
        """A request is over. Once the one that generated the answer leaves, or the last one, nobody joins it."""
        with self._lock:
            flight.users -= 1
            if (led or not flight.users) and self._flights.get(key) is flight:
                del self._flights[key]
                self.ended += 1


class Overlap:
    """What an app already has of an answer that is generated once more: it must not get it twice, nor two halves."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        known = tuple(chunks)
        self._text = "".join([each.text for each in known])
        self._reasoning = "".join([each.reasoning for each in known])

    def rest(self, chunk: Chunk, backend: str) -> Chunk | None:
        """What is new in *chunk*; None if nothing is.

        Raises:
            StreamInterrupted: *backend* writes something else than the app has.
        """
        if not self._text and not self._reasoning:
            return chunk
        text, self._text = _beyond(chunk.text, self._text, backend)
        reasoning, self._reasoning = _beyond(chunk.reasoning, self._reasoning, backend)
        if chunk.finish_reason is not None:
            if self._text or self._reasoning:
                raise _differs(backend)
        elif not text and not reasoning:
            return None
        return replace(chunk, text=text, reasoning=reasoning)


def _beyond(new: str, known: str, backend: str) -> tuple[str, str]:
    """What *new* has beyond *known*, and what *known* has beyond *new*."""
    length = min(len(new), len(known))
    if new[:length] != known[:length]:
        raise _differs(backend)
    return new[length:], known[length:]


def _differs(backend: str) -> StreamInterrupted:
    text = f"the request that generated this answer ended, and {backend} writes another one: ask again"
    return StreamInterrupted(text, backend=backend, received_tokens=0)

"""Decides whether one more request is let in: overload is an answer at once, not a slow death.

A burst may fill the whole queue. A queue that stays is another matter: it makes every answer late and none more. So
the room for those who wait shrinks while they wait for longer than an answer takes, and grows again once a slot is
free (after Nichols and Jacobson, *Controlling Queue Delay*, 2012; additive increase, multiplicative decrease).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from hybrid_llm.backends.node.validation import NODE
from hybrid_llm.router.errors import BackendOverloaded

__all__ = ["Admission"]

_FIRST_GUESS_S = 1.0
_LEAST_WAIT_S = 0.05
"""To wait for less than this is no sign of overload, seconds."""
_WEIGHT = 0.2
_SHRINK = 0.7


class Admission:
    """Counts requests in flight, the ones that wait in the engine included. Not for threads: one event loop's own."""

    def __init__(self, *, max_queue: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_queue = max_queue
        self._clock = clock
        self._room = float(max_queue)
        self._in_flight = 0
        self._work_s = 0.0
        self._shrunk = float("-inf")

    @property
    def in_flight(self) -> int:
        """Requests that were let in and have not ended."""
        return self._in_flight

    @contextmanager
    def place(self, slots: int, remaining: float) -> Generator[None, None, None]:
        """Hold a place for one request while *slots* run at a time; *remaining* is what it has left, seconds.

        Raises:
            BackendOverloaded: slots and queue are full, or its time would pass in the queue; `retry_after` is when a
                place should be free.
        """
        limit = slots + max(int(self._room), min(self._max_queue, slots // 2))
        # Each request takes a slot for a while: one of them ends every duration / slots.
        each_s = self._work_s / max(slots, 1)
        if self._in_flight < slots:
            self._room = min(self._max_queue, self._room + 1.0)
        if self._in_flight >= limit or (self._in_flight - slots + 1) * each_s > remaining:
            raise self._overloaded(slots, each_s)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def _overloaded(self, slots: int, each_s: float) -> BackendOverloaded:
        retry_after = round(max(each_s or _FIRST_GUESS_S / max(slots, 1), 0.05), 3)
        text = f"the node is full: {self._in_flight} requests are running or waiting"
        return BackendOverloaded(text, backend=NODE, retry_after=retry_after)

    def took(self, waited_s: float, work_s: float) -> None:
        """Learn from a request that is over: how long it waited for a slot, and then held it."""
        self._work_s += (_WEIGHT if self._work_s else 1.0) * (work_s - self._work_s)
        if waited_s > max(self._work_s, _LEAST_WAIT_S):
            self._shrink()

    def expired(self) -> None:
        """The time of a request passed while it waited for a slot."""
        self._shrink()

    def _shrink(self) -> None:
        """Once in the time of an answer: those that are over now were let in before the last time."""
        if self._clock() - self._shrunk >= self._work_s / 4:
            self._room, self._shrunk = self._room * _SHRINK, self._clock()

"""Slots with a queue: who is served, who waits, who is turned away; it knows no time and no tokens."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Station"]

T = TypeVar("T")


class Station(Generic[T]):
    """First come, first served: at most *slots* at a time, at most *limit* waiting."""

    def __init__(self, slots: int, limit: int) -> None:
        self.slots = slots
        self._limit = limit
        self.active = 0
        self._waiting: OrderedDict[int, T] = OrderedDict()

    @property
    def queue(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def load(self) -> float:
        """Share of the slots in use, above 1 when some wait."""
        return (self.active + len(self._waiting)) / self.slots

    def enter(self, key: int, job: T) -> bool | None:
        """True: it may start. False: it waits. None: it is turned away."""
        if self.active < self.slots:
            self.active += 1
            return True
        if len(self._waiting) >= self._limit:
            return None
        self._waiting[key] = job
        return False

    def leave(self) -> T | None:
        """One is done; the next in the queue, if any, takes its slot and is returned."""
        if self._waiting:
            return self._waiting.popitem(last=False)[1]
        self.active -= 1
        return None

    def give_up(self, key: int) -> None:
        """One that waits does so no longer."""
        self._waiting.pop(key, None)

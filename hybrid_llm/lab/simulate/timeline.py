"""The clock of a run and the events that are due; what happens at one is the caller's."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar


class Stepping(Protocol):
    """What events happen to: *epoch* counts its steps."""

    epoch: int


S = TypeVar("S", bound=Stepping)


class Timeline:
    """Events in the order of time; those of the same instant in the order in which they were set."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the start of the trace."""
        self._events: list[tuple[float, int, Callable[[Any], None], Any, int]] = []
        self._count = 0

    def clock(self) -> float:
        """The time, as breakers ask for it."""
        return self.now

    @property
    def due(self) -> float:
        """When the next event is; infinity where there is none."""
        return self._events[0][0] if self._events else math.inf

    def at(self, when: float, action: Callable[[S], None], subject: S) -> None:
        """Set *action* of *subject* for *when*; it is void once the subject has taken another step."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, action, subject, subject.epoch))

    def play(self) -> None:
        """Do the next event, if it is not void."""
        _, _, action, subject, epoch = heapq.heappop(self._events)
        if epoch == subject.epoch:
            subject.epoch += 1
            action(subject)

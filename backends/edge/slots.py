"""Who may run now: a few requests at once, within a memory limit, the others in a short queue. Knows no model.

First come, first served: a request that waits for memory is not overtaken by a smaller one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

__all__ = ["Slots", "Ticket", "WaitResult"]

WaitResult = Literal["admitted", "expired", "cancelled"]
Spare = Callable[[int], object]

_LONGEST_SLEEP = 3600.0
"""Seconds; a deadline may be infinite, a wait on a condition may not."""


def _nothing(_spare: int) -> None:
    pass


class Ticket:
    """A place in the queue, then a slot. Leave it in a `finally`."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._bytes = 0
        self._admitted = False
        self._cancelled = False

    def wait(self, size: int, expires: float, then: Spare = _nothing) -> WaitResult:
        """Block until there is a slot and *size* bytes, or until `time.monotonic()` reaches *expires*.

        Once admitted *then* is told how many bytes nobody runs in, before they can change.
        """
        return self._slots._wait(self, size, expires, then)

    def cancel(self) -> None:
        """Make a `wait` that is going on, or the next one, return `cancelled`; from any thread."""
        self._slots._cancel(self)

    def leave(self, then: Spare = _nothing) -> None:
        """Give back the place, the slot and the memory; tell *then* as `wait` does. Twice is once."""
        self._slots._leave(self, then)


class Slots:
    """At most *concurrency* running, *queue* waiting, *memory* bytes in use."""

    def __init__(self, *, concurrency: int, queue: int, memory: int) -> None:
        self._concurrency, self._queue, self._memory = concurrency, queue, memory
        self._waiting: deque[Ticket] = deque()
        self._running: set[Ticket] = set()
        self._used = 0
        self._changed = threading.Condition()

    @property
    def active(self) -> int:
        """Requests that run."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def enter(self) -> Ticket | None:
        """Take a place at the end of the queue; None when it is full. Never blocks."""
        with self._changed:
            if len(self._running) + len(self._waiting) >= self._concurrency + self._queue:
                return None
            ticket = Ticket(self)
            self._waiting.append(ticket)
            return ticket

    def _wait(self, ticket: Ticket, size: int, expires: float, then: Spare) -> WaitResult:
        with self._changed:
            while not self._may_run(ticket, size):
                if ticket._cancelled:
                    return "cancelled"
                left = expires - time.monotonic()
                if left <= 0:
                    return "expired"
                self._changed.wait(min(left, _LONGEST_SLEEP))
            self._waiting.popleft()
            self._running.add(ticket)
            ticket._bytes, ticket._admitted = size, True
            self._used += size
            then(self._memory - self._used)
            self._changed.notify_all()
            return "admitted"

    def _may_run(self, ticket: Ticket, size: int) -> bool:
        if ticket._cancelled or self._waiting[0] is not ticket:
            return False
        return len(self._running) < self._concurrency and self._used + size <= self._memory

    def _cancel(self, ticket: Ticket) -> None:
        with self._changed:
            ticket._cancelled = True
            self._changed.notify_all()

    def _leave(self, ticket: Ticket, then: Spare) -> None:
        with self._changed:
            if ticket._admitted:
                self._running.discard(ticket)
                self._used -= ticket._bytes
                ticket._bytes, ticket._admitted = 0, False
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
            then(self._memory - self._used)
            self._changed.notify_all()

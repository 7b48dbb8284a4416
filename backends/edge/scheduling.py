"""Who may run now: a few requests at once, within a memory limit, the others in a short queue. Knows no model.

First come, first served: a request that waits for memory is not overtaken by a smaller one.

One thread that calls back when a moment has come: it ends runs of the model whose deadline passes. No model here.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

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


"""Seconds; a deadline may be infinite, a wait on a condition may not."""


class Watchdog:
    """Alarms on the clock of `time.monotonic()`. The thread starts with the first alarm and ends with `close`."""

    def __init__(self) -> None:
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._live: set[int] = set()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def alarm(self, at: float, call: Callable[[], None]) -> Iterator[None]:
        """Call *call* from the watchdog's thread at the instant *at*, unless the block is left before."""
        number = self._set(at, call)
        try:
            yield
        finally:
            with self._changed:
                self._live.discard(number)

    def close(self) -> None:
        """End the thread; alarms that are set do not ring any more. Twice is once."""
        with self._changed:
            self._closed = True
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _set(self, at: float, call: Callable[[], None]) -> int:
        with self._changed:
            number = next(self._numbers)
            self._live.add(number)
            heapq.heappush(self._alarms, (at, number, call))
            if self._alarms[0][1] == number:
                self._changed.notify_all()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._watch, name="hybrid-llm-edge-watchdog", daemon=True)
                self._thread.start()
            return number

    def _watch(self) -> None:
        while (call := self._next()) is not None:
            call()

    def _next(self) -> Callable[[], None] | None:
        """Sleep until an alarm rings; None once closed."""
        with self._changed:
            while not self._closed:
                self._drop_dead()
                left = self._alarms[0][0] - time.monotonic() if self._alarms else None
                if left is not None and left <= 0:
                    _, number, call = heapq.heappop(self._alarms)
                    self._live.discard(number)
                    return call
                self._changed.wait(_LONGEST_SLEEP if left is None else min(left, _LONGEST_SLEEP))
            return None

    def _drop_dead(self) -> None:
        while self._alarms and self._alarms[0][1] not in self._live:
            heapq.heappop(self._alarms)

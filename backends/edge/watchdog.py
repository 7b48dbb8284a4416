"""One thread that calls back when a moment has come: it ends runs of the model whose deadline passes. No model here."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Watchdog"]

_LONGEST_SLEEP = 3600.0
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

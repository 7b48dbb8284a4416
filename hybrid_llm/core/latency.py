"""Learns how long a backend or an endpoint takes to its first token, from the calls so far.

One class serves every reader: the picker compares endpoints by `expected_ms`, the client of a node takes `average_ms`
as what is usual there, and the router hedges after a `quantile`. What the *next* request will take, given its prompt,
is predicted elsewhere (`router.signals.predictor`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_WEIGHT: Final = 0.2
"""Weight of a new time in the moving averages."""
_HALF_LIFE_S: Final = 10.0
_WINDOW: Final = 128
_ENOUGH: Final = 20
"""A quantile of fewer times would be a guess."""


class FirstTokenTimes:
    """The times to first token of one backend or endpoint, ms. Safe to use from any thread.

    Args:
        clock: Seconds, never backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._window: deque[float] = deque(maxlen=_WINDOW)
        self._answers = _Average()
        self._calls = _Average()
        self._updated = 0.0
        self._lock = threading.Lock()

    def add(self, ms: float) -> None:
        """Learn from a first token that came after *ms*."""
        with self._lock:
            self._window.append(ms)
            self._answers.add(ms)
            self._learn(ms)

    def add_missed(self, ms: float) -> None:
        """Learn from a call that ended after *ms* without a first token: it would have taken longer than that."""
        with self._lock:
            if ms > self._calls.mean:
                self._learn(ms)

    def _learn(self, ms: float) -> None:
        self._calls.add(ms)
        self._updated = self._clock()

    @property
    def average_ms(self) -> float | None:
        """The moving average of the answers; None before the first one."""
        return self._answers.mean if self._answers.count else None

    @property
    def expected_ms(self) -> float:
        """The moving average of answers and missed calls, halved for every ten seconds without a report.

        The decay gives an endpoint that was slow once another chance (peak EWMA, as in Finagle). 0 after fewer than two
        calls: the first one also had to connect, so it does not predict the second.
        """
        if self._calls.count < 2:
            return 0.0
        age_s = self._clock() - self._updated
        return self._calls.mean * float(0.5 ** (age_s / _HALF_LIFE_S))

    def quantile(self, share: float) -> float | None:
        """The time within which *share* of the last 128 answers began, ms; None while fewer than 20 are known."""
        with self._lock:
            times = sorted(self._window)
        return times[min(len(times) - 1, int(share * len(times)))] if len(times) >= _ENOUGH else None


class _Average:
    """An exponentially weighted mean that the second value overwrites, since the first one had to connect."""

    def __init__(self) -> None:
        self.mean = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        self.mean += (_WEIGHT if self.count >= 2 else 1.0) * (value - self.mean)
        self.count += 1

"""The last times to first token of one backend, for what needs a quantile rather than a mean: when to hedge."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

__all__ = ["RecentTimes"]

_KEPT: Final = 128
_ENOUGH: Final = 20


class RecentTimes:
    """A window of the last 128 times, in ms. Safe to use from any thread."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    def add(self, ms: float) -> None:
        """Take a time in."""
        with self._lock:
            self._times.append(ms)

    def quantile(self, share: float) -> float | None:
        """The time that *share* of the calls stayed within, ms; None while fewer than 20 are known."""
        with self._lock:
            times = sorted(self._times)
        return times[min(len(times) - 1, int(share * len(times)))] if len(times) >= _ENOUGH else None

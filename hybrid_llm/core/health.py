"""A circuit breaker and a retry budget: two small state machines without I/O, on a clock that is passed in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hybrid_llm.core.signals import Breaker


class CircuitBreaker:
    """Stop asking a backend that keeps failing, and let one request at a time find out whether it is back.

    After *failures* failures in a row it opens; *open_s* seconds later one probe may pass (half open); the probe's end
    closes it or opens it again (Nygard, *Release It!*, 2nd ed., ch. 5). Safe to use from any thread.
    """

    def __init__(self, *, failures: int, open_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._opened: float | None = None
        self._probe: float | None = None
        self._lock = threading.Lock()

    def configure(self, *, failures: int, open_s: float) -> None:
        """Take over the limits of another policy; what was counted stays."""
        self._limit, self._open_s = failures, open_s

    @property
    def state(self) -> Breaker:
        """Closed, open, or half open while a probe may pass."""
        opened = self._opened
        if opened is None:
            return Breaker.CLOSED
        return Breaker.HALF_OPEN if self._clock() - opened >= self._open_s else Breaker.OPEN

    def admit(self) -> bool:
        """Whether a call may go now. In the half-open state this takes the one probe.

        A probe that never reports, as one that its caller abandoned, is given up after *open_s* seconds.
        """
        with self._lock:
            state = self.state
            if state is not Breaker.HALF_OPEN:
                return state is Breaker.CLOSED
            if self._probe is not None and self._clock() - self._probe < self._open_s:
                return False
            self._probe = self._clock()
            return True

    def succeeded(self) -> None:
        """A call worked: close."""
        with self._lock:
            self._failures, self._opened, self._probe = 0, None, None

    def abandoned(self) -> None:
        """A call ended and tells nothing, as one that its caller left: if it was the probe, the next one may pass."""
        with self._lock:
            self._probe = None

    def failed(self) -> None:
        """A call failed: count it, and open at the limit or when it was the probe."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit or self._opened is not None:
                self._opened, self._probe = self._clock(), None


class RetryBudget:
    """A token bucket that retries draw from: each request pays in *ratio*, each retry takes one token.

    Over time retries then add no more than that share to the traffic, however bad the day (Finagle's `RetryBudget`).
    *reserve* tokens are there from the start, so that a quiet client may retry too; ten times as many can be saved up.
    """

    def __init__(self, *, ratio: float, reserve: float = 10.0) -> None:
        self._ratio = ratio
        self._cap = 10.0 * reserve
        self._tokens = reserve
        self._lock = threading.Lock()

    def configure(self, *, ratio: float) -> None:
        """Take over the share of another policy."""
        self._ratio = ratio

    def deposit(self) -> None:
        """A request begins."""
        with self._lock:
            self._tokens = min(self._cap, self._tokens + self._ratio)

    @property
    def left(self) -> float:
        """Retries that it would pay for now."""
        return self._tokens

    def pays(self) -> bool:
        """Whether a retry would be paid for now."""
        return self._tokens >= 1.0

    def withdraw(self) -> bool:
        """Take one token for a retry; false means no retry now."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

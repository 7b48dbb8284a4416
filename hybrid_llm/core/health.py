"""The health of endpoints and backends as a state machine, and the retry budget.

No I/O, no threads and no clock of its own: the caller reports what happened and passes the clock in. The states and
transitions of `HealthProbe` are drawn in docs/resilience.md, which a test compares with this code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from hybrid_llm.core.signals import Breaker, EndpointHealth

_STOPPING_S: Final = 2.0
"""How long a node that reports it is stopping gets no calls, seconds; the next call shows whether it is back."""
EJECT_FAILURES: Final = 2
EJECT_S: Final = 5.0
"""Stricter limits for one endpoint of several, since the others take over meanwhile."""
_FIRST_HOLD_S: Final = 0.1
"""How long a probe cannot end the second ejection without a success in between, seconds; doubled for each further."""
_TOGETHER_S: Final = 1.0
"""Answers that break off within this time may have one reason, seconds."""
_NEVER: Final = float("-inf")

Clock = Callable[[], float]


class HealthProbe:
    """The health of one endpoint, or of a backend that has none. Safe to use from any thread.

    It holds what is known, each fact with the time after which it no longer counts; `health` is the most severe of
    them. Calls report how they ended, probes beside the calls whether the endpoint can be reached, can be trusted and
    serves. A lost connection is the probes' to judge: it is no failure here.

    The circuit breaker (Nygard, *Release It!*, 2nd ed., ch. 5) is part of it: *failures* failures in a row open it;
    *open_s* seconds later it is half open, and one trial call at a time closes it or opens it again. A probe that
    succeeds closes it earlier (as Envoy's health checks end an ejection), until the next failure; each time that this
    was wrong, the next probe that may close it has to come later, *open_s* seconds at most.

    Args:
        failures: Failures in a row that open the breaker.
        open_s: Seconds until an open breaker is half open.
        clock: Seconds, never backwards.
        on_breaker: Called when the breaker opens or closes, with what it is now.
    """

    def __init__(
        self,
        *,
        failures: int,
        open_s: float,
        clock: Clock = time.monotonic,
        on_breaker: Callable[[Breaker], object] = lambda _: None,
    ) -> None:
        self._on_breaker = on_breaker
        self._limit = failures
        self._open_s = open_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened: float | None = None
        self._trial: float | None = None
        self._counted = self._forgiven = self._resting_until = self._stopping_until = _NEVER
        self._hold = 0.0
        self._cancelled = False
        self._responded = self._closed = False
        self.serves = False
        """The last probe found that it can be reached and trusted, and serves."""
        self.lost_at = _NEVER
        """When the last connection was lost, on the clock."""
        self.suspected = False
        """A call lost its connection, failed or receives nothing, and no probe has found out why yet."""
        self.fault = ""
        """The name of the error's class with which the last probe failed; empty where it succeeded."""
        self.silent = False
        """The last probe got no response at all, so a call would only wait; a refused connection is a response."""

    def configure(self, *, failures: int, open_s: float) -> None:
        """Adopt other limits; what was counted stays."""
        self._limit, self._open_s = failures, open_s

    @property
    def health(self) -> EndpointHealth:
        """The state of the machine. Of several facts the most severe one counts, in the order of these lines."""
        now, breaker = self._clock(), self.breaker
        if self._closed:
            return EndpointHealth.CLOSED
        if self.fault:
            return EndpointHealth.UNREACHABLE
        if self.is_stopping:
            return EndpointHealth.STOPPING
        if breaker is Breaker.OPEN:
            return EndpointHealth.EJECTED
        if self.suspected:
            return EndpointHealth.SUSPECTED
        if now < self._resting_until:
            return EndpointHealth.RESTING
        if breaker is Breaker.HALF_OPEN:
            return EndpointHealth.HALF_OPEN
        return EndpointHealth.READY if self._responded else EndpointHealth.NEW

    @property
    def breaker(self) -> Breaker:
        """The circuit breaker alone."""
        return self._breaker(self._open_s)

    def breaker_under(self, *, failures: int, open_s: float) -> Breaker:
        """The breaker as it would be under more patient limits than its own."""
        return Breaker.CLOSED if self._failures < failures else self._breaker(open_s)

    def _breaker(self, open_s: float) -> Breaker:
        opened = self._opened
        if opened is None:
            return Breaker.CLOSED
        return Breaker.HALF_OPEN if self._clock() - opened >= open_s else Breaker.OPEN

    @property
    def admits(self) -> bool:
        """Whether the breaker would let a call start now."""
        breaker = self.breaker
        if breaker is not Breaker.HALF_OPEN:
            return breaker is Breaker.CLOSED
        # A trial that never reports an end, such as one whose caller vanished, is given up after *open_s*.
        return self._trial is None or self._clock() - self._trial >= self._open_s

    @property
    def is_stopping(self) -> bool:
        """The node reported a moment ago that it is about to stop."""
        return self._clock() < self._stopping_until

    def admit(self) -> bool:
        """Whether a call may start now. In the half-open state this takes the one trial."""
        with self._lock:
            if not self.admits:
                return False
            if self._opened is not None:
                self._trial = self._clock()
            return True

    def responded(self) -> None:
        """The endpoint sent a first token or a report."""
        self._responded, self.suspected = True, False

    def succeeded(self) -> None:
        """A call was answered to its end: close the breaker."""
        with self._lock:
            self._responded, self.suspected = True, False
            closes = self._reset()
        if closes:
            self._on_breaker(Breaker.CLOSED)

    def _reset(self) -> bool:
        """Forget what was counted; whether that closes the breaker."""
        closes = self._opened is not None
        self._failures, self._opened, self._trial, self._hold, self._cancelled = 0, None, None, 0.0, False
        return closes

    def failed(self, began: float | None = None, *, hung: bool = False) -> None:
        """A call failed: count it, and open the breaker at the limit or when it was the trial.

        A silent or stopping endpoint is out of use already, and reports itself when it is back: nothing is counted.
        Calls that ran at the same time may have failed for one reason, and count once: one that *began*, on the clock,
        before the last failure that counted does not. Of calls that *hung* each counts, unless a probe has succeeded
        since it began.
        """
        with self._lock:
            if self.silent or self.is_stopping:
                self._trial = None
                return
            if began is not None and began <= (self._forgiven if hung else self._counted):
                return
            self._counted = self._clock()
            if hung and began is not None:  # a probe cannot see that calls hang: to be wrong must not cost more time
                self._hold = min(self._open_s, max(self._hold, self._counted - began))
            self._failures += 1
            opens = self._failures >= self._limit and self._opened is None
            if opens or self._opened is not None:
                self._opened, self._trial = self._clock(), None
        if opens:
            self._on_breaker(Breaker.OPEN)

    def abandoned(self) -> None:
        """A call ended without a verdict: if it was the trial, the next one may start."""
        with self._lock:
            self._trial = None

    def overloaded(self, retry_after: float) -> None:
        """The endpoint asked for a pause of *retry_after* seconds."""
        self._resting_until = self._clock() + retry_after

    def lost(self) -> None:
        """A call ended with its connection. Whether the endpoint is gone is for a probe to find out."""
        self.lost_at = self._clock()
        self.abandoned()

    def cancelled(self, began: float | None = None) -> None:
        """The node ended a call and gave no reason, as one does that resets what others have flooded.

        The first call in a row does not count, nor do those that ran beside it; further ones are failures.
        """
        with self._lock:
            is_first, self._cancelled = not self._cancelled, True
            if is_first:
                self._counted = self._clock()
        if is_first:
            self.lost()
        else:
            self.failed(began)

    def suspect(self) -> None:
        """A probe is about to find out what is wrong: calls go elsewhere, where they can."""
        self.suspected = True

    def stopping(self) -> None:
        """The node reported that it is about to stop."""
        self._stopping_until = self._clock() + _STOPPING_S

    def serving(self) -> None:
        """The node reported that it takes calls."""
        self._stopping_until = _NEVER

    def probe_failed(self, fault: str, *, silent: bool) -> None:
        """The endpoint could not be reached or trusted, or does not serve; *fault* names the class of the error."""
        self.fault, self.silent, self.suspected, self.serves = fault, silent, False, False

    def probe_succeeded(self) -> None:
        """The endpoint can be reached and trusted, and serves. If it did not before, its failures are forgotten.

        If it did all the time and was ejected for its answers, one more failure ejects it again, for longer.
        """
        with self._lock:
            if was_lost := bool(self.fault):
                self._resting_until = _NEVER
            self.fault, self.silent, self.suspected, self.serves = "", False, False, True
            closes = self._reset() if was_lost else self._readmitted()
            if was_lost or closes:
                self._forgiven = self._counted = self._clock()
        if closes:
            self._on_breaker(Breaker.CLOSED)

    def _readmitted(self) -> bool:
        """Close the breaker on probation, if it was open long enough; whether that was done."""
        if self._opened is None or self._clock() < self._counted + self._hold:
            return False
        self._failures, self._opened, self._trial = self._limit - 1, None, None
        self._hold = min(self._open_s, max(2 * self._hold, _FIRST_HOLD_S))
        return True

    def probe_expired(self) -> None:
        """Probing has stopped: the next call shows whether the endpoint can be reached."""
        self.fault, self.silent, self.suspected, self.serves = "", False, False, False

    def close(self) -> None:
        """The client is closed. This is final."""
        self._closed = True


class BackendHealth:
    """The health of a backend whose endpoints report their own calls: what the router needs of them together.

    Where there are several, one is ejected after few failures. The backend itself counts as failed only once every
    endpoint that responds has failed as often in a row as the policy allows.

    Args:
        probes: Returns the current endpoints.
    """

    def __init__(self, probes: Callable[[], Sequence[HealthProbe]]) -> None:
        self._probes = probes
        self._failures, self._open_s = EJECT_FAILURES, EJECT_S

    def configure(self, *, failures: int, open_s: float) -> None:
        """Adopt the limits of a policy."""
        self._failures, self._open_s = failures, open_s
        self.refresh()

    def refresh(self) -> None:
        """Apply the limits to the endpoints; to be called when there are others."""
        probes = self._probes()
        failures, open_s = self._failures, self._open_s
        if len(probes) > 1:
            failures, open_s = min(failures, EJECT_FAILURES), min(open_s, EJECT_S)
        for probe in probes:
            probe.configure(failures=failures, open_s=open_s)

    @property
    def breaker(self) -> Breaker:
        """The best breaker of the endpoints that respond; closed where none does, which `BackendState.ready` shows."""
        probes = self._probes()
        breakers = {
            probe.breaker if len(probes) == 1 else probe.breaker_under(failures=self._failures, open_s=self._open_s)
            for probe in probes
            if not probe.silent
        }
        if not breakers or Breaker.CLOSED in breakers:
            return Breaker.CLOSED
        return Breaker.HALF_OPEN if Breaker.HALF_OPEN in breakers else Breaker.OPEN

    @property
    def lost_at(self) -> float:
        """When an endpoint last lost a connection, on its clock."""
        return max((probe.lost_at for probe in self._probes()), default=_NEVER)

    @property
    def serves(self) -> bool:
        """Whether the last probe of an endpoint found that it serves."""
        return any(probe.serves for probe in self._probes())

    @property
    def admits(self) -> bool:
        """Whether a breaker would let a call start now."""
        breaker = self.breaker
        if breaker is Breaker.HALF_OPEN:
            return any(probe.admits for probe in self._probes())
        return breaker is Breaker.CLOSED

    def admit(self) -> bool:
        """Whether a call may start now: the endpoint that gets it takes the trial."""
        return self.admits

    def succeeded(self) -> None:
        """Do nothing: the endpoint reports its own calls."""

    def failed(self, began: float | None = None, *, hung: bool = False) -> None:
        """Do nothing, as `succeeded`."""

    abandoned = succeeded


Health = HealthProbe | BackendHealth
"""What the router consults before each call of a backend, and reports its outcome to."""


class RetryBudget:
    """A token bucket that retries draw from: each request adds *ratio*, each retry takes one token.

    Over time retries then add no more than that share to the traffic, even in an outage (Finagle's `RetryBudget`).
    *reserve* tokens are there from the start, so that a quiet client may retry too; ten times as many can be saved up.
    """

    def __init__(self, *, ratio: float, reserve: float = 10.0) -> None:
        self._ratio = ratio
        self._cap = 10.0 * reserve
        self._paid, self._price = _NEVER, 0.0
        self.left = reserve
        """Tokens left: how many retries may start now."""
        self._lock = threading.Lock()

    def configure(self, *, ratio: float) -> None:
        """Adopt the share of another policy."""
        self._ratio = ratio

    def deposit(self) -> None:
        """Add the share of a request that begins."""
        with self._lock:
            self.left = min(self._cap, self.left + self._ratio)

    def pays(self) -> bool:
        """Whether a token is left for a retry."""
        return self.left >= 1.0

    def withdraw(self) -> bool:
        """Take one token for a retry; false means no retry now."""
        with self._lock:
            return self._take(1.0)

    def pays_together(self, began: float, now: float, price: float = 1.0) -> bool:
        """Take *price*, a token at most, to go on with an answer that broke off, and whose call *began* then.

        The highest price pays for all that had begun when it was taken, in the second after that: a lost connection
        ends all of its answers, and each goes on where it was. False means that nothing was taken.
        """
        with self._lock:
            together = began < self._paid and now - self._paid <= _TOGETHER_S
            paid = self._price if together else 0.0
            if not self._take(max(0.0, price - paid)):
                return False
            self._paid, self._price = (self._paid if together else now), max(price, paid)
            return True

    def _take(self, price: float) -> bool:
        if self.left < price:
            return False
        self.left -= price
        return True

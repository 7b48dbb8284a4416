"""Probes an endpoint beside the calls: one probe at a time, however many callers wait for it.

A probe is a handshake; where something went wrong before, also the question whether the endpoint serves. One that
fails is repeated, with pauses that grow with the outage: it is found again after a fourth of the time for which it was
gone, and many clients that reconnect cause no storm. So no request has to find out. The results go to the endpoint's
`HealthProbe`.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

from hybrid_llm.backends.wire.handshake import is_silence
from hybrid_llm.core.errors import BackendUnavailable
from hybrid_llm.core.health import HealthProbe
from hybrid_llm.core.log import log
from hybrid_llm.core.signals import Breaker
from hybrid_llm.core.threads import started

_QUICK_S: Final = (1.0, 2.0)
"""How long a suspected endpoint gets to respond: at least, and where it never responded before; seconds."""
_TIMES_USUAL: Final = 5.0
"""It gets this many times what the last handshake took."""
_OVERDUE_S: Final = 0.2
"""A handshake that runs for longer than this will probably fail, seconds."""
_AGAIN_S: Final = 1.0
"""An endpoint that only seems slow is probed no more often than this, seconds."""
_PAUSES_S: Final = (0.1, 5.0)
"""The first pause between two probes of a failing endpoint, and the longest; seconds."""
_SHARE: Final = 0.25
"""Pauses in between, and the time that a probe gets, are this share of the outage so far."""
_FRESH_S: Final = 0.25
"""Callers get the result of the last probe that failed for the same share of the outage, and no longer than this."""

Result = Future[Exception | None]
"""What a probe found: nothing wrong, or why the endpoint cannot be used."""


@dataclass(slots=True, eq=False)
class Prober:
    """Probes one endpoint. Safe to use from any thread; a thread of its own runs while there is something to find out.

    Args:
        handshake: Does one within the seconds that it is given; raises as `tls_handshake` does.
        check: Asks the endpoint whether it serves, within the seconds that it is given; raises BackendUnavailable if
            it does not. Called after the handshake, where a call failed or the endpoint could not be used.
        health: Receives the results.
        timeout: Seconds that a handshake may take.
        name: The backend, for errors.
        on_silent: Called, from the probing thread, when the endpoint does not respond.
        has_route: Whether this machine could send to the endpoint now; nothing is sent to find out.
        interest_s: Seconds for which it is probed without a `keep_probing`.
    """

    handshake: Callable[[float], None]
    health: HealthProbe
    _: KW_ONLY
    timeout: float
    name: str
    on_silent: Callable[[], object]
    check: Callable[[float], None] = lambda _: None
    has_route: Callable[[], bool] = lambda: True
    interest_s: float = 60.0
    label: str = ""
    """The backend and its address, for the log; by default *name*."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: Result | None = None
    _closed: threading.Event = field(default_factory=threading.Event)
    _heard: float = float("-inf")
    _began: float = float("-inf")
    _ended: float = float("-inf")
    _error: Exception | None = None
    _doubted: float | None = None
    """Since when something is wrong."""
    _repeating: bool = False
    _took: float = 0.0
    _wanted: float = 0.0

    def keep_probing(self) -> None:
        """Note that the endpoint's health still matters."""
        self._wanted = time.monotonic()

    def overdue_since(self) -> float | None:
        """When the running handshake began, if it should be over by now."""
        began = self._began
        overdue = self._running is not None and time.monotonic() - began > _OVERDUE_S
        return began if overdue else None

    def fault(self, timeout: float) -> Exception | None:
        """Return why we cannot reach and trust each other, if so, from a probe that is waited for, *timeout* seconds.

        It is one of the errors of `tls_handshake`, or `BackendUnavailable` once the time is over; None where there is
        no time at all.
        """
        if timeout <= 0:
            return None
        try:
            return _copy(self._probe(self.timeout).result(timeout))
        except TimeoutError:
            return self._unreachable(timeout)

    async def afault(self, timeout: float) -> Exception | None:
        """Do as `fault` does, without blocking the event loop."""
        if timeout <= 0:
            return None
        result = asyncio.wrap_future(self._probe(self.timeout))
        done, _ = await asyncio.wait({result}, timeout=timeout)
        return _copy(result.result()) if done else self._unreachable(timeout)

    def heard(self) -> None:
        """Note that the endpoint has sent something."""
        self._heard = time.monotonic()

    def suspect(self, since: float) -> None:
        """A call has heard nothing since the instant *since*: probe beside the calls whether the endpoint is alive.

        Not if it sent something to another call meanwhile, nor if it was probed a moment ago and still has a route.
        """
        now = time.monotonic()
        if self._heard > since or (now - self._began < _AGAIN_S and self.has_route()):
            return
        self.doubt()

    def doubt(self) -> None:
        """A call lost its connection or failed: probe at once, beside the calls, whether the endpoint can be used."""
        if self._running is not None or self._repeating or self._closed.is_set():
            return
        self._doubted = self._doubted or time.monotonic()
        self.health.suspect()
        self._start(self._limit())

    def look(self) -> None:
        """Probe beside the calls, though nothing seems wrong: what the endpoint reports of itself may be new."""
        if self._running is None and not self._repeating and not self._closed.is_set():
            self._start(self.timeout)

    def _start(self, limit: float) -> None:
        """Begin a probe for which nobody waits."""
        try:
            self._probe(limit)
        except BackendUnavailable as error:  # the next call that fails tries again
            log.warning("%s", error)

    def close(self) -> None:
        """Stop probing."""
        self._closed.set()

    def _unreachable(self, timeout: float) -> BackendUnavailable:
        text = f"{self.name} could not be reached within {timeout:.1f} s"
        return BackendUnavailable(text, backend=self.name, reason="no_response")

    def _limit(self) -> float:
        """Seconds for one probe of an endpoint of which something is wrong."""
        usual = _TIMES_USUAL * self._took if self._took else _QUICK_S[1]
        return min(self.timeout, max(_QUICK_S[0], usual, _SHARE * self._outage()))

    def _fresh(self) -> float:
        return min(_FRESH_S, _SHARE * self._outage())

    def _outage(self) -> float:
        """For how long something has been wrong, seconds."""
        return 0.0 if self._doubted is None else time.monotonic() - self._doubted

    def _probe(self, limit: float) -> Result:
        """Return the running probe or a new one; the last result where waiting is no use or it is only just known.

        Raises:
            BackendUnavailable: this process can start no further thread.
        """
        self.keep_probing()
        with self._lock:
            if self.health.silent or (self._error is not None and time.monotonic() - self._ended < self._fresh()):
                last: Result = Future()
                last.set_result(self._error)
                return last
            if self._running is None:
                running: Result = Future()
                try:
                    started(self._run, running, limit, name=f"hybrid-llm-probe-{self.name}")
                except RuntimeError:
                    text = f"{self.name} cannot be probed: this process can start no further thread"
                    raise BackendUnavailable(text, backend=self.name) from None
                self._running, self._began = running, time.monotonic()
            return self._running

    def _run(self, result: Result, limit: float) -> None:
        """Probe once; go on while the endpoint is unreachable, or ejected."""
        error = self._try(limit)
        with self._lock:
            self._running = None
            repeats = not self._is_well() and not self._repeating
            self._repeating = self._repeating or repeats
        result.set_result(error)
        if _is_silent(error):
            self.on_silent()
        if repeats:
            self._repeat()

    def _is_well(self) -> bool:
        """Whether there is nothing that a further probe could find out."""
        return self._error is None and self.health.breaker is not Breaker.OPEN

    def _try(self, limit: float) -> Exception | None:
        began = self._began = time.monotonic()
        try:
            self.handshake(limit)
            took = time.monotonic() - began
            if self._doubted is not None:
                self.check(max(limit - took, _QUICK_S[0]))
        except Exception as error:  # noqa: BLE001  # the waiting callers raise it
            if type(error) is not type(self._error) and not self._closed.is_set():
                log.warning("%s cannot be used: %s", self.label or self.name, error)
            self._doubted = self._doubted or began
            self._error, self._ended = error, time.monotonic()
            self.health.probe_failed(type(error).__name__, silent=_is_silent(error))
            return error
        if self._error is not None:
            log.warning("%s can be reached again", self.label or self.name)
        self._took, self._error = took, None
        self.health.probe_succeeded()
        if self._is_well():
            self._doubted = None
        self.heard()
        return None

    def _repeat(self) -> None:
        """Probe again and again, for as long as the result matters; at once where a lost route exists again."""
        longest = _PAUSES_S[1]
        while not self._closed.wait(self._pause()):
            if self._is_settled():  # a caller's own probe has succeeded
                return
            if not self.has_route() and time.monotonic() - self._began < longest:
                continue
            self._try(self._limit())
            if self._is_settled():
                return

    def _pause(self) -> float:
        first, longest = _PAUSES_S
        pause = first if not self.has_route() else min(longest, max(first, _SHARE * self._outage()))
        return random.uniform(pause / 2, pause)  # noqa: S311  # jitter is no secret

    def _is_settled(self) -> bool:
        """Whether there is nothing more to find out; the next probe that fails starts the repetition again."""
        with self._lock:
            if time.monotonic() - self._wanted > self.interest_s:
                self._error = self._doubted = None
                self.health.probe_expired()
                self._repeating = False
            else:
                self._repeating = not self._is_well()
            return not self._repeating


def _is_silent(error: Exception | None) -> bool:
    """Whether no response came within the time, or nothing can be sent; rather than a refused connection."""
    return isinstance(error, BackendUnavailable) and is_silence(error.__cause__)


def _copy(error: Exception | None) -> Exception | None:
    # Several threads may wait for one probe, and each adds its own traceback to what it raises.
    if error is None:
        return None
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy

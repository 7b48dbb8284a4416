"""Probes an endpoint beside the calls: one handshake at a time, however many callers wait for it.

An endpoint that cannot be reached or trusted is probed again and again, with growing, jittered pauses (full jitter;
Brooker, *Exponential Backoff and Jitter*, 2015). So no request has to find out that it is back, and many clients that
reconnect at the same time cause no storm. The results go to the endpoint's `HealthProbe`.
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

_QUICK_S: Final = (1.0, 2.0)
"""How long a suspected endpoint gets to respond: at least, and where it never responded before; seconds."""
_TIMES_USUAL: Final = 5.0
"""It gets this many times what the last handshake took."""
_OVERDUE_S: Final = 0.2
"""A handshake that runs for longer than this will probably fail, seconds."""
_AGAIN_S: Final = 1.0
"""A suspected endpoint is probed no more often than this, seconds."""
_PAUSES_S: Final = (0.25, 5.0)
"""The first pause between two probes of a failing endpoint and, doubled each time, the longest; seconds."""

Result = Future[Exception | None]
"""What a probe found: nothing wrong, or why the endpoint cannot be used."""


@dataclass(slots=True, eq=False)
class Prober:
    """Probes one endpoint. Safe to use from any thread; a thread of its own runs while there is something to find out.

    Args:
        handshake: Does one within the seconds that it is given; raises as `tls_handshake` does.
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
    has_route: Callable[[], bool] = lambda: True
    interest_s: float = 60.0
    label: str = ""
    """The backend and its address, for the log; by default *name*."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: Result | None = None
    _closed: threading.Event = field(default_factory=threading.Event)
    _heard: float = float("-inf")
    _began: float = float("-inf")
    _error: Exception | None = None
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
        if self._heard > since or self._running is not None or self._closed.is_set():
            return
        if now - self._began < _AGAIN_S and self.has_route():
            return
        usual = _TIMES_USUAL * self._took if self._took else _QUICK_S[1]
        self._probe(min(self.timeout, max(_QUICK_S[0], usual)))

    def close(self) -> None:
        """Stop probing."""
        self._closed.set()

    def _unreachable(self, timeout: float) -> BackendUnavailable:
        text = f"{self.name} could not be reached within {timeout:.1f} s"
        return BackendUnavailable(text, backend=self.name, reason="no_response")

    def _probe(self, limit: float) -> Result:
        """Return the running probe or a new one; for a silent endpoint the last result, since waiting is no use."""
        self.keep_probing()
        with self._lock:
            if self.health.silent:
                last: Result = Future()
                last.set_result(self._error)
                return last
            if self._running is None:
                self._running, self._began = Future(), time.monotonic()
                name = f"hybrid-llm-probe-{self.name}"
                threading.Thread(target=self._run, args=(self._running, limit), name=name, daemon=True).start()
            return self._running

    def _run(self, result: Result, limit: float) -> None:
        """Probe once; go on while the endpoint is unreachable."""
        error = self._try(limit)
        with self._lock:
            self._running = None
            repeats = error is not None and not self._repeating
            self._repeating = self._repeating or repeats
        result.set_result(error)
        if _is_silent(error):
            self.on_silent()
        if repeats:
            self._repeat()

    def _try(self, limit: float) -> Exception | None:
        began = self._began = time.monotonic()
        try:
            self.handshake(limit)
        except Exception as error:  # noqa: BLE001  # the waiting callers raise it
            if type(error) is not type(self._error):
                log.warning("%s cannot be used: %s", self.label or self.name, error)
            self._error = error
            self.health.probe_failed(type(error).__name__, silent=_is_silent(error))
            return error
        self._took = time.monotonic() - began
        if self._error is not None:
            log.warning("%s can be reached again", self.label or self.name)
        self._error = None
        self.health.probe_succeeded()
        self.heard()
        return None

    def _repeat(self) -> None:
        """Probe again and again, for as long as the result matters; at once where a lost route exists again."""
        first, longest = _PAUSES_S
        pause = first
        while not self._closed.wait(random.uniform(pause / 2, pause)):  # noqa: S311  # jitter is no secret
            if self._is_settled():  # a caller's own probe has succeeded
                return
            lost = not self.has_route()
            pause = first if lost else min(longest, 2 * pause)
            if lost and time.monotonic() - self._began < longest:
                continue
            self._try(self.timeout)
            if self._is_settled():
                return

    def _is_settled(self) -> bool:
        """Whether there is nothing more to find out; the next probe that fails starts the repetition again."""
        with self._lock:
            if time.monotonic() - self._wanted > self.interest_s:
                self._error = None
                self.health.probe_expired()
            self._repeating = self._error is not None
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

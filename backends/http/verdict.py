"""How a call ended, as the health of its server sees it: what may mean that it cannot be used is probed at once."""

from __future__ import annotations

import time

from hybrid_llm.backends.prober import Prober
from hybrid_llm.core.errors import (
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    HybridLLMError,
    StreamInterrupted,
)
from hybrid_llm.core.health import HealthProbe
from hybrid_llm.core.request import Request


class Verdict:
    """The report of one call, which begins now."""

    def __init__(self, health: HealthProbe, prober: Prober, request: Request) -> None:
        self._health = health
        self._prober = prober
        self._request = request
        self._began = time.monotonic()
        self._heard = False
        self.lost = False
        """Its connection could not be made, or broke off."""
        health.admit()

    def heard(self) -> None:
        """The server has begun to answer."""
        self._heard = True
        self._prober.heard()

    def succeeded(self) -> None:
        """The call was answered to its end."""
        self._health.succeeded()

    def over(self) -> None:
        """The call has ended, also because its caller left: if it was a trial, the next one may start."""
        self._health.abandoned()

    def failed(self, error: HybridLLMError) -> None:
        """The call ended with *error*."""
        if isinstance(error, BackendOverloaded | BackendUnavailable) and error.retry_after:
            self._health.overloaded(error.retry_after)
        hung = self._hung(error)
        if not (hung or isinstance(error, BackendUnavailable | StreamInterrupted)):
            return
        if hung or not self.lost:
            self._health.failed(self._began, hung=hung)
        elif self._heard:
            self._health.cancelled(self._began)
        else:
            self._health.lost()
        self._prober.doubt()

    def _hung(self, error: HybridLLMError) -> bool:
        """The deadline passed without an answer, and the server had at least half of that time."""
        had_time = time.monotonic() - self._began >= self._request.deadline / 2
        return isinstance(error, DeadlineExceeded) and not self._heard and had_time

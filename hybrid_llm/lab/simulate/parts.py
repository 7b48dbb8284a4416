"""What the simulation takes from the router, behind Protocols, so that it is the same as in production."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState, Breaker


class Predictor(Protocol):
    """How long a backend will take, as learnt so far: `router.prediction.predict.LatencyPredictor`."""

    def ttft_ms(self, prompt_tokens: int, state: BackendState) -> float:
        """Expected time to the first token, ms."""
        ...

    def tpot_ms(self, prompt_tokens: int) -> float:
        """Expected time per further token, ms."""
        ...

    def ttft_error_ms(self, predicted_ms: float) -> float:
        """How far off predictions of the first token were, ms."""
        ...

    def tpot_error_ms(self, predicted_ms: float) -> float:
        """How far off predictions of further tokens were, ms."""
        ...

    @property
    def predictions(self) -> int:
        """How many predictions have been held against what happened."""
        ...

    def observe(self, prompt_tokens: int, state: BackendState, *, ttft_ms: float, tpot_ms: float | None) -> None:
        """Learn from one answer."""
        ...

    def missed(self, prompt_tokens: int, state: BackendState, *, after_ms: float) -> None:
        """Learn from a call that had no first token."""
        ...


class Recent(Protocol):
    """The last times to first token of a backend: `core.latency.FirstTokenTimes`."""

    def add(self, ms: float) -> None:
        """Take a time in."""
        ...

    def quantile(self, share: float) -> float | None:
        """The time that *share* of the calls stayed within, ms; None while too few are known."""
        ...


class Switch(Protocol):
    """A circuit breaker: `core.health.HealthProbe`."""

    @property
    def breaker(self) -> Breaker:
        """Closed, open or half open."""
        ...

    def admit(self) -> bool:
        """Whether a call may go now."""
        ...

    def succeeded(self) -> None:
        """A call worked."""
        ...

    def failed(self) -> None:
        """A call failed."""
        ...


class RetryBucket(Protocol):
    """What retries draw from: `router.breaker.RetryBudget`."""

    def deposit(self) -> None:
        """A request begins."""
        ...

    def pays(self) -> bool:
        """Whether a retry would be paid for now."""
        ...

    def withdraw(self) -> bool:
        """Take one token for a retry; false means no retry now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """How the parts are made: a predictor for a location, a breaker (failures, seconds open, clock), a retry budget."""

    predictor: Callable[[Location], Predictor]
    recent: Callable[[], Recent]
    breaker: Callable[[int, float, Callable[[], float]], Switch]
    retry_budget: Callable[[float], RetryBucket]

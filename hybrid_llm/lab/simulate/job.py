"""A simulated request, its calls, and the money that is spent: mutable records of the event loop, nothing more."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState
from hybrid_llm.lab.simulate.fleet import Server
from hybrid_llm.lab.simulate.trace import Arrival, Daily


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """A request that has not ended. Times are seconds since the start of the trace."""

    number: int
    arrival: Arrival
    request: RequestMetadata
    output_tokens: int
    expires: float
    allowed: frozenset[Location]
    """Where its tags let it go, read off the policy's tags."""
    pseudonymised: bool
    """Its tags ask for that form in the cloud."""
    would_leave: bool = False
    order: tuple[str, ...] = ()
    states: Mapping[str, BackendState] = field(default_factory=dict)
    """The backends as the policy saw them."""
    waiting: deque[str] = field(default_factory=deque)
    """Whom this round still has to ask."""
    failures: dict[str, bool] = field(default_factory=dict)
    """Backend -> whether asking again may help."""
    calls: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    epoch: int = 0
    lanes: list[Attempt] = field(default_factory=list)
    """Calls without a first token."""
    answering: Attempt | None = None
    """The call whose tokens the app reads."""
    asked: str = ""
    """Who was asked last."""
    broken: str = ""
    """Who gave the beginning of an answer that is being continued."""
    tokens: int = 0
    """Tokens that the app has from calls that broke off."""
    first_at: float | None = None
    left: bool = False
    away: bool = False
    """It was sent to the cloud."""
    cost: float = 0.0


@dataclass(slots=True, eq=False, kw_only=True)
class Attempt:
    """One call of one backend."""

    number: int
    job: Job
    server: Server
    began: float
    prompt_tokens: int
    """Of the request, and of what was given before."""
    output_tokens: int
    """What is still to come."""
    epoch: int = 0
    serving: bool = False
    refused: bool = False
    """A node turns it away, and the word of it is on its way."""
    broken: bool = False
    """... because nothing answers there, which counts for the breaker."""
    first_at: float = 0.0
    ends_at: float = 0.0
    token_s: float = 0.0
    speed: float = 1.0
    rtt_ms: float = 0.0
    first: bool = False
    """The first token is there."""

    def produced(self, now: float) -> int:
        """Tokens of it that are there at *now*."""
        if not self.first:
            return 0
        more = int((now - self.first_at) / self.token_s + 1e-9) if self.token_s > 0.0 else self.output_tokens
        return min(self.output_tokens, 1 + more)


class Ledger:
    """What each tenant has spent on each day; what is in flight counts at its highest price."""

    def __init__(self, days: Daily) -> None:
        self._days = days
        self._spent: dict[tuple[str | None, int], float] = {}
        self._held: dict[int, tuple[tuple[str | None, int], float]] = {}
        self.total = 0.0
        """Of all tenants and days."""

    def spent(self, tenant: str | None, now: float) -> float:
        """Today's sum of *tenant*."""
        return self._spent.get((tenant, self._days.day(now)), 0.0)

    def hold(self, number: int, tenant: str | None, now: float, most: float) -> None:
        """A call goes out that may cost *most*."""
        if most:
            key = (tenant, self._days.day(now))
            self._spent[key] = self._spent.get(key, 0.0) + most
            self._held[number] = key, most

    def settle(self, number: int, cost: float) -> None:
        """It cost *cost* in the end."""
        key, most = self._held.pop(number, (None, 0.0))
        if key is not None:
            self._spent[key] += cost - most
            self.total += cost

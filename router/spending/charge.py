"""Holds a tenant to its budget: what the signals say of it, who is left out for it, and what each attempt pays.

A backend with a price is asked only when its highest price could be reserved first; where the ledger cannot be read or
written, backends with a price are left out and those without are not touched.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Final, TypeVar

from hybrid_llm.core.errors import (
    AuthenticationFailed,
    BackendOverloaded,
    BackendUnavailable,
    ConfigError,
    PermissionDenied,
    ProtocolMismatch,
    QuotaExceeded,
    RequestRejected,
)
from hybrid_llm.core.generation import Chunk, Usage
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.signals import BudgetSignals, Signals
from hybrid_llm.policies.language.schema import Objectives
from hybrid_llm.router.spending.ledger import (
    UNIT,
    Balance,
    Ledger,
    LedgerBusy,
    LedgerError,
    MemoryLedger,
    Price,
    Reservation,
    currency_of,
    priced,
)

_log = logging.getLogger("hybrid_llm.spend")
_T = TypeVar("_T")
_NOT_TAKEN: Final = (
    AuthenticationFailed,
    BackendOverloaded,
    BackendUnavailable,
    PermissionDenied,
    ProtocolMismatch,
    QuotaExceeded,
    RequestRejected,
)
"""Before a first token these say that the backend has not worked on the request; whatever else is paid."""
_PATIENCE_S: Final = 1.0
_TEMPLATE_TOKENS: Final = 16
"""What a chat template may add to a prompt that was counted without it."""
_MOST_RATIO: Final = 8.0

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One attempt, as far as its price depends on it."""

    backend: str
    tenant: str | None
    prompt_tokens: int
    max_tokens: int


class Spending:
    """The prices of a client's backends and the ledger that its requests are booked in."""

    def __init__(self, prices: Mapping[str, float | Price], ledger: Ledger | None = None) -> None:
        """Raises ConfigError where prices are in several currencies."""
        self.prices = priced(prices)
        """Backend -> price; a backend that is not here is free, and its calls are not booked."""
        self.currency = currency_of(self.prices)
        self._ledger = ledger or MemoryLedger(self.currency)
        self._ratios = dict.fromkeys(self.prices, 1.0)
        self._booked = dict.fromkeys(self.prices, 0)
        self._lock = threading.Lock()

    @property
    def spent(self) -> Mapping[str, float]:
        """What this client has spent so far with each backend that has a price."""
        return {name: amount / UNIT for name, amount in self._booked.items()}

    def check(self, objectives: Objectives) -> None:
        """Raise ConfigError where the policy counts in another currency than the prices."""
        if self._foreign(objectives):
            raise ConfigError(self._foreign(objectives))

    def with_costs(self, signals: Signals, request: RequestMetadata, objectives: Objectives) -> Signals:
        """*signals* with what *request* would cost and what its tenant has left.

        A backend that the budget does not pay for is not ready, with the reason. Costs are per 1,000 tokens, of prompt
        and answer together.
        """
        if not self.prices:
            left = objectives.budget
            return signals if left is None else replace(signals, budget=BudgetSignals(left=left))
        states = {
            name: replace(state, cost_per_1k_tokens=price.per_1k(request.prompt_tokens, request.max_tokens))
            if (price := self.prices.get(name)) is not None
            else state
            for name, state in signals.backends.items()
        }
        return self._with_budget(replace(signals, backends=states), request, objectives)

    def _with_budget(self, signals: Signals, request: RequestMetadata, objectives: Objectives) -> Signals:
        try:
            balance = self._ledger.balance(request.tenant or "")
        except LedgerError as error:
            return self._without_priced(signals, objectives, f"its price cannot be booked: {error}")
        if problem := self._foreign(objectives):
            return self._without_priced(signals, objectives, problem)
        return self._within(signals, request, objectives, balance)

    def _within(self, signals: Signals, request: RequestMetadata, objectives: Objectives, balance: Balance) -> Signals:
        spent, budget = balance.total / UNIT, objectives.budget
        if budget is None:
            return replace(signals, budget=BudgetSignals(spent=spent))
        seen = BudgetSignals(spent=spent, left=max(0.0, budget - spent))
        states = dict(signals.backends)
        for name in self.prices.keys() & states.keys():
            needed = self._highest(_charge_of(name, request))
            if states[name].ready and balance.total + needed > _units(budget):
                reason = _too_dear(spent, needed / UNIT, budget, objectives.currency or self.currency)
                states[name] = replace(states[name], ready=False, reason=reason)
        return replace(signals, budget=seen, backends=states)

    def _without_priced(self, signals: Signals, objectives: Objectives, reason: str) -> Signals:
        states = {
            name: replace(state, ready=False, reason=reason) if name in self.prices else state
            for name, state in signals.backends.items()
        }
        budget = objectives.budget
        unknown = BudgetSignals(spent=budget or 0.0, left=None if budget is None else 0.0)
        return replace(signals, budget=unknown, backends=states)

    def _foreign(self, objectives: Objectives) -> str:
        ours, theirs = self.currency, objectives.currency
        if not ours or not theirs or ours == theirs:
            return ""
        return f"prices are in {ours}, the policy counts in {theirs}; nothing is converted: write both in one"

    def bill(self, charge: Charge, objectives: Objectives, sleep: Sleep) -> Bill:
        """The bill of one call of a backend with a price: reserved on entry, settled on exit however the call ends.

        Raises (on entry):
            QuotaExceeded: the budget does not allow it, or it cannot be booked; the backend is not called.
        """
        return Bill(charge, partial(self._reserve, charge, objectives, sleep), partial(self._settle, charge, sleep))

    async def _reserve(self, charge: Charge, objectives: Objectives, sleep: Sleep) -> Reservation:
        needed, budget = self._highest(charge), objectives.budget
        work = partial(self._ledger.reserve, charge.tenant or "", needed, None if budget is None else _units(budget))
        try:
            reservation = await _patiently(work, sleep)
        except LedgerError as error:
            raise QuotaExceeded(f"its price cannot be booked: {error}", backend=charge.backend) from None
        if reservation is None:
            message = f"the budget of {budget:g} a day does not allow another {needed / UNIT:.4g}"
            raise QuotaExceeded(message, backend=charge.backend)
        return reservation

    async def _settle(self, charge: Charge, sleep: Sleep, reservation: Reservation, bill: Bill) -> None:
        amount = self._actual(charge, bill.usage, bill.tokens) if bill.is_due else None
        ledger = self._ledger
        work = partial(ledger.release, reservation) if amount is None else partial(ledger.settle, reservation, amount)
        try:
            await _patiently(work, sleep)
        except LedgerError as error:
            # The highest price stays reserved until the day is over: too much rather than too little.
            _log.warning("what %s cost could not be booked and stays reserved: %s", charge.backend, error)
        else:
            with self._lock:
                self._booked[charge.backend] += amount or 0

    def _highest(self, charge: Charge) -> int:
        prompt = math.ceil(charge.prompt_tokens * self._ratios[charge.backend]) + _TEMPLATE_TOKENS
        return self.prices[charge.backend].cost(prompt, charge.max_tokens)

    def _actual(self, charge: Charge, usage: Usage | None, tokens: int) -> int:
        """The price of what was read and written, as the backend counted it, else as it was counted here."""
        price = self.prices[charge.backend]
        if usage is None:
            return price.cost(charge.prompt_tokens, tokens)
        self._learn_ratio(charge, usage)
        return price.cost(usage.prompt_tokens, usage.completion_tokens)

    def _learn_ratio(self, charge: Charge, usage: Usage) -> None:
        """A backend whose tokenizer counts more than ours gets larger reservations."""
        more = (usage.prompt_tokens - _TEMPLATE_TOKENS) / max(1, charge.prompt_tokens)
        if more > self._ratios[charge.backend]:
            self._ratios[charge.backend] = min(_MOST_RATIO, more)

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()


class Bill:
    """The tokens of one call, counted while they come; entered before the call and left after it."""

    def __init__(
        self,
        charge: Charge,
        reserve: Callable[[], Awaitable[Reservation]],
        settle: Callable[[Reservation, Bill], Awaitable[None]],
    ) -> None:
        self.charge = charge
        self.tokens = 0
        self.usage: Usage | None = None
        self.is_due = True
        self._reserve = reserve
        self._settle = settle

    def received(self, chunk: Chunk) -> None:
        """Count *chunk*; the backend's own count, which comes with the last one, outranks ours."""
        self.tokens += chunk.tokens
        self.usage = chunk.usage or self.usage

    async def __aenter__(self) -> Bill:
        self._reservation = await self._reserve()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.is_due = self.tokens > 0 or not isinstance(error, _NOT_TAKEN)
        await self._settle(self._reservation, self)


async def _patiently(work: Callable[[], _T], sleep: Sleep) -> _T:
    """Call *work* again while another process is writing, for a second at most."""
    pause, waited = 0.001, 0.0
    while True:
        try:
            return work()
        except LedgerBusy:
            if waited >= _PATIENCE_S:
                raise
        await sleep(pause)
        waited, pause = waited + pause, min(0.05, 2.0 * pause)


def _charge_of(backend: str, request: RequestMetadata) -> Charge:
    return Charge(
        backend=backend,
        tenant=request.tenant,
        prompt_tokens=request.prompt_tokens,
        max_tokens=request.max_tokens,
    )


def _units(budget: float) -> int:
    return round(budget * UNIT)


def _too_dear(spent: float, needed: float, budget: float, currency: str) -> str:
    unit = f" {currency}" if currency else ""
    return (
        f"the budget of {budget:g}{unit} a day does not allow it: {spent:.4g}{unit} are spent today, "
        f"and this request may cost {needed:.4g}{unit}"
    )

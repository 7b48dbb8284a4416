"""Keeps tenants within their budgets: excludes backends that are too expensive, and charges each attempt.

A backend with a price is called only after the highest price of the call has been reserved. If the ledger cannot be
read or written, backends with a price are not used; the others are unaffected.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Final, TypeVar

from hybrid_llm.core import errors
from hybrid_llm.core.errors import ConfigError, HybridLLMError, QuotaExceeded
from hybrid_llm.core.generation import Chunk, Usage
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.savings import UNIT
from hybrid_llm.core.signals import BudgetSignals, Signals
from hybrid_llm.core.threads import Aside, at_once
from hybrid_llm.core.tracebacks import guarded, is_fault
from hybrid_llm.policies.language.schema import Objectives
from hybrid_llm.router.spending import ledger as ledgers
from hybrid_llm.router.spending.ledger import Balance, Entry, Ledger, LedgerBusy, LedgerError, Price, Reservation

_log = logging.getLogger("hybrid_llm.spend")
_T = TypeVar("_T")
_NOT_TAKEN: Final = (
    errors.AuthenticationFailed, errors.BackendOverloaded, errors.BackendUnavailable, errors.PermissionDenied,
    errors.ProtocolMismatch, errors.QuotaExceeded, errors.RequestRejected,
)  # fmt: skip
"""Before the first token these errors mean that the backend did no work; any other attempt is charged."""
_TIMEOUT_S: Final = 1.0
"""How long a booking waits for other processes, seconds."""
_TEMPLATE_TOKENS: Final = 16
"""What a chat template may add to a prompt that was counted without it."""
_MAX_RATIO: Final = 8.0

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What the price of one attempt depends on."""

    backend: str
    tenant: str | None
    prompt_tokens: int
    max_tokens: int


class Spending:
    """The prices of a client's backends, and the ledger in which its requests are booked."""

    def __init__(self, prices: Mapping[str, float | Price], ledger: Ledger | None = None) -> None:
        """Raise ConfigError if prices are in several currencies."""
        self.prices = ledgers.priced(prices)
        """Backend -> price. A backend without a price is free, and its calls are not booked."""
        self.currency = ledgers.currency_of(self.prices)
        self._ledger = ledger or ledgers.MemoryLedger(self.currency)
        self.is_remote = bool(getattr(self._ledger, "is_remote", False))
        """Whether a booking waits for another machine, and is made aside."""
        self._ratios = dict.fromkeys(self.prices, 1.0)
        self._booked = dict.fromkeys(self.prices, 0)
        self._lock = threading.Lock()

    @property
    def spent(self) -> Mapping[str, float]:
        """Backend with a price -> what this client has spent on it so far."""
        return {name: amount / UNIT for name, amount in self._booked.items()}

    def check(self, objectives: Objectives) -> None:
        """Raise ConfigError if the budget of the policy is in another currency than the prices."""
        if self._foreign(objectives):
            raise ConfigError(self._foreign(objectives))

    def with_costs(self, signals: Signals, request: RequestMetadata, objectives: Objectives) -> Signals:
        """*signals* with the cost of *request* and the budget of its tenant.

        A backend that the budget cannot pay for is not ready, with the reason. Costs are per 1,000 tokens, prompt and
        answer together.
        """
        budget = objectives.budget
        if not self.prices:
            return signals if budget is None else replace(signals, budget=BudgetSignals(left=budget))
        states = dict(signals.backends)
        balance = self._balance(request.tenant or "", objectives)
        for name in self.prices.keys() & states.keys():
            cost = self.prices[name].per_1k(request.prompt_tokens, request.max_tokens)
            states[name] = state = replace(states[name], cost_per_1k_tokens=cost)
            if isinstance(balance, str):
                states[name] = replace(state, ready=False, reason=balance)
            elif state.ready and (reason := self._too_expensive(name, request, objectives, balance)):
                states[name] = replace(state, ready=False, reason=reason)
        spent = (budget or 0.0) if isinstance(balance, str) else balance.total / UNIT
        left = None if budget is None else max(0.0, budget - spent)
        return replace(signals, budget=BudgetSignals(spent=spent, left=left), backends=states)

    def _balance(self, tenant: str, objectives: Objectives) -> Balance | str:
        """What *tenant* has spent, or why that cannot be compared with the budget."""
        try:
            balance: object = _trusted(partial(self._ledger.balance, tenant))
        except LedgerError as error:
            return f"its price cannot be booked: {error}"
        if not isinstance(balance, Balance):
            return "its price cannot be booked: the ledger reports no balance"
        return self._foreign(objectives) or balance

    def _too_expensive(self, name: str, request: RequestMetadata, objectives: Objectives, balance: Balance) -> str:
        """The reason for people if the budget does not allow the highest price of *request*, else empty."""
        needed, budget = self._highest(name, request.prompt_tokens, request.max_tokens), objectives.budget
        if budget is None or balance.total + needed <= ledgers.billionths(budget):
            return ""
        currency = objectives.currency or self.currency
        unit = f" {currency}" if currency else ""
        return (
            f"the budget of {budget:g}{unit} a day does not allow it: {balance.total / UNIT:.4g}{unit} have been spent "
            f"today, and this request may cost {needed / UNIT:.4g}{unit}"
        )

    def _foreign(self, objectives: Objectives) -> str:
        ours, theirs = self.currency, objectives.currency
        if not ours or not theirs or ours == theirs:
            return ""
        return f"prices are in {ours}, the policy counts in {theirs}; nothing is converted: write both in one"

    def bill(
        self, charge: Charge, objectives: Objectives, sleep: Sleep, aside: Aside = at_once
    ) -> AbstractAsyncContextManager[Bill | None]:
        """Charge one call: reserve on entry, settle on exit however the call ends. No bill for a free backend.

        With a ledger on another machine, bookings are made *aside*.

        Raises (on entry):
            QuotaExceeded: the budget does not allow the call, or it cannot be booked; the backend is not called.
        """
        if charge.backend not in self.prices:
            return nullcontext()
        return Bill(self, charge, objectives.budget, sleep, aside if self.is_remote else at_once)

    def _highest(self, backend: str, prompt_tokens: int, max_tokens: int) -> int:
        prompt = math.ceil(prompt_tokens * self._ratios[backend]) + _TEMPLATE_TOKENS
        return self.prices[backend].cost(prompt, max_tokens)

    def _actual(self, charge: Charge, usage: Usage | None, tokens: int) -> int:
        """The price of the tokens as the backend counted them, else as they were counted here."""
        price = self.prices[charge.backend]
        if usage is None:
            return price.cost(charge.prompt_tokens, tokens)
        # Reserve more for a backend whose tokenizer counts more tokens than ours.
        more = (usage.prompt_tokens - _TEMPLATE_TOKENS) / max(1, charge.prompt_tokens)
        self._ratios[charge.backend] = max(self._ratios[charge.backend], min(_MAX_RATIO, more))
        return price.cost(usage.prompt_tokens, usage.completion_tokens)

    def entries(self) -> list[Entry]:
        """The lines of the ledger, the latest day first. HybridLLMError if it cannot be read."""
        try:
            return _trusted(self._ledger.entries)
        except LedgerError as error:
            fault = str(error)
        raise HybridLLMError(f"the spending cannot be read: {fault}")

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()


class Bill:
    """Counts the tokens of one call: an async context manager around it, see `Spending.bill`."""

    def __init__(self, spending: Spending, charge: Charge, budget: float | None, sleep: Sleep, aside: Aside) -> None:
        self.tokens = 0
        self.usage: Usage | None = None
        self.cost = 0.0
        """What was booked in the end, in the currency of the prices."""
        self._spending = spending
        self._charge = charge
        self._budget = budget
        self._sleep = sleep
        self._aside = aside

    def received(self, chunk: Chunk) -> None:
        """Count *chunk*. The backend's own count, which comes with the last chunk, overrides ours."""
        self.tokens += chunk.tokens
        self.usage = chunk.usage or self.usage

    async def __aenter__(self) -> Bill:
        charge, budget = self._charge, self._budget
        needed = self._spending._highest(charge.backend, charge.prompt_tokens, charge.max_tokens)
        limit = None if budget is None else ledgers.billionths(budget)
        work = partial(self._spending._ledger.reserve, charge.tenant or "", needed, limit)
        try:
            reservation = await self._booked(work, self._release)
        except LedgerError as error:
            raise QuotaExceeded(f"its price cannot be booked: {error}", backend=charge.backend) from None
        if reservation is None:
            message = f"the budget of {budget:g} a day does not allow another {needed / UNIT:.4g}"
            raise QuotaExceeded(message, backend=charge.backend)
        self._reservation = reservation
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        spending, backend = self._spending, self._charge.backend
        is_due = self.tokens > 0 or not isinstance(error, _NOT_TAKEN)
        amount = spending._actual(self._charge, self.usage, self.tokens) if is_due else 0
        book = partial(spending._ledger.settle, amount=amount) if is_due else spending._ledger.release
        try:
            await self._booked(partial(book, self._reservation), lambda _: None)
        except LedgerError as problem:
            # The highest price stays reserved until the end of the day: too much rather than too little.
            _log.warning("the cost of %s could not be booked and stays reserved: %s", backend, problem)
        else:
            self.cost = amount / UNIT
            with spending._lock:
                spending._booked[backend] += amount

    async def _booked(self, work: Callable[[], _T], drop: Callable[[_T], object]) -> _T:
        """Do *work*, again while another process is writing, up to the timeout; *drop* gets a late result."""
        pause, waited = 0.001, 0.0
        while True:
            try:
                return await self._aside(partial(_trusted, work), drop)
            except LedgerBusy:
                if waited >= _TIMEOUT_S:
                    raise
            await self._sleep(pause)
            waited, pause = waited + pause, min(0.05, 2.0 * pause)

    def _release(self, late: Reservation | None) -> None:
        """Undo what was reserved for a caller that had left; else it stays reserved until the end of the day."""
        if late is not None:
            guarded(partial(self._spending._ledger.release, late), "releasing a reservation")


def _trusted(work: Callable[[], _T]) -> _T:
    """What a ledger returns; whatever else it raises becomes a LedgerError with the class of that error."""
    try:
        return work()
    except LedgerError:
        raise
    except BaseException as error:
        if not is_fault(error):
            raise
        fault = type(error).__name__
    raise LedgerError(f"the ledger raised {fault}")

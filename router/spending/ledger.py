"""Prices of tokens, and the ledger: what each tenant has spent on each day (UTC), and what is reserved in flight.

A request reserves its highest price before it starts and settles its actual cost when it is over. Amounts are integers,
billionths of the currency, so that sums are exact. `Ledger` is the Protocol; `MemoryLedger` lasts as long as the
process, `stored.DatabaseLedger` is shared by the processes of a machine.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Number, Text, key
from hybrid_llm.core.savings import UNIT

_AMOUNT: Final = Number()


def _currency(text: str) -> str:
    if not (len(text) == 3 and text.isascii() and text.isalpha() and text.isupper()):
        raise ValueError(f"`{text}` is not three capital letters, such as USD")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(Checked):
    """Price per 1,000 tokens of prompt and answer, in *currency* (ISO 4217; empty means the policy's)."""

    input_per_1k: float = key(_AMOUNT, "Price of 1,000 tokens of the prompt.")
    output_per_1k: float = key(_AMOUNT, "Price of 1,000 tokens of the answer.")
    currency: str = key(
        Text("three capital letters, such as USD", "^[A-Z]{3}$", _currency),
        "Currency (ISO 4217), the same for all prices; by default that of the policy.",
        default="",
    )

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """The cost of that many tokens, in billionths, rounded up."""
        thousandths = prompt_tokens * billionths(self.input_per_1k)
        thousandths += completion_tokens * billionths(self.output_per_1k)
        return -(-thousandths // 1000)  # rounds up

    def per_1k(self, prompt_tokens: int, max_tokens: int) -> float:
        """The price per 1,000 tokens of a request of these sizes, prompt and answer together."""
        total = prompt_tokens + max_tokens
        if self.input_per_1k == self.output_per_1k or total <= 0:
            return self.output_per_1k
        return (prompt_tokens * self.input_per_1k + max_tokens * self.output_per_1k) / total


def priced(prices: Mapping[str, float | Price]) -> dict[str, Price]:
    """The backends that cost anything; a plain number is the price per 1,000 tokens of prompt and answer alike."""
    full = {
        name: price if isinstance(price, Price) else Price(input_per_1k=price, output_per_1k=price)
        for name, price in prices.items()
    }
    return {name: price for name, price in full.items() if price.input_per_1k or price.output_per_1k}


def currency_of(prices: Mapping[str, Price]) -> str:
    """The currency of *prices*, empty if none is named. Raises ConfigError if there are several."""
    named = {price.currency: name for name, price in prices.items() if price.currency}
    if len(named) > 1:
        listed = ", ".join(f"{name} in {currency}" for currency, name in sorted(named.items()))
        raise ConfigError(f"prices are in several currencies ({listed}); nothing is converted: use one currency")
    return next(iter(named), "")


def billionths(amount: float) -> int:
    """*amount* in billionths of its currency."""
    return round(amount * UNIT)


class LedgerError(Exception):
    """The ledger cannot be read or written; the message gives the reason, for people."""


class LedgerBusy(LedgerError):
    """Another process is writing; the same call may succeed in a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The amounts of one tenant on one *day*, in billionths of the currency."""

    day: str
    spent: int = 0
    reserved: int = 0

    @property
    def total(self) -> int:
        """Spent plus reserved."""
        return self.spent + self.reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What a request in flight may cost at most: *amount*, in billionths, on the *day* on which it began."""

    day: str
    tenant: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger; amounts in billionths."""

    day: str
    tenant: str
    currency: str
    spent: int
    reserved: int
    requests: int


class Ledger(Protocol):
    """Books amounts. Every call is atomic and thread-safe, and may raise `LedgerError`, or `LedgerBusy` to retry.

    The day never goes back: if the clock does, amounts are booked on the latest day seen so far.
    """

    def balance(self, tenant: str) -> Balance:
        """What *tenant* has spent and reserved today."""
        ...

    def reserve(self, tenant: str, amount: int, budget: int | None) -> Reservation | None:
        """Reserve *amount*; None if spent and reserved would then exceed *budget*. A *budget* of None is unlimited."""
        ...

    def settle(self, reservation: Reservation, amount: int) -> None:
        """Turn a reservation into *amount* spent; once per reservation."""
        ...

    def release(self, reservation: Reservation) -> None:
        """Cancel a reservation: the backend did no work."""
        ...

    def entries(self) -> list[Entry]:
        """All lines, the latest day first."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class BookingLedger(ABC):
    """The rules of booking, common to all ledgers; a subclass stores the lines."""

    def __init__(self, currency: str, clock: Callable[[], float]) -> None:
        self._currency = currency
        self._clock = clock
        self._lock = threading.Lock()

    def balance(self, tenant: str) -> Balance:
        """What *tenant* has spent and reserved today."""
        with self._transaction(writes=False):
            return self._read(tenant)

    def reserve(self, tenant: str, amount: int, budget: int | None) -> Reservation | None:
        """Reserve *amount* unless that would exceed *budget*."""
        with self._transaction(writes=True):
            balance = self._read(tenant)
            if budget is not None and balance.total + amount > budget:
                return None
            self._add(balance.day, tenant, 0, amount, 0)
            return Reservation(day=balance.day, tenant=tenant, amount=amount)

    def settle(self, reservation: Reservation, amount: int) -> None:
        """Turn a reservation into *amount* spent."""
        with self._transaction(writes=True):
            self._add(reservation.day, reservation.tenant, amount, -reservation.amount, 1)

    def release(self, reservation: Reservation) -> None:
        """Cancel a reservation."""
        with self._transaction(writes=True):
            self._add(reservation.day, reservation.tenant, 0, -reservation.amount, 0)

    @abstractmethod
    def _transaction(self, *, writes: bool) -> AbstractContextManager[object]: ...

    @abstractmethod
    def _read(self, tenant: str) -> Balance: ...

    @abstractmethod
    def _add(self, day: str, tenant: str, spent: int, reserved: int, requests: int) -> None: ...


class MemoryLedger(BookingLedger):
    """A ledger in memory. *clock* gives seconds since 1970."""

    def __init__(self, currency: str = "", clock: Callable[[], float] = time.time) -> None:
        super().__init__(currency, clock)
        self._day = ""
        self._lines: dict[tuple[str, str], tuple[int, int, int]] = {}  # day, tenant -> spent, reserved, requests

    def _transaction(self, *, writes: bool) -> AbstractContextManager[object]:  # noqa: ARG002  # the lock serves both
        return self._lock

    def _read(self, tenant: str) -> Balance:
        self._day = max(self._day, day_of(self._clock()))
        spent, reserved, _ = self._lines.get((self._day, tenant), (0, 0, 0))
        return Balance(day=self._day, spent=spent, reserved=reserved)

    def _add(self, day: str, tenant: str, spent: int, reserved: int, requests: int) -> None:
        old = self._lines.get((day, tenant), (0, 0, 0))
        self._lines[day, tenant] = (old[0] + spent, old[1] + reserved, old[2] + requests)

    def entries(self) -> list[Entry]:
        """All lines, the latest day first."""
        with self._lock:
            lines = sorted(self._lines.items(), key=lambda line: line[0][1])
        lines.sort(key=lambda line: line[0][0], reverse=True)
        return [
            Entry(day=day, tenant=tenant, currency=self._currency, spent=s, reserved=r, requests=n)
            for (day, tenant), (s, r, n) in lines
        ]

    def close(self) -> None:
        """Nothing is open."""


def day_of(seconds: float) -> str:
    """The day in UTC as `2026-11-25`, which sorts by time."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()

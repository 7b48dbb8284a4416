"""What tokens cost. Amounts are whole billionths of the currency, so that sums are exact; nobody is charged here.

What each tenant has spent on each day (UTC), and what requests in flight may still spend. It knows no prices.

A request reserves its highest price before it starts and settles for what it cost when it is over. `Ledger` is the
Protocol; `MemoryLedger` forgets with the process, `spend_file.FileLedger` is shared by the processes of a machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Number, Text, key

UNIT: Final = 1_000_000_000
"""Billionths in one unit of a currency."""
_AMOUNT: Final = Number(0.0, 1e9)


def _currency(text: str) -> str:
    if not (len(text) == 3 and text.isascii() and text.isalpha() and text.isupper()):
        raise ValueError(f"`{text}` is not three capital letters, such as USD")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Per 1,000 tokens of the prompt and of the answer, in *currency* (ISO 4217; empty takes that of the policy)."""

    input_per_1k: float = key(_AMOUNT, "Price of 1,000 tokens of the prompt.")
    output_per_1k: float = key(_AMOUNT, "Price of 1,000 tokens of the answer.")
    currency: str = key(
        Text("three capital letters, such as USD", "^[A-Z]{3}$", _currency),
        "Currency (ISO 4217), the same for all prices; by default that of the policy.",
        default="",
    )

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What that many tokens cost, in billionths, rounded up."""
        thousandths = prompt_tokens * _billionths(self.input_per_1k)
        thousandths += completion_tokens * _billionths(self.output_per_1k)
        return -(-thousandths // 1000)

    def per_1k(self, prompt_tokens: int, max_tokens: int) -> float:
        """The price per 1,000 tokens of a request of this shape, prompt and answer together."""
        total = prompt_tokens + max_tokens
        if self.input_per_1k == self.output_per_1k or total <= 0:
            return self.output_per_1k
        return (prompt_tokens * self.input_per_1k + max_tokens * self.output_per_1k) / total


def priced(prices: Mapping[str, float | Price]) -> dict[str, Price]:
    """The backends that cost something; a plain number is the price of 1,000 tokens of either kind."""
    full = {
        name: price if isinstance(price, Price) else Price(input_per_1k=price, output_per_1k=price)
        for name, price in prices.items()
    }
    return {name: price for name, price in full.items() if price.input_per_1k or price.output_per_1k}


def currency_of(prices: Mapping[str, Price]) -> str:
    """The one currency of *prices*, empty where none is named; ConfigError where there are two."""
    named = {price.currency: name for name, price in prices.items() if price.currency}
    if len(named) > 1:
        listed = ", ".join(f"{name} in {currency}" for currency, name in sorted(named.items()))
        raise ConfigError(f"prices are in several currencies ({listed}); nothing is converted: write all in one")
    return next(iter(named), "")


def _billionths(amount: float) -> int:
    return round(amount * UNIT)


class LedgerError(Exception):
    """The ledger cannot be read or written; the message says why, for people."""


class LedgerBusy(LedgerError):
    """Another process is writing; the same call may work in a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """One tenant's *day*, in billionths of the currency."""

    day: str
    spent: int = 0
    reserved: int = 0

    @property
    def total(self) -> int:
        """Spent, with the requests in flight at their highest price."""
        return self.spent + self.reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What a request in flight holds: *amount*, in billionths, on the *day* on which it began."""

    day: str
    tenant: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger."""

    day: str
    tenant: str
    currency: str
    spent: int
    reserved: int
    requests: int


class Ledger(Protocol):
    """Books amounts; every call is atomic, from any thread, and may raise `LedgerError`, or `LedgerBusy` to try again.

    The day never goes back: where a clock does, what follows is booked on the latest day that was seen.
    """

    def balance(self, tenant: str) -> Balance:
        """What *tenant* has spent and reserved today."""
        ...

    def reserve(self, tenant: str, amount: int, budget: int | None) -> Reservation | None:
        """Reserve *amount*; None where spent and reserved would then pass *budget*, which None never does."""
        ...

    def settle(self, reservation: Reservation, amount: int) -> None:
        """Turn a reservation into *amount* spent. Once for each reservation."""
        ...

    def release(self, reservation: Reservation) -> None:
        """Give a reservation back: the request was not taken."""
        ...

    def entries(self) -> list[Entry]:
        """All lines, the latest day first."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


@dataclass(slots=True)
class _Line:
    spent: int = 0
    reserved: int = 0
    requests: int = 0


class MemoryLedger:
    """A ledger of this process. *clock* gives seconds since 1970."""

    def __init__(self, currency: str = "", clock: Callable[[], float] = time.time) -> None:
        self._currency = currency
        self._clock = clock
        self._day = ""
        self._lines: dict[tuple[str, str], _Line] = {}
        self._lock = threading.Lock()

    def balance(self, tenant: str) -> Balance:
        """What *tenant* has spent and reserved today."""
        with self._lock:
            day = self._today()
            line = self._lines.get((day, tenant)) or _Line()
            return Balance(day=day, spent=line.spent, reserved=line.reserved)

    def reserve(self, tenant: str, amount: int, budget: int | None) -> Reservation | None:
        """Reserve *amount*, unless that would pass *budget*."""
        with self._lock:
            day = self._today()
            line = self._lines.setdefault((day, tenant), _Line())
            if budget is not None and line.spent + line.reserved + amount > budget:
                return None
            line.reserved += amount
            return Reservation(day=day, tenant=tenant, amount=amount)

    def settle(self, reservation: Reservation, amount: int) -> None:
        """Turn a reservation into *amount* spent."""
        self._close(reservation, amount, 1)

    def release(self, reservation: Reservation) -> None:
        """Give a reservation back."""
        self._close(reservation, 0, 0)

    def _close(self, reservation: Reservation, amount: int, requests: int) -> None:
        with self._lock:
            line = self._lines.setdefault((reservation.day, reservation.tenant), _Line())
            line.reserved -= reservation.amount
            line.spent += amount
            line.requests += requests

    def _today(self) -> str:
        self._day = max(self._day, day_of(self._clock()))
        return self._day

    def entries(self) -> list[Entry]:
        """All lines, the latest day first."""
        with self._lock:
            lines = sorted(self._lines.items())
        lines.sort(key=lambda item: item[0][0], reverse=True)
        return [
            Entry(
                day=day,
                tenant=tenant,
                currency=self._currency,
                spent=line.spent,
                reserved=line.reserved,
                requests=line.requests,
            )
            for (day, tenant), line in lines
        ]

    def close(self) -> None:
        """Nothing is open."""


def day_of(seconds: float) -> str:
    """The day in UTC of an instant, as `2026-11-25`: texts that sort as days do."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()

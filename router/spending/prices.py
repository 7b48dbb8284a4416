"""What tokens cost. Amounts are whole billionths of the currency, so that sums are exact; nobody is charged here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.errors import ConfigError

__all__ = ["UNIT", "Price", "currency_of", "priced"]

UNIT: Final = 1_000_000_000
"""Billionths in one unit of a currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Per 1,000 tokens of the prompt and of the answer, in *currency* (ISO 4217; empty takes that of the policy)."""

    input_per_1k: float
    output_per_1k: float
    currency: str = ""

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

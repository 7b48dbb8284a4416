"""What a cache of answers was asked, and what its hits saved."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

UNIT: Final = 1_000_000_000
"""Amounts of money are counted in billionths, as whole numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """Counts of requests that may be cached, and the work that was not done again. They add up."""

    hits: int = 0
    """Requests that were answered from the cache."""
    misses: int = 0
    """Requests whose answer was not there."""
    joined: int = 0
    """Of these, those that got the answer of an identical one in flight."""
    prompt_tokens: int = 0
    """Tokens of prompts that no backend read again."""
    completion_tokens: int = 0
    """Tokens of answers that no backend wrote again."""
    ms: int = 0
    """How long backends took for the answers that were replayed, ms."""
    spend: int = 0
    """What the tokens would have cost by the prices of the backends, in billionths of their currency."""

    def __add__(self, other: Savings) -> Savings:
        return Savings(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    @property
    def hit_ratio(self) -> float:
        """The share of requests for which no backend was called, from 0 to 1."""
        requests = self.hits + self.misses
        return (self.hits + self.joined) / requests if requests else 0.0

"""What a cache of answers was asked, and what its hits saved."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """Counts of requests that may be cached, and the work that was not done again. They add up."""

    hits: int = 0
    """Requests that were answered from the cache."""
    joined: int = 0
    """Requests that got the answer of an identical one in flight."""
    misses: int = 0
    """Requests for which a backend was called."""
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
    def requests(self) -> int:
        """All of them."""
        return self.hits + self.joined + self.misses

    @property
    def hit_ratio(self) -> float:
        """The share of requests for which no backend was called, from 0 to 1."""
        return (self.hits + self.joined) / self.requests if self.requests else 0.0

"""A whole answer that is cached, and what a cache of answers is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.generation import FinishReason, Usage
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.request import Location
from hybrid_llm.core.savings import Savings


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """A complete answer and what gave it. Its text never shows in `repr`."""

    text: str = field(repr=False)
    finish_reason: FinishReason
    usage: Usage
    backend: str
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)
    model: str = ""
    """The model of the backend, and its version where that is known: under another one, the answer is not replayed."""
    policy: str = ""
    """The digest of the policy under which it was given: under another one, the answer is not replayed."""
    took_ms: float = 0.0
    """How long the backend took for it, ms."""


class AnswerCache(Protocol):
    """Stores answers at *location*. Both methods require a clearance for it and for `Purpose.CACHE`."""

    @property
    def location(self) -> Location:
        """Where the answers are stored, as privacy tags see it."""

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        """The cached answer to the same request; PrivacyViolation without a clearance."""

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Store *answer*; PrivacyViolation without a clearance."""

    def close(self) -> None:
        """Release what it holds. Answers in memory are dropped."""


@runtime_checkable
class SavingsBook(Protocol):
    """A cache that stores what it has saved, beyond the life of a client."""

    def book(self, savings: Savings, currency: str = "") -> None:
        """Add *savings*, of which money is in *currency*; it must be fast, and may be stored later."""

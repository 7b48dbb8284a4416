"""Presence and frequency penalties, as OpenAI's API defines them: what logits lose to the answer so far.

For a token that the answer has `count` times, `logit -= presence_penalty * (count > 0) + frequency_penalty * count`.
Tokens of the prompt do not count; those of a partial answer that is continued do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from hybrid_llm.core.request import Sampling


class Array(Protocol):
    """A vector of numpy or torch."""

    def __setitem__(self, index: int, value: float, /) -> None: ...


A = TypeVar("A", bound=Array)


class AnswerPenalty(Generic[A]):
    """What the logit of each token loses, shape (vocabulary,). A token of the answer costs one write."""

    __slots__ = ("_counts", "_sampling", "deductions")

    def __init__(self, sampling: Sampling, deductions: A, answer: Iterable[int] = ()) -> None:
        """*deductions*: zeros, to be filled; *answer*: the tokens of the partial answer."""
        self._sampling = sampling
        self._counts: Counter[int] = Counter()
        self.deductions = deductions
        """To be subtracted from the logits before temperature."""
        for token in answer:
            self.add(token)

    def add(self, token: int) -> None:
        """Count one more *token* of the answer."""
        count = self._counts[token] = self._counts[token] + 1
        self.deductions[token] = self._sampling.presence_penalty + self._sampling.frequency_penalty * count

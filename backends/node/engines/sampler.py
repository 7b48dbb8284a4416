"""Draws the next token of one request from its logits: the grammar of its JSON Schema masks them, then it samples.

A request has its own random generator, so a seed repeats whatever else runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from hybrid_llm.backends.penalties import AnswerPenalty
from hybrid_llm.backends.schema import SchemaNotFollowed
from hybrid_llm.core.request import Sampling

_BITS = 32
_FIRST_SORT = 256
"""The nucleus is searched among this many of the likeliest tokens before all are sorted."""


class SchemaMatcher:
    """Restricts the next token of one answer to those that its schema allows."""

    def __init__(self, matcher: Any, *, vocab_size: int) -> None:
        self._matcher = matcher
        self._words = torch.zeros((vocab_size + _BITS - 1) // _BITS, dtype=torch.int32)
        self._vocab_size = vocab_size
        self._bits = torch.arange(_BITS, dtype=torch.int32)

    @property
    def done(self) -> bool:
        """Whether the answer is complete, and nothing may follow."""
        return bool(self._matcher.is_stopped())

    @property
    def failed(self) -> bool:
        """Whether it was advanced by a token that it does not allow."""
        return bool(self._matcher.is_error())

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        """*logits* with minus infinity for tokens that would violate the schema.

        Raises:
            SchemaNotFollowed: the matcher failed, for instance because the grammar grew too large.
        """
        self._matcher.unsafe_compute_mask_ptr(self._words.data_ptr(), self._words.numel() * 4)
        if self._matcher.is_error() or not self._words.any():
            raise SchemaNotFollowed
        # One bit a token, 32 in a word, the lowest first: shift each word by 0 to 31 and keep the last bit.
        allowed = ((self._words[:, None] >> self._bits) & 1).bool().flatten()[: self._vocab_size]
        return logits.masked_fill(~allowed, -torch.inf)

    def accept(self, token: int) -> None:
        """Advance the matcher by *token*."""
        self._matcher.consume_token(token)


class Sampler:
    """The sampling settings of one request and their state: a random generator, the tokens seen, a grammar.

    The order is that of transformers: penalties, grammar, temperature, top-k, top-p, min-p, draw. The penalties come in
    vLLM's order: repetition, then frequency and presence. Each draw uses one uniform number, so the n-th token depends
    on the logits and the seed alone.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        vocab_size: int,
        prompt_ids: Iterable[int],
        partial_ids: Iterable[int] = (),
        constraint: SchemaMatcher | None = None,
    ) -> None:
        """*prompt_ids*: all that the model reads; *partial_ids*: those of them that are a partial answer."""
        self._sampling = sampling
        self._constraint = constraint
        self._seen: torch.Tensor | None = None
        if sampling.repetition_penalty != 1.0:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool)
            self._seen[list(prompt_ids)] = True
        self._answer: AnswerPenalty[torch.Tensor] | None = None
        if sampling.penalises_answer:
            self._answer = AnswerPenalty(sampling, torch.zeros(vocab_size), partial_ids)
        self._random = torch.Generator()
        if not sampling.is_greedy and sampling.seed is not None:
            self._random.manual_seed(sampling.seed % 2**63)
        elif not sampling.is_greedy:
            self._random.seed()

    @property
    def plain(self) -> bool:
        """Whether the next token is the likeliest, without any processing of the logits."""
        return self._sampling.is_greedy and not (self._seen is not None or self._answer or self._constraint)

    @property
    def done(self) -> bool:
        """Whether the grammar is complete, and nothing may follow."""
        return self._constraint is not None and self._constraint.done

    def pick(self, logits: torch.Tensor) -> int:
        """Draw the next token from *logits*, of shape (vocab,), in float32 on the cpu."""
        logits = self._penalised(logits)
        if self._constraint is not None:
            logits = self._constraint.masked(logits)
        if self._sampling.is_greedy:
            return int(logits.argmax())
        return self._draw(self._probabilities(logits))

    def accept(self, token: int) -> None:
        """Append *token* to the answer."""
        if self._seen is not None:
            self._seen[token] = True
        if self._answer is not None:
            self._answer.add(token)
        if self._constraint is not None:
            self._constraint.accept(token)

    def replay(self, tokens: Iterable[int]) -> None:
        """Append *tokens* that another engine drew with the same settings: the next draw is the one after theirs.

        Raises:
            SchemaNotFollowed: the grammar does not allow them.
        """
        for token in tokens:
            if not self._sampling.is_greedy:
                torch.rand(1, generator=self._random, dtype=torch.float64)
            self.accept(token)
        if self._constraint is not None and self._constraint.failed:
            raise SchemaNotFollowed

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        if self._seen is not None:
            penalty = self._sampling.repetition_penalty
            logits = torch.where(self._seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
        return logits if self._answer is None else logits - self._answer.deductions

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Unnormalised probabilities; 0 for tokens that top-k, top-p or min-p exclude."""
        sampling = self._sampling
        scores = (logits - logits.max()) / sampling.temperature
        if 0 < sampling.top_k < len(scores):
            scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[-1], -torch.inf)
        probabilities = scores.softmax(-1)
        if sampling.top_p < 1:
            probabilities = torch.where(probabilities >= _nucleus_edge(probabilities, sampling.top_p), probabilities, 0)
        if sampling.min_p > 0:
            probabilities = torch.where(probabilities >= sampling.min_p * probabilities.max(), probabilities, 0)
        return probabilities

    def _draw(self, probabilities: torch.Tensor) -> int:
        cumulative = probabilities.double().cumsum(-1)
        point = torch.rand(1, generator=self._random, dtype=torch.float64) * cumulative[-1]
        return min(int(torch.searchsorted(cumulative, point, right=True)), len(cumulative) - 1)


def _nucleus_edge(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest probability inside the nucleus: the likeliest tokens that together reach *top_p*."""
    for count in (min(_FIRST_SORT, len(probabilities)), len(probabilities)):
        likeliest = probabilities.topk(count).values
        before = likeliest.cumsum(-1) - likeliest
        inside = int((before < top_p).sum())
        if inside < count:
            break
    return likeliest[max(inside, 1) - 1]

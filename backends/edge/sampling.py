"""Chooses the tokens of one answer: a grammar's mask, then penalty, temperature and filters. Logits in, an id out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.edge.model import Logits
from hybrid_llm.backends.penalties import AnswerPenalty
from hybrid_llm.backends.schema import SchemaNotFollowed
from hybrid_llm.core.request import Sampling

if TYPE_CHECKING:
    from llguidance import LLMatcher

Ids = NDArray[np.intp]

_FIRST_SORT = 512
"""Candidates for the nucleus that are sorted at first; more only if these do not reach top_p."""


class Grammar:
    """The state of one answer inside its schema."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size
        self._words = np.zeros((1, (vocab_size + 31) // 32), dtype=np.int32)

    @property
    def complete(self) -> bool:
        """Whether the answer is a whole document, and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.bool_]:
        """Return the mask of allowed next tokens, shape (vocab_size,); valid until the next call.

        Raises:
            SchemaNotFollowed: the matcher failed, for instance because the grammar grew too large.
        """
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._words, 0)
        if self._matcher.is_error() or not self._words.any():
            raise SchemaNotFollowed
        # 32 tokens a word: bytes in little-endian order, and the lowest bit first, are the tokens in order.
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")[: self._vocab_size]
        return bits.view(np.bool_)

    def forced(self) -> list[int]:
        """The tokens that must follow, if only one text may."""
        return list(self._matcher.compute_ff_tokens())

    def fork(self) -> Grammar:
        """A copy that goes its own way."""
        return Grammar(self._matcher.deep_copy(), self._vocab_size)

    def follow(self, token: int) -> bool:
        """Advance by a token, if it is allowed; whether it is."""
        return bool(self._matcher.try_consume_tokens([token]))

    def take(self, token_id: int) -> None:
        """Advance by a token that the mask allows."""
        if not self._matcher.consume_token(token_id):
            raise SchemaNotFollowed


class Sampler:
    """Draws the tokens of one answer. The order of the filters is transformers': penalties, temperature, k, p, min-p.

    The penalties come in vLLM's order: repetition, then frequency and presence.
    """

    def __init__(self, sampling: Sampling, prompt: Iterable[int], vocab_size: int, partial: Iterable[int] = ()) -> None:
        """*prompt*: all that the model reads; *partial*: those of its tokens that are a partial answer."""
        self._sampling = sampling
        self._greedy = sampling.is_greedy
        self._random = None if self._greedy else np.random.default_rng(sampling.seed)
        self._seen: NDArray[np.bool_] | None = None
        if sampling.repetition_penalty != 1.0:
            self._seen = np.zeros(vocab_size, dtype=np.bool_)
            self._seen[list(prompt)] = True
        self._answer: AnswerPenalty[Logits] | None = None
        if sampling.penalises_answer:
            self._answer = AnswerPenalty(sampling, np.zeros(vocab_size, dtype=np.float32), partial)

    def draw(self, logits: Logits, allowed: NDArray[np.bool_] | None = None) -> int:
        """Return the next token's id. *logits* is modified; *allowed* is a grammar's mask of the vocabulary.

        Raises:
            FloatingPointError: the logits are not finite: the model is broken.
        """
        if self._seen is not None:
            _penalise(logits, self._seen, self._sampling.repetition_penalty)
        if self._answer is not None:
            logits -= self._answer.deductions
        if allowed is not None:
            logits[~allowed] = -np.inf
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):
            raise FloatingPointError("the model's logits are not finite")
        token = best if self._greedy else self._draw(logits, logits[best])
        if self._seen is not None:
            self._seen[token] = True
        if self._answer is not None:
            self._answer.add(token)
        return token

    def _draw(self, logits: Logits, highest: np.float32) -> int:
        weights = np.exp((logits - highest) / np.float32(self._sampling.temperature))
        ids = _largest(weights, self._sampling.top_k) if self._sampling.top_k else np.flatnonzero(weights)
        if self._sampling.top_p < 1.0:
            ids = _nucleus(weights, ids, self._sampling.top_p)
        ids = ids[weights[ids] >= self._sampling.min_p * weights[ids].max()]
        # A draw by the cumulative sum needs no normalised probabilities; in float64, so that no token is rounded away.
        cumulative = np.cumsum(weights[ids], dtype=np.float64)
        assert self._random is not None
        at = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
        return int(ids[min(at, len(ids) - 1)])


def _largest(weights: Logits, count: int) -> Ids:
    """Ids of the *count* largest weights, unordered."""
    if count >= len(weights):
        return np.flatnonzero(weights)
    return np.argpartition(weights, len(weights) - count)[len(weights) - count :]


def _nucleus(weights: Logits, ids: Ids, top_p: float) -> Ids:
    """The fewest of *ids*, likeliest first, that hold *top_p* of their weight; sorts as few as possible."""
    target = top_p * float(weights[ids].sum(dtype=np.float64))
    # All tokens below this weight together cannot reach the remaining 1 - top_p, so none of them is in the nucleus.
    ids = ids[weights[ids] >= (1.0 - top_p) * target / top_p / len(ids)]
    size = _FIRST_SORT
    while size < len(ids):
        head = ids[_largest(weights[ids], size)]
        if weights[head].sum(dtype=np.float64) >= target:
            ids = head
            break
        size *= 8
    ordered: Ids = ids[np.argsort(-weights[ids], kind="stable")]
    count = int(np.searchsorted(np.cumsum(weights[ordered], dtype=np.float64), target)) + 1
    return ordered[:count]


def _penalise(logits: Logits, seen: NDArray[np.bool_], penalty: float) -> None:
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)

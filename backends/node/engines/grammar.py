"""Holds an answer to a JSON Schema, by masking the tokens that would break it. The matching is llguidance's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from hybrid_llm.backends.node.engine import EngineRequest
from hybrid_llm.backends.schema import check_schema, new_matcher

__all__ = ["Constraint", "GrammarFactory", "SchemaMatcher"]

_BITS = 32


class Constraint(Protocol):
    """What may come next in one answer."""

    @property
    def done(self) -> bool:
        """Whether the answer is complete and nothing can follow."""
        ...

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        """*logits* of shape (vocab,) with minus infinity where a token may not come next."""
        ...

    def accept(self, token: int) -> None:
        """The answer goes on with *token*."""
        ...


class GrammarFactory:
    """Compiles schemas for the tokenizer of one model folder; reads `tokenizer.json` at the first schema."""

    def __init__(self, tokenizer: Path, *, vocab_size: int) -> None:
        self._path = tokenizer
        self._vocab_size = vocab_size
        self._tokenizers: dict[frozenset[int], Any] = {}

    def compile(self, request: EngineRequest) -> Constraint | None:
        """A matcher for one answer; None where the request has no schema.

        Raises:
            UnusableSchema: the schema is refused, or what there is of the answer does not follow it.
        """
        if request.output_schema is None:
            return None
        check_schema(request.output_schema)
        matcher = new_matcher(self._tokenizer(request.eos_ids), request.output_schema, request.answer_prefix)
        return SchemaMatcher(matcher, vocab_size=self._vocab_size)

    def _tokenizer(self, eos_ids: frozenset[int]) -> Any:
        from llguidance import LLTokenizer

        if eos_ids not in self._tokenizers:
            text = self._path.read_text(encoding="utf-8")
            ends = sorted(eos_ids) or None
            self._tokenizers[eos_ids] = LLTokenizer(text, n_vocab=self._vocab_size, eos_token=ends)
        return self._tokenizers[eos_ids]


class SchemaMatcher:
    """A `Constraint` over an llguidance matcher."""

    def __init__(self, matcher: Any, *, vocab_size: int) -> None:
        self._matcher = matcher
        self._words = torch.zeros((vocab_size + _BITS - 1) // _BITS, dtype=torch.int32)
        self._vocab_size = vocab_size
        self._bits = torch.arange(_BITS, dtype=torch.int32)

    @property
    def done(self) -> bool:
        """Whether the answer is complete and nothing can follow."""
        return bool(self._matcher.is_stopped())

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        """*logits* with minus infinity where a token would break the schema.

        Raises:
            RuntimeError: the matcher gave up, for instance on a grammar that grew too large.
        """
        self._matcher.unsafe_compute_mask_ptr(self._words.data_ptr(), self._words.numel() * 4)
        if self._matcher.is_error():
            raise RuntimeError("the schema's matcher gave up")
        allowed = ((self._words[:, None] >> self._bits) & 1).bool().flatten()[: self._vocab_size]
        return logits.masked_fill(~allowed, -torch.inf)

    def accept(self, token: int) -> None:
        """Advance the matcher by *token*."""
        self._matcher.consume_token(token)

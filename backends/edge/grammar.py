"""A JSON Schema as a mask over the vocabulary, token by token, through llguidance. Draws nothing itself."""

from __future__ import annotations

import json
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from tokenizers import Tokenizer

__all__ = ["Grammar", "GrammarCompiler", "UnusableSchema"]


_COMPACT: Any = {"whitespace_pattern": r"( |\n {0,24})"}
"""Between the parts of a document: nothing, a blank, or a line break with indentation. Free whitespace would let a
small model fill its answer with it."""


class UnusableSchema(ValueError):
    """The output schema is no JSON, or more than the compiler does. *reason* is as in `RequestRejected`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class GrammarCompiler:
    """Compiles schemas for one tokenizer, which is prepared once, on first use (a second for a large vocabulary)."""

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self._tokenizer, self._vocab_size, self._eos_ids = tokenizer, vocab_size, sorted(eos_ids)
        self._prepared: Any = None
        self._lock = Lock()

    def compile(self, schema: str) -> Grammar:
        """Return a fresh matcher for one answer.

        Raises:
            UnusableSchema: the schema cannot be used; its text is not quoted.
        """
        from llguidance import LLMatcher

        try:
            parsed = json.loads(schema)
        except ValueError:
            raise UnusableSchema("output_schema is not JSON", reason="invalid_argument") from None
        if not isinstance(parsed, dict):
            raise UnusableSchema("output_schema must be a JSON object", reason="invalid_argument")
        matcher = LLMatcher(
            self._ll_tokenizer(), LLMatcher.grammar_from_json_schema(schema, overrides=_COMPACT), log_level=0
        )
        if matcher.is_error():
            raise UnusableSchema("the output_schema cannot be turned into a grammar", reason="unsupported")
        return Grammar(matcher, self._vocab_size)

    def _ll_tokenizer(self) -> Any:
        from llguidance import LLTokenizer

        with self._lock:
            if self._prepared is None:
                text = self._tokenizer.to_str()
                self._prepared = LLTokenizer(text, n_vocab=self._vocab_size, eos_token=self._eos_ids)
            return self._prepared


class Grammar:
    """Where one answer stands inside its schema."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size
        self._words = np.zeros((1, (vocab_size + 31) // 32), dtype=np.int32)

    @property
    def complete(self) -> bool:
        """Nothing may follow: the answer is a whole document."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.bool_]:
        """Return the mask of tokens that may come next, shape (vocab_size,); valid until the next call."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._words, 0)
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")[: self._vocab_size]
        return bits.view(np.bool_)

    def take(self, token_id: int) -> None:
        """Advance by a token that the mask allowed."""
        if not self._matcher.consume_token(token_id):
            raise ValueError("the token is not allowed here")

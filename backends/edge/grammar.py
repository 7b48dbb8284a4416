"""A JSON Schema as a mask over the vocabulary, token by token, through llguidance. Draws nothing itself."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.schema import check_schema, new_matcher

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from tokenizers import Tokenizer

__all__ = ["Grammar", "GrammarCompiler"]


class GrammarCompiler:
    """Compiles schemas for one tokenizer, which is prepared once, on first use (a second for a large vocabulary)."""

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self._tokenizer, self._vocab_size, self._eos_ids = tokenizer, vocab_size, sorted(eos_ids)
        self._prepared: Any = None
        self._lock = Lock()

    def compile(self, schema: str, prefix: str = "") -> Grammar:
        """Return a fresh matcher for one answer that begins with *prefix*.

        Raises:
            UnusableSchema: the schema cannot be used, or *prefix* does not follow it; no text is quoted.
        """
        check_schema(schema)
        return Grammar(new_matcher(self._ll_tokenizer(), schema, prefix), self._vocab_size)

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

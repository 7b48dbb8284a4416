"""Compiles JSON Schemas into llguidance grammars, the same for the device and for nodes.

A keyword that the grammar cannot enforce is rejected by name before anything runs. Device and nodes accept the same
schemas, so that one can continue an answer that the other has begun.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


_COMPACT: Final[Any] = {"whitespace_pattern": r"( |\n {0,24})"}
"""Between the parts of a document: nothing, a space, or a line break with indentation. If whitespace were unlimited, a
small model might generate nothing else."""
_KEYWORD: Final = re.compile(r"\$?[A-Za-z]{1,40}")


class UnusableSchema(ValueError):
    """The output schema is not JSON, or cannot be enforced. *reason* is as in `RequestRejected`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@lru_cache(maxsize=256)
def check_schema(schema: str) -> str:
    """Return the grammar of *schema*, JSON text.

    Raises:
        UnusableSchema: it cannot be enforced; the message names the keyword and quotes nothing else of the schema.
    """
    from llguidance import LLMatcher

    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError):
        raise UnusableSchema("output_schema is not JSON", reason="invalid_argument") from None
    if not isinstance(parsed, dict):
        raise UnusableSchema("output_schema must be a JSON object", reason="invalid_argument")
    try:
        grammar: str = LLMatcher.grammar_from_json_schema(schema, overrides=_COMPACT)
        problem = LLMatcher.validate_grammar(grammar)
    except (ValueError, RuntimeError, TypeError):
        raise UnusableSchema("the output_schema cannot be turned into a grammar", reason="unsupported") from None
    if problem:
        raise UnusableSchema(_message(problem), reason="unsupported")
    return grammar


def _message(problem: str) -> str:
    """The problem, without the parts of the schema that llguidance quotes."""
    if problem.startswith("Unimplemented keys:"):
        keys = ", ".join(f"`{key}`" for key in _KEYWORD.findall(problem.partition(":")[2]))
        return f"output_schema: {keys} cannot be enforced; remove it, or check it in the app"
    if problem.startswith("Unknown format"):
        return "output_schema: a `format` is unknown; date, time, date-time, duration, email, uuid and others are known"
    if problem.startswith("Pointer"):
        return "output_schema: a `$ref` has no target; it must point into the schema itself, such as #/$defs/name"
    if problem.startswith("regex"):
        return "output_schema: a `pattern` cannot be enforced: it is no regular expression, or uses look-around"
    return "the output_schema cannot be turned into a grammar"


class SchemaCompiler:
    """Compiles schemas for one tokenizer, which is prepared at the first schema: a second for a large vocabulary."""

    def __init__(self, tokenizer_json: Callable[[], str], *, vocab_size: int) -> None:
        self._tokenizer_json, self.vocab_size = tokenizer_json, vocab_size
        self._tokenizers: dict[frozenset[int], LLTokenizer] = {}
        self._lock = Lock()

    def matcher(self, schema: str, eos_ids: frozenset[int], prefix: str = "") -> LLMatcher:
        """Return a matcher for one answer that begins with *prefix* and may end with one of *eos_ids*.

        Raises:
            UnusableSchema: the schema cannot be enforced, or *prefix* violates it; no text is quoted.
        """
        from llguidance import LLMatcher

        grammar = check_schema(schema)
        tokenizer = self._tokenizer(eos_ids)
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise UnusableSchema("the output_schema cannot be turned into a grammar", reason="unsupported")
        if prefix and not matcher.consume_tokens(tokenizer.tokenize_str(prefix)):
            raise UnusableSchema("the partial answer does not follow the output_schema", reason="unsupported")
        return matcher

    def _tokenizer(self, eos_ids: frozenset[int]) -> LLTokenizer:
        from llguidance import LLTokenizer

        with self._lock:
            if eos_ids not in self._tokenizers:
                self._tokenizers[eos_ids] = LLTokenizer(
                    self._tokenizer_json(), n_vocab=self.vocab_size, eos_token=sorted(eos_ids) or None
                )
            return self._tokenizers[eos_ids]

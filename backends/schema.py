"""JSON Schemas that answers must follow: one subset and one grammar for the device and for nodes. It masks nothing.

The grammar is llguidance's. What it cannot enforce is refused by name before anything runs, so that a schema that the
device takes is one that a node takes, and an answer that one of them began can be continued by the other.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


_COMPACT: Final[Any] = {"whitespace_pattern": r"( |\n {0,24})"}
"""Between the parts of a document: nothing, a blank, or a line break with indentation. Free whitespace would let a
small model fill its answer with it."""
_KEYWORD: Final = re.compile(r"\$?[A-Za-z]{1,40}")


class UnusableSchema(ValueError):
    """The output schema is no JSON, or more than the grammar does. *reason* is as in `RequestRejected`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@lru_cache(maxsize=256)
def check_schema(schema: str) -> str:
    """The grammar of *schema*, JSON text.

    Raises:
        UnusableSchema: it cannot be used; the message names the keyword, and quotes nothing else of the schema.
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
        raise UnusableSchema(_told(problem), reason="unsupported")
    return grammar


def _told(problem: str) -> str:
    """What is wrong, without the parts of the schema that the library quotes."""
    if problem.startswith("Unimplemented keys:"):
        keys = ", ".join(f"`{key}`" for key in _KEYWORD.findall(problem.partition(":")[2]))
        return f"output_schema: {keys} cannot be enforced; leave it out, or check it in the app"
    if problem.startswith("Unknown format"):
        return "output_schema: a `format` is not known; date, time, date-time, duration, email, uuid and the like are"
    if problem.startswith("Pointer"):
        return "output_schema: a `$ref` leads nowhere; it must point into the schema itself, such as #/$defs/name"
    if problem.startswith("regex"):
        return "output_schema: a `pattern` is not a regular expression that can be enforced (no look-around)"
    return "the output_schema cannot be turned into a grammar"


def new_matcher(tokenizer: LLTokenizer, schema: str, prefix: str = "") -> LLMatcher:
    """A matcher for one answer that begins with *prefix*.

    Raises:
        UnusableSchema: the schema cannot be used, or *prefix* is no beginning of a document that follows it.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, check_schema(schema), log_level=0)
    if matcher.is_error():
        raise UnusableSchema("the output_schema cannot be turned into a grammar", reason="unsupported")
    if prefix and not matcher.consume_tokens(tokenizer.tokenize_str(prefix)):
        raise UnusableSchema("the answer so far does not follow the output_schema", reason="unsupported")
    return matcher

"""Compiles JSON Schemas into llguidance grammars, the same for the device and for nodes.

A keyword that the grammar cannot enforce is rejected by name before anything runs. Device and nodes accept the same
schemas, so that one can continue an answer that the other has begun.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.schema_rules import (
    LIMITS,
    BrokenRule,
    check_rules,
    pointer,
    read_schema,
    schema_text,
    subschemas,
)
from hybrid_llm.core.tracebacks import is_fault

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


WHITESPACE: Final = r"( |\n {0,24})"
"""Between the parts of a document: nothing, a space, or a line break with indentation. If whitespace were unlimited, a
small model might generate nothing else."""
_MOST_CHECKED: Final = 256
_MOST_TRIED: Final = 64
"""Schemas inside a schema that are tried for the place of a problem."""
_PROBLEMS: Final = {
    "Unsatisfiable": "no value can follow it: its rules contradict each other",
    "Unknown format": "the `format` is unknown; date, time, date-time, duration, email, uuid and others are known",
    "regex": "a `pattern` cannot be enforced: it is no regular expression, or uses look-around",
    "oneOf": "`oneOf` cannot be enforced where a value may follow several of its schemas; use `anyOf`",
    "min/maxProperties": "`minProperties` and `maxProperties` cannot be enforced unless every property is required",
    "Value for 'multipleOf'": "`multipleOf` has too many digits to be enforced",
    "": "it cannot be turned into a grammar",
}
"""How a problem of llguidance begins -> what is said of it."""
_ALSO: Final = {
    "incompatible types": "type",
    "interval (": "exclusiveMinimum",
    "interval [": "minimum",
    "doesn't match length": "enum",
    "required property": "required",
    "required item": "items",
    "Regex is empty": "pattern",
    "multiple of": "multipleOf",
}
"""What llguidance calls a contradiction -> the keyword."""
_UNUSABLE: Final = "the output_schema cannot be turned into a grammar"
_WORD: Final = re.compile(r"[A-Za-z]+")
_KEYWORD: Final = re.compile(r"\$?[A-Za-z]{1,40}")


class UnusableSchema(ValueError):
    """The output schema is not JSON, or cannot be enforced. *reason* is as in `RequestRejected`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class SchemaNotFollowed(Exception):
    """The matcher of one answer has failed, since its grammar grew too large: the request's fault, not the model's."""


class _Checked:
    """Which schemas were found to be usable, by keyed digests: their texts may be private. Thread-safe."""

    def __init__(self) -> None:
        self._key, self._lock = secrets.token_bytes(32), Lock()
        self._digests: dict[bytes, None] = {}

    def _digest(self, schema: str) -> bytes:
        return blake2b(schema.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).digest()

    def __contains__(self, schema: str) -> bool:
        return self._digest(schema) in self._digests

    def add(self, schema: str) -> None:
        with self._lock:
            self._digests[self._digest(schema)] = None
            if len(self._digests) > _MOST_CHECKED:
                del self._digests[next(iter(self._digests))]


_checked: Final = _Checked()


def check_schema(schema: str) -> str:
    """Return the grammar of *schema*, JSON text, of which nothing is kept.

    Raises:
        UnusableSchema: it cannot be enforced; the message has the keyword and its place, and quotes no value.
    """
    if schema in _checked:
        return _grammar(schema)
    grammar = _first_checked(schema)
    _checked.add(schema)
    return grammar


def _first_checked(schema: str) -> str:
    try:
        parsed = read_schema(schema)
    except BrokenRule as broken:
        raise UnusableSchema(f"output_schema: {broken}", reason="invalid_argument") from None
    try:
        check_rules(parsed)
    except BrokenRule as broken:
        raise UnusableSchema(f"output_schema: {broken}", reason="unsupported") from None
    grammar, problem = _compiled(schema)
    if problem:
        raise UnusableSchema(_message(problem, parsed), reason="unsupported")
    return grammar


def _grammar(schema: str) -> str:
    from llguidance import LLMatcher

    grammar: str = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": WHITESPACE})
    return grammar


def as_text(schema: object) -> str:
    """*schema*, a dict, as JSON text. Raises UnusableSchema with the place of what JSON cannot hold."""
    try:
        return schema_text(schema)
    except BrokenRule as broken:
        raise UnusableSchema(f"output_schema: {broken}", reason="invalid_argument") from None


def _compiled(schema: str) -> tuple[str, str]:
    """The grammar, and what the compiler says against it."""
    from llguidance import LLMatcher

    try:
        grammar = _grammar(schema)
        return grammar, str(LLMatcher.validate_grammar(grammar))
    except BaseException as error:  # its text quotes the schema
        if not is_fault(error):
            raise
        return "", "no grammar"


def _message(problem: str, schema: dict[str, Any]) -> str:
    """The problem and its place, without the parts of the schema that llguidance quotes."""
    if problem.startswith("Unimplemented keys:"):
        names = _KEYWORD.findall(problem.partition(":")[2])
        places = ", ".join(f"`{name}`{_where(schema, name)}" for name in names)
        return f"output_schema: {places} cannot be enforced; remove it, or check it in the app"
    why = next((why for start, why in _PROBLEMS.items() if problem.startswith(start)), _PROBLEMS[""])
    return ": ".join(filter(None, ("output_schema", _blamed(problem, schema), why + _named(problem))))


def _named(problem: str) -> str:
    """The keywords of a contradiction, which llguidance names between values of the schema."""
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|/.*/", "", problem) if problem.startswith("Unsatisfiable") else ""
    words = dict.fromkeys(word for word in _WORD.findall(plain) if word in LIMITS)
    also = (also for start, also in _ALSO.items() if start in plain)
    named = ", ".join(f"`{word}`" for word in (*words, *also))
    return f" ({named})" if named else ""


def _where(schema: dict[str, Any], keyword: str) -> str:
    """The place of *keyword* in the first schema that has it."""
    places = (place for place, node in subschemas(schema) if isinstance(node, dict) and keyword in node)
    return f" at {pointer((*place, keyword))}" if (place := next(places, None)) is not None else ""


def _blamed(problem: str, schema: dict[str, Any]) -> str:
    """The place of the innermost schema that alone has the same problem."""
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    inner = list(islice(subschemas(schema), _MOST_TRIED))
    for place, node in reversed(inner):
        if place and isinstance(node, dict) and _compiled(_text({**shared, **node}))[1] == problem:
            return pointer(place)
    return pointer(())


def _text(schema: object) -> str:
    return json.dumps(schema, default=float)


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
        return self.grammar_matcher(check_schema(schema), eos_ids, (prefix,) if prefix else ())

    def grammar_matcher(self, grammar: str, eos_ids: frozenset[int], prefix: Sequence[str | int] = ()) -> LLMatcher:
        """Do as `matcher` does, for a grammar of llguidance; *prefix* has texts and ids of control tokens."""
        from llguidance import LLMatcher

        tokenizer = self._tokenizer(eos_ids)
        try:
            matcher = LLMatcher(tokenizer, grammar, log_level=0)
        except BaseException as error:  # a panic of the compiler, whose text quotes the schema
            if not is_fault(error):
                raise
            raise UnusableSchema(_UNUSABLE, reason="unsupported") from None
        if matcher.is_error():
            raise UnusableSchema(_UNUSABLE, reason="unsupported")
        # Any split will do. `tokenize_str` caches the words, which belong to an answer.
        split = tokenizer.greedy_tokenize
        ids = [id_ for piece in prefix for id_ in ([piece] if isinstance(piece, int) else split(piece))]
        if ids and not matcher.consume_tokens(ids):
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

"""The parts of CEL that the language leaves out, by name: what an error says of each. It parses nothing.

Source: the language definition of CEL (github.com/google/cel-spec, doc/langdef.md) and its extension libraries.
"""

from __future__ import annotations

from collections.abc import Collection

from hybrid_llm.policies.source import Fault, did_you_mean

__all__ = ["RESERVED", "WORDS", "refused_call", "refused_name", "refused_word"]

WORDS = {"and": "&&", "or": "||", "not": "!", "AND": "&&", "OR": "||", "NOT": "!", "is": "=="}
"""Words that people write for operators."""

RESERVED = frozenset(
    """as break const continue else for function if import let loop package namespace return var void while
    null""".split()  # noqa: SIM905 - a list literal of reserved words would be one word a line
)

_MACROS = frozenset(
    """all exists exists_one existsOne map filter transformList transformMap transformMapEntry sortBy optMap
    optFlatMap""".split()  # noqa: SIM905 - as above
)
_FUNCTIONS = frozenset(
    """bool bytes duration dyn int string timestamp type uint getDate getDayOfMonth getDayOfWeek getDayOfYear
    getFullYear getHours getMilliseconds getMinutes getMonth getSeconds""".split()  # noqa: SIM905 - as above
)
_EXTENSIONS = frozenset(
    """charAt indexOf lastIndexOf lowerAscii upperAscii replace split join substring trim reverse quote format
    slice flatten sort distinct range first last lists greatest least ceil floor round trunc abs sign sqrt isNaN isInf
    isFinite bitAnd bitOr bitXor bitNot bitShiftLeft bitShiftRight encode decode bind block index iterVar accuVar
    getExt hasExt of none ofNonZeroValue value hasValue orValue or unwrap unwrapOpt contains_ci ip isIP cidr isCIDR
    family isUnspecified isLoopback isGlobalUnicast isLinkLocalMulticast isLinkLocalUnicast isCanonical containsIP
    containsCIDR masked prefixLength extract extractAll find findAll""".split()  # noqa: SIM905 - as above
)
_NAMESPACES = frozenset(
    {"math", "strings", "lists", "sets", "base64", "optional", "cel", "proto", "regex", "net", "ip"}
)
_TYPES = frozenset(
    """bool bytes double int uint string list map type null_type duration timestamp google dyn
    optional_type""".split()  # noqa: SIM905 - as above
)
_HINTS = {
    "duration": "write the duration as it is: 400ms",
    "timestamp": "a policy sees no clock",
    "int": "int and double compare without a conversion",
    "null": "test with has() whether a signal is there",
}


def refused_word(word: str, offset: int) -> Fault:
    """The fault of a reserved word, or of a word written for an operator."""
    hint = f"write `{WORDS[word]}`" if word in WORDS else _HINTS.get(word, "it is a reserved word of CEL")
    return Fault(f"`{word}` is not part of this language", offset, hint)


def refused_name(name: str) -> tuple[str, str] | None:
    """Message and hint for a first name that means something in CEL and nothing here; None where it means nothing."""
    if name in _TYPES:
        return f"`{name}` names a type of CEL; types are not values of this language", "every name has one type"
    if name in _NAMESPACES:
        return f"the extension library `{name}` of CEL is not part of this language", "see docs/policies.md"
    return None


def refused_call(
    name: str, namespace: str, offset: int, known: Collection[str], others: Collection[str], form: str
) -> Fault:
    """The fault of calling *name*: *known* are callable in this form, *others* in the other one, which is *form*."""
    if name in others:
        return Fault(f"{name} is not called like this", offset, f"write {form}")
    if namespace in _NAMESPACES:
        return Fault(f"the extension function {namespace}.{name}() of CEL is not part of this language", offset)
    if name in _MACROS:
        return Fault(f"the macro {name}() of CEL is not part of this language", offset, "there are no loops; use `in`")
    if name in _FUNCTIONS:
        return Fault(f"{name}() of CEL is not part of this language", offset, _HINTS.get(name))
    if name in _EXTENSIONS:
        return Fault(f"the extension function {name}() of CEL is not part of this language", offset)
    return Fault(f"there is no function {name}()", offset, did_you_mean(name, {*known, *others}))

"""Metrics of single texts: exact match and F1 of SQuAD, and JSON that follows a schema."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = frozenset(string.punctuation)


def normalised(text: str) -> str:
    """*text* in lower case, without punctuation, English articles and double spaces (Rajpurkar et al., SQuAD, 2016)."""
    kept = "".join(char for char in text.lower() if char not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if *answer* is one of *references* once both are normalised, else 0."""
    return float(any(normalised(answer) == normalised(reference) for reference in references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """The best F1 of the words that *answer* shares with one of *references*, as in SQuAD's own script."""
    return max((_f1(normalised(answer).split(), normalised(each).split()) for each in references), default=0.0)


def _f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    common = (Counter(answer) & Counter(reference)).total()
    return 2 * common / (len(answer) + len(reference)) if common else 0.0


def json_valid(answer: str, schema: Mapping[str, Any] | None) -> float:
    """1 if *answer* as a whole is JSON, and follows *schema* where there is one, else 0."""
    import jsonschema

    try:
        value = json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    if schema is None:
        return 1.0
    return float(jsonschema.Draft202012Validator(schema).is_valid(value))


def json_equal(answer: str, references: Sequence[str]) -> float:
    """1 if *answer* as a whole is JSON with the value of one of *references*, else 0: 1 is 1.0, and not true."""
    try:
        return float(_canonical(answer) in map(_canonical, references))
    except (ValueError, RecursionError):
        return 0.0


def _canonical(text: str) -> str:
    return json.dumps(json.loads(text, parse_constant=_refuse, parse_float=_number), sort_keys=True)


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _refuse(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON

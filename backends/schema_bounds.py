"""What an output schema may cost: bounds on its size, checked before a grammar is made of it.

The grammar compiler's own limits do not cover a divisor, whose automaton has a state for each remainder, nor patterns
that are intersected. The bounds on sizes are those of OpenAI's structured outputs, rounded up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

MOST_CHARACTERS: Final = 128 * 1024
"""Of the schema's JSON text."""
_MOST_SCHEMAS: Final = 5000
_MOST_VALUES: Final = 5000
_MOST_LEAST: Final = 1_000_000
"""No answer has more tokens, so none has more characters of a text, items or properties that must be there."""
_MOST_DIVISOR: Final = 10_000
_MOST_PATTERN: Final = 4096
_MOST_REPEATED: Final = 20_000
_MOST_MERGED: Final = 4
_MINIMA: Final = ("minLength", "minItems", "minProperties", "minContains")
_REGEX_TOKEN: Final = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{(\d+)(?:,(\d*))?\}|.", re.DOTALL)

Place = tuple[str | int, ...]
Nodes = Mapping[Place, Any]


class TooLarge(ValueError):
    """A bound is exceeded at *place*; *why* says which, and quotes no value of the schema."""

    def __init__(self, place: Place, why: str) -> None:
        super().__init__(why)
        self.place, self.why = place, why


def check_bounds(nodes: Nodes) -> None:
    """Raise `TooLarge` for the keyword with which *nodes*, all schemas inside one by their places, cost too much.

    The values of their keywords are of the right kinds.
    """
    if len(nodes) > _MOST_SCHEMAS:
        raise TooLarge((), f"it has more than {_MOST_SCHEMAS} schemas inside")
    _check_sum(_keywords(nodes, "enum"), len, _MOST_VALUES, "the schema's lists of values have more than {} values")
    for keyword in _MINIMA:
        for place, least in _keywords(nodes, keyword):
            if least > _MOST_LEAST:
                raise TooLarge(place, f"no answer is that long: at most {_MOST_LEAST} can be required")
    patterns = list(_patterns(nodes))
    _check_sum(patterns, len, _MOST_PATTERN, "the schema's patterns have more than {} characters")
    _check_sum(patterns, pattern_size, _MOST_REPEATED, "the schema's patterns, with repetitions, exceed {} characters")
    _check_merged(nodes)
    _check_divisors(nodes)


def pattern_size(pattern: str) -> int:
    """The characters of a regular expression whose counted repetitions are written out: `(ab){10}` has 20."""
    groups, last = [0], 0
    for token in _REGEX_TOKEN.finditer(pattern):
        if token[1] is not None:
            times = max(int(token[1][:9]), int((token[2] or "0")[:9]), 1)
            groups[-1] += last * (times - 1)
            last *= times
        elif token[0] == "(":
            groups.append(0)
        elif token[0] == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        else:
            last = 1
            groups[-1] += 1
    return sum(groups)


def _keywords(nodes: Nodes, keyword: str) -> Iterator[tuple[Place, Any]]:
    """The place and the value of each *keyword*."""
    for place, node in nodes.items():
        if isinstance(node, dict) and keyword in node:
            yield (*place, keyword), node[keyword]


def _patterns(nodes: Nodes) -> Iterator[tuple[Place, str]]:
    yield from _keywords(nodes, "pattern")
    for place, named in _keywords(nodes, "patternProperties"):
        for pattern in named:
            yield (*place, pattern), pattern


def _check_sum(found: Any, size: Any, most: int, why: str) -> None:
    total = 0
    for place, value in found:
        total += size(value)
        if total > most:
            raise TooLarge(place, why.format(most))


def _check_merged(nodes: Nodes) -> None:
    """Bound the patterns and formats of which one text must follow all."""
    all_of = {place for place, _ in _keywords(nodes, "allOf")}
    counts = dict.fromkeys(all_of, 0)
    for keyword in ("pattern", "format"):
        for place, _ in _keywords(nodes, keyword):
            for length in range(1, len(place)):
                if place[:length] in all_of:
                    counts[place[:length]] += 1
                    if counts[place[:length]] > _MOST_MERGED:
                        raise TooLarge(place[:length], f"it combines more than {_MOST_MERGED} patterns and formats")


def _check_divisors(nodes: Nodes) -> None:
    merged = any(True for _ in _keywords(nodes, "allOf")) or any(
        isinstance(node, dict) and "$ref" in node and len(node) > 1 for node in nodes.values()
    )
    seen: set[int] = set()
    for place, value in _keywords(nodes, "multipleOf"):
        _, digits, exponent = Decimal(value).normalize().as_tuple()
        seen.add(int("".join(map(str, digits))) * 10 ** max(int(exponent), 0))
        if (math.prod(seen) if merged else sum(seen)) > _MOST_DIVISOR:
            raise TooLarge(place, f"the schema's divisors exceed {_MOST_DIVISOR} together")

"""From the labelled tokens of a text to spans of whole words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Final, NamedTuple

from hybrid_llm.backends.encoder.files import type_of

_JOINT: Final = re.compile(r"[ \xa0]?|[-‐‑'’]|\.[ \xa0]?")
"""Between the words of one value: `Jane Doe`, `Jean-Luc`, `O'Brien`, `J. Doe`. Models often begin one at each word."""
_ATTACHED: Final = frozenset({"Mn", "Mc", "Me", "Cf"})
"""Categories of characters that belong to the one before: combining marks, variation selectors, joiners."""


class Token(NamedTuple):
    """A token: its span in characters, the index of its word, and the label that the model assigned; empty for none."""

    start: int
    end: int
    word: int
    label: str


class Span(NamedTuple):
    """Characters *start* to *end* (exclusive) that are of *kind*."""

    start: int
    end: int
    kind: str


def spans(tokens: Iterable[Token], kinds: Mapping[str, str], text: str) -> list[Span]:
    """The words of *text* that have a labelled token, the words of one value joined; *kinds* maps labels to kinds."""
    joined: list[Span] = []
    for word in _words(tokens, kinds, text):
        last = joined[-1] if joined else None
        if last is not None and last.kind == word.kind and _JOINT.fullmatch(text, last.end, max(last.end, word.start)):
            joined[-1] = Span(last.start, max(last.end, word.end), last.kind)
        else:
            joined.append(word)
    return [trimmed for span in joined if (trimmed := _trimmed(span, text)) is not None]


def _words(tokens: Iterable[Token], kinds: Mapping[str, str], text: str) -> Iterator[Span]:
    """Every word that has a labelled token, with the first label in it."""
    for _, group in groupby(tokens, key=lambda token: token.word):
        parts = list(group)
        label = next((token.label for token in parts if token.label), "")
        if label:
            end = max(token.end for token in parts)
            yield Span(min(token.start for token in parts), _attached(text, end), kinds[type_of(label)])


def _attached(text: str, end: int) -> int:
    while end < len(text) and unicodedata.category(text[end]) in _ATTACHED:
        end += 1
    return end


def _trimmed(span: Span, text: str) -> Span | None:
    """*span* without white space at its ends; None if nothing is left."""
    value = text[span.start : span.end]
    start, end = span.start + len(value) - len(value.lstrip()), span.end - len(value) + len(value.rstrip())
    return Span(start, end, span.kind) if start < end else None


def merged(found: Iterable[Span]) -> list[Span]:
    """*found* in order; spans of one kind that overlap, as pieces of a text may, become one."""
    result: list[Span] = []
    last: dict[str, int] = {}
    for span in sorted(found):
        index = last.get(span.kind)
        if index is not None and span.start < result[index].end:
            result[index] = Span(result[index].start, max(span.end, result[index].end), span.kind)
        else:
            last[span.kind] = len(result)
            result.append(span)
    return result

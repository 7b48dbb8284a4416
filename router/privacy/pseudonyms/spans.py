"""Spans of a text that are replaced, and where their replacements stand in the written text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple


class Span(NamedTuple):
    """The characters *start* to *end* of a text, which hold a value of *kind*."""

    start: int
    end: int
    kind: str


class Placed(NamedTuple):
    """A replacement in the written text: its characters *start* to *end* stand for *span* of the source."""

    start: int
    end: int
    span: Span


def merge(spans: Iterable[Span]) -> list[Span]:
    """Merge overlapping spans; the longest one gives the kind, the first of those that are equally long."""
    merged: list[Span] = []
    longest = last = 0
    for span in sorted(spans, key=itemgetter(0)):
        start, end, kind = span
        if start >= last:
            merged.append(span)
            longest, last = end - start, end
        elif end > last or end - start > longest:
            first = merged[-1]
            merged[-1] = Span(first.start, max(last, end), kind if end - start > longest else first.kind)
            longest, last = max(longest, end - start), max(last, end)
    return merged


def source(offset: int, placed: Sequence[Placed], *, end: bool) -> int:
    """*offset* of the written text as an offset of the source; inside a replacement, the start or end of its span."""
    before = bisect_right(placed, offset, key=_end)
    if before < len(placed) and placed[before].start < offset:
        return placed[before].span.end if end else placed[before].span.start
    return offset + (placed[before - 1].span.end - placed[before - 1].end if before else 0)


def _end(placed: Placed) -> int:
    return placed.end

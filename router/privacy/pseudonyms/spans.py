"""Spans of a text that are replaced, and where their replacements stand in the written text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from operator import itemgetter

Span = tuple[int, int, str]
"""The characters *start* to *end* of a text, which hold a value of *kind*.

A plain tuple, which the garbage collector leaves alone: visiting the spans of a long text would hold up every thread.
"""
Placed = tuple[int, int]
"""Where a replacement starts and ends in the written text."""


def merge(spans: Iterable[Span]) -> list[Span]:
    """Merge overlapping spans; the longest one gives the kind, the first of those that are equally long."""
    merged: list[Span] = []
    longest = last = 0
    for span in sorted(spans, key=itemgetter(0)):
        start, end, kind = span
        if start >= last:
            merged.append(span)
            longest, last = end - start, end
        elif end > last:  # one that ends within is no longer than the one that it ends in
            first, _, known = merged[-1]
            merged[-1] = (first, end, kind if end - start > longest else known)
            longest, last = max(longest, end - start), end
    return merged


def source(offset: int, placed: Sequence[Placed], spans: Sequence[Span], *, end: bool) -> int:
    """*offset* of the written text as an offset of the source; inside a replacement, the start or end of its span.

    Each of the *spans* of the source was replaced; where, is *placed*.
    """
    before = bisect_right(placed, offset, key=itemgetter(1))
    if before < len(placed) and placed[before][0] < offset:
        first, behind, _ = spans[before]
        return behind if end else first
    return offset + spans[before - 1][1] - placed[before - 1][1] if before else offset

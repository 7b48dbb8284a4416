"""Cuts a text into the pieces that a model reads one by one, at the ends of lines and sentences where possible.

Such a cut needs no overlap, as names do not cross it. Where a piece has no such end, the next one repeats its last
characters, so that every word is seen with context on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

SIZE: Final = 400
"""Characters of a piece at most: enough context; the cost of attention grows with the square."""
OVERLAP: Final = 64
_LETTER: Final = re.compile(r"[^\W\d_]")
_ENDS: Final = (re.compile(r".*\n", re.DOTALL), re.compile(r".*(?:[.!?…]['\")\]]?\s|[。！？；])", re.DOTALL))
_GAP: Final = re.compile(r".*\s", re.DOTALL)


def pieces(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each piece of *text* that has a letter; pieces may overlap."""
    start = 0
    while start < len(text):
        end, following = _cut(text, start)
        if _LETTER.search(text, start, end):
            yield start, end
        start = following


def _cut(text: str, start: int) -> tuple[int, int]:
    """Where the piece that begins at *start* ends, and where the next begins, which is always later."""
    rest = len(text) - start
    if rest <= SIZE:
        return len(text), len(text)
    least, most = start + SIZE // 2, start + (SIZE if rest > SIZE * 3 // 2 else rest * 2 // 3)
    for ends in _ENDS:
        if found := ends.match(text, least, most):
            return found.end(), found.end()
    gap = _GAP.match(text, least, most)
    end = gap.end() if gap else most
    back = _GAP.match(text, end - OVERLAP * 2, end - OVERLAP)
    return end, back.end() if back else end - OVERLAP

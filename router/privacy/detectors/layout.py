"""Which words name a value: the key of its pair, the header of its column, the element around it.

The notations are known to `pairs`, `tables` and `markup`. Cells may be nested, as a line of a form inside a string of
JSON is; they are found once in each view, when a match first needs them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

from hybrid_llm.router.privacy.detectors.cells import Cell, Label
from hybrid_llm.router.privacy.detectors.markup import markup
from hybrid_llm.router.privacy.detectors.pairs import pairs
from hybrid_llm.router.privacy.detectors.tables import tables
from hybrid_llm.router.privacy.detectors.text import View

_NESTED: Final = 8
"""How many cells that begin before a value are looked at for those around it."""
_CAMEL: Final = re.compile("([a-z0-9])([A-Z])")


class Layout(NamedTuple):
    """The cells of a view, by start, the longer first."""

    cells: Sequence[Cell]
    starts: Sequence[int]

    def around(self, start: int, end: int) -> list[Cell]:
        """The cells around the characters *start* to *end*, the innermost first."""
        behind = bisect_right(self.starts, start)
        before = self.cells[max(0, behind - _NESTED) : behind]
        return [cell for cell in reversed(before) if end <= cell.end]


def layout(view: View) -> Layout:
    """The cells of *view*, found once."""
    if layout not in view.notes:
        found = [cell for search in (pairs, tables, markup) for cell in search(view.data)]
        found.sort(key=lambda cell: (cell.start, -cell.end))
        view.notes[layout] = Layout(found, [cell.start for cell in found])
    noted: Layout = view.notes[layout]
    return noted


def shown(view: View, label: Label) -> str:
    """The words of *label*, once as written and once with those apart that are joined as in `phoneNumber`."""
    text = " ".join([view.text[start:end] for start, end in label])
    apart = _CAMEL.sub(r"\1 \2", text).replace("_", " ")
    return text if apart == text else f"{text}\n{apart}"

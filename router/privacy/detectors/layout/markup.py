"""Values in XML and HTML: labelled by their element, its attributes, the header of their column, the term before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hybrid_llm.core.looks import bounded
from hybrid_llm.router.privacy.detectors.layout.pairs import Cell, Label

_Span = tuple[int, int]
_ELEMENT: Final = re.compile(rb"<([A-Za-z][A-Za-z0-9_:.-]{0,40})([^<>]{0,300})>([^<]{0,400})")
_ATTRIBUTE: Final = re.compile(
    rb"([A-Za-z_][A-Za-z0-9_:.-]{0,30})\s{0,2}=\s{0,2}(?:\"([^\"]{0,100})\"|'([^']{0,100})')"
)
_LONGEST: Final = 800
"""More characters than an element and its text have at most."""
_NAMES: Final = frozenset(
    b"name id key label for title field data-label data-field placeholder aria-label property itemprop column"
    b" autocomplete type".split()
)
_VALUES: Final = frozenset((b"value", b"content"))
_PLAIN: Final = frozenset(
    b"td th dd dt span p div b strong li string value em i u code a option label font h1 h2 h3 h4 h5 h6 text tt small"
    b" pre kbd samp key entry item field input meta data property param tr table tbody thead caption ul ol dl body html"
    b" button".split()
)
"""Elements that say nothing about the values in them."""
_CONTROLS: Final = frozenset((b"input", b"textarea", b"select", b"option", b"output"))
"""Elements of forms, which the text before them names."""
_TERMS: Final = frozenset(b"dt th td label key b strong span em name p div".split())
"""Elements whose text may name the value in the next one."""


def markup(data: bytes) -> Iterator[Cell]:
    """Yield the text of each element, and the attributes that hold a value."""
    if b"<" not in data:
        return
    table = _Table()
    term: Label = ()
    for match in bounded(_ELEMENT, data, _LONGEST):
        tag = match[1].lower()
        named = () if tag in _PLAIN else (match.span(1),)
        found = list(_ATTRIBUTE.finditer(data, *match.span(2))) if match[2] else ()
        label: Label = (*named, *(_quoted(each) for each in found if each[1].lower() in _NAMES))
        if tag in _CONTROLS:
            label, term = (*label, *term), ()
        for each in found:
            if each[1].lower() not in _NAMES:
                yield Cell(*_quoted(each), label if each[1].lower() in _VALUES and label else (each.span(1),))
        column = table.column(tag, match.span(3))
        if match[3].strip():
            yield Cell(*match.span(3), label or column or term, (*column, *term) if label or column else ())
            if tag in _TERMS or match[3].rstrip().endswith(b":"):
                term = (match.span(3),)


def _quoted(attribute: re.Match[bytes]) -> _Span:
    return attribute.span(attribute.lastindex or 0)


class _Table:
    """The columns of a table: the first row names them."""

    def __init__(self) -> None:
        self._header: list[_Span] = []
        self._rows = self._index = 0

    def column(self, tag: bytes, text: _Span) -> Label:
        """The header above the field that begins with *tag*; empty in the first row and outside of a table."""
        if tag == b"table":
            self._rows, self._header = 0, []
        elif tag == b"tr":
            self._rows, self._index = self._rows + 1, 0
        elif tag in {b"td", b"th"}:
            if self._rows <= 1:
                self._header.append(text)
                return ()
            self._index += 1
            return (self._header[self._index - 1],) if self._index <= len(self._header) else ()
        return ()

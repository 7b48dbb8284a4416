"""Values in XML and HTML: labelled by their element, its attributes, the header of their column, the term before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
    b"name n id key label for title field data-label data-field placeholder aria-label property itemprop column"
    b" autocomplete type".split()
)
_VALUES: Final = frozenset((b"value", b"content"))
_PLAIN: Final = frozenset(
    b"td th dd dt span p div b strong li string value em i u code a option label font h1 h2 h3 h4 h5 h6 text tt small"
    b" pre kbd samp key entry item field input meta data property param tr table tbody thead caption ul ol dl body html"
    b" button".split()
)
"""Elements that say nothing about the values in them."""
_PAGE: Final = frozenset(b"html body form div section main p span ul ol table tr tbody thead a button meta".split())
"""Elements of a page, whose names say nothing about what is in them."""
_NEAR: Final = 60
"""Characters of a sentence that are looked at before an element."""
_CONTROLS: Final = frozenset((b"input", b"textarea", b"select", b"option", b"output"))
"""Elements of forms, which the text before them names."""
_INLINE: Final = frozenset(b"b strong i em u code span font tt small kbd samp mark a".split())
"""Elements that may be a part of a sentence, which names them."""
_SENTENCE: Final = re.compile(rb"[^<>]{0,60}$")
_REST: Final = re.compile(rb"</[A-Za-z0-9:]{1,40}>([^<>.!?;\n]{0,40})")
_PARENTS: Final = frozenset(b"name n key label field data-label data-field property itemprop column id".split())
"""Attributes of an element that name what is in its child."""
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
        found = list(_ATTRIBUTE.finditer(data, *match.span(2))) if match[2] else []
        label: Label = (*named, *(_quoted(each) for each in found if each[1].lower() in _NAMES))
        if tag in _CONTROLS:
            label, term = (*label, *term), ()
        yield from _values(found, label)
        column = table.column(tag, match.span(3))
        if not match[3].strip():
            term = (not match[2].endswith(b"/") and _parent(tag, found)) or term
            continue
        own = label or column or _sentence(data, match)
        yield Cell(*match.span(3), own or term, (*column, *term) if own else ())
        if tag in _TERMS or match[3].rstrip().endswith(b":"):
            term = (match.span(3),)


def _values(found: Sequence[re.Match[bytes]], label: Label) -> Iterator[Cell]:
    """The attributes of an element that are values; those for any value are named by the others."""
    for each in found:
        if each[1].lower() not in _NAMES:
            yield Cell(*_quoted(each), label if each[1].lower() in _VALUES and label else (each.span(1),))


def _parent(tag: bytes, found: Sequence[re.Match[bytes]]) -> Label:
    """The attributes of an element without a text of its own that name what is in its child."""
    if tag in _PAGE or tag in _CONTROLS:
        return ()
    return tuple([_quoted(each) for each in found if each[1].lower() in _PARENTS])


def _sentence(data: bytes, element: re.Match[bytes]) -> Label:
    """The words before and behind an element that is a part of a sentence; empty for one that stands alone."""
    start, end = element.span()
    if element[1].lower() not in _INLINE:
        return ()
    before = _SENTENCE.search(data, max(0, start - _NEAR), start)
    behind = _REST.match(data, end)
    spans = [match for match in (before and before.span(), behind and behind.span(1)) if match]
    return tuple([(first, last) for first, last in spans if data[first:last].strip()])


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

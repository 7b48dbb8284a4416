"""Where codes stand in a text: escapes, entities, the `+` of forms, elements of HTML that only change its looks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hybrid_llm.core.looks import PIECES, bounded, look, looked

_ELEMENT: Final = (
    rb"(?:b|i|u|s|em|strong|span|wbr|font|code|mark|small|sub|sup|tt|kbd|bdi)"
    rb"(?: (?:class|style|id)=\"[\w :;.#-]{0,40}\"){0,2} ?/?>"
)
_TAGS: Final = rb"(?:<" + _ELEMENT + rb"|<!--[ A-Za-z]{0,12}-->)+|(?:</" + _ELEMENT + rb")+"
"""Elements that begin, or that end: where one ends and another begins, there are two values."""
_SIGNS: Final = (b"\\", b"%", b"&", b"\xa2", b"<", b"]]>")
"""How codes begin; most texts hold none of these bytes."""
_CODES: Final = re.compile(
    rb"(?P<unseen>\xa2+)|(?P<cdata><!\[CDATA\[|\]\]>|<!-- {0,3}-->)"
    rb"|(?P<tag>" + _TAGS + rb")"
    rb"|(?P<entity>&(?:#[0-9]{1,10};?|#[xX][0-9a-fA-F]{1,8};?|[a-zA-Z][a-zA-Z0-9]{1,30};|(?:amp|lt|gt|quot|nbsp|shy)))"
    rb"|(?P<url>(?:%[0-9a-fA-F]{2})+)|(?P<unicode>(?:[\\%]u[0-9a-fA-F]{4})+)"
    rb"|(?P<point>\\(?:u\{[0-9a-fA-F]{1,6}\}|x\{[0-9a-fA-F]{1,6}\}|U[0-9a-fA-F]{8}|N\{U\+[0-9a-fA-F]{1,6}\}))"
    rb"|(?P<name>\\N\{[A-Za-z0-9 -]{2,80}\})"
    rb"|(?P<octal>\\o\{[0-7]{1,3}\}|(?:\\[01][0-7]{2}){2,}|\\(?:0[45][0-7]|07[2-7]|100|13[3-7]|140|17[3-6]))"
    rb"|(?P<css>\\0000[2-7][0-9a-fA-F] ?|\\0{0,3}[2-7][0-9a-fA-F] )"
    rb"|(?P<escape>\\(?:x[0-9a-fA-F]{2}|[nrtbf]|[!-/:-@\[-`{-~]))"
)
_WITHIN: Final = frozenset((b"@", b".", b"-", b"_"))
"""What may stand within a number or an address."""
_PAIR: Final = re.compile(rb"(?:\A|[\s\"'`?&])([^\s=&?\"'<>]{1,60})=([^\s=&\"'<>]{1,200})")
_NEXT: Final = re.compile(rb"&[^\s=&]{1,60}=")
_LONGEST: Final = 270
"""More characters than a pair has."""
_SPACED: Final = re.compile(rb"\+?[A-Za-z0-9%.,:/()_-]{1,20}(?:\+[A-Za-z0-9%.,:/()_-]{1,20})+")
"""Words with `+` between them; longer runs are base64 or formulas."""
_ADDRESS: Final = b"%40"
_PLUS: Final = b"+"[0]


def codes(data: bytes) -> list[re.Match[bytes]]:
    """Every code in *data*, in order. Searching for each first byte separately is much faster than for all at once."""
    matches: list[re.Match[bytes]] = []
    for sign in _SIGNS:
        if sign in data:
            matches += looked(_codes_of(data, sign))
    return sorted(matches, key=re.Match.start)


def _codes_of(data: bytes, sign: bytes) -> Iterator[re.Match[bytes]]:
    at, tries = data.find(sign), 0
    while at >= 0:
        tries += 1
        if tries % PIECES == 0:
            look()
        match = _CODES.match(data, at)
        if match is not None:
            yield match
        at = data.find(sign, at + 1 if match is None else match.end())


def spaces(data: bytes) -> Iterator[int]:
    """Where a `+` in *data* stands for a space, since it is within the name or the value of a form; in order."""
    if b"+" not in data or b"=" not in data:
        return
    for match in bounded(_PAIR, data, _LONGEST):
        is_form = match[0][:1] in {b"?", b"&"} or _NEXT.match(data, match.end()) is not None
        for start, end in (match.span(1), match.span(2)) if is_form else ():
            if _SPACED.fullmatch(data, start, end) and _ADDRESS not in data[start:end]:
                yield from (at for at in range(start + 1, end) if data[at] == _PLUS)


def is_within(data: bytes, start: int, end: int) -> bool:
    """Whether the elements at *start* to *end* are within a number or an address, not between two words."""
    before, behind = data[max(0, start - 2) : start], data[end : end + 2]
    if before[-1:] in _WITHIN or before[-1:].isdigit():
        return behind[:1].isalnum() or behind[:1] in _WITHIN or (behind[:1] == b" " and behind[1:].isdigit())
    if before[-1:] == b" ":
        return before[:1].isdigit() and behind[:1].isdigit()
    return before[-1:].isalpha() and behind[:1] in _WITHIN and behind[1:].isalnum()

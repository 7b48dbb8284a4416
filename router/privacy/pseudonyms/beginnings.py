"""Whether a text that broke off ends with the beginning of a known value, in any spelling.

What counts is what could still become a value: its first characters as they are, in normal form, behind an escape that
is cut off itself, spelled out (`jane dot doe at`), as a date in any notation, or encoded in base64 or hexadecimal.
Only the end of the text is looked at, so that time is linear.
"""

from __future__ import annotations

import binascii
import quopri
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.router.privacy.detectors.text import decoded
from hybrid_llm.router.privacy.pseudonyms.dates import Date, begins_date
from hybrid_llm.router.privacy.pseudonyms.patterns import Patterns
from hybrid_llm.router.privacy.pseudonyms.spelling import TRUNK_REACH, WIDEST, Normal, is_edge, opens_number

_CODE: Final = 16
"""Characters that one encoded character has at most, three layers deep."""
_LEAST: Final = 512
_MIDWORD: Final = 6
"""So many characters count within a word too."""
_CUT: Final = re.compile(
    r"(?:\\+(?:u\{?[0-9a-fA-F]{0,5}|U[0-9a-fA-F]{0,7}|x[0-9a-fA-F]?|N(?:\{[A-Z -]*)?"
    r"|[ux]\{[0-9a-fA-F]{0,6}|o\{[0-7]{0,3}|[0-7]{1,2})?"
    r"|(?:%25)+[0-9a-fA-F]?|%u[0-9a-fA-F]{0,3}|=[0-9A-F]?|<[!/]?[a-z]{0,8}[^<>]{0,60}"
    r"|(?:%25)*(?:%[c-fC-F][0-9a-fA-F](?:%[89abAB][0-9a-fA-F]){0,2})?(?:%[0-9a-fA-F]?)"
    r"|(?:%[c-fC-F][0-9a-fA-F](?:%[89abAB][0-9a-fA-F]){0,2})"
    r"|&(?:amp;)*(?:#(?:[xX][0-9a-fA-F]{0,6}|[0-9]{0,7})|[A-Za-z][A-Za-z0-9]{0,10})?)\Z"
)
"""A code whose end is missing."""
_STARTED: Final = re.compile(
    r"(?:\A|(?<=[^0-9A-Za-z\\%&;]))(?:\\+(?:u\{?(?P<unicode>[0-9a-fA-F]{3})|x(?P<hex>[0-9a-fA-F]))|%(?P<url>[0-9a-fA-F])"
    r"|&#(?:[xX](?P<entity>[0-9a-fA-F]+)|(?P<number>[0-9]+)))\Z"
)
"""A word that begins with a code whose end is missing, and that already shows which characters it may be."""
_FORMS: Final = {"unicode": "04x", "hex": "02x", "url": "02x", "entity": "x", "number": "d"}
"""How each kind of code writes a character."""
_SPOKEN: Final = (
    (re.compile(r"[\s\[({<_-]{1,3}(?:at|arroba|arobase)(?:[\s\])}>_-]{1,3}|\Z)", re.IGNORECASE), "@"),
    (re.compile(r"[\s\[({<_-]{1,3}(?:dot|punto|punkt|ponto|point)(?:[\s\])}>_-]{1,3}|\Z)", re.IGNORECASE), "."),
    (re.compile(r"[\s\[({<_-]{1,3}(?:a|d|do)\Z", re.IGNORECASE), ""),
)
_DIAL: Final = re.compile(r"(?:\A|(?<=[^\w+.]))(?:(?:\+|00|011)[0-9]{0,3}|[01])[ (/-]{0,3}0?[ )/-]{0,2}\Z")
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/_-]{16,}\r?\n)*[A-Za-z0-9+/_-]{3,}\Z")
_HEX: Final = re.compile(r"[0-9a-fA-F]{4,}\Z")
_TEXTUAL: Final = re.compile("[^\x00-\x08\x0e-\x1f\x7f\ufffd]*\\Z")
_STANDARD: Final = str.maketrans("-_", "+/", "\r\n")
_DEPTH: Final = 3
_SURE: Final = 3
"""So many decoded characters count behind others that are no text."""


@dataclass(frozen=True, slots=True, repr=False)
class Beginnings:
    """The values of a session, ready to be compared with the end of a text."""

    exact: tuple[Patterns[str], ...]
    normal: Patterns[Any]
    dates: Collection[Date]
    has_number: bool
    """Whether a telephone number is known."""

    def end(self, text: str) -> bool:
        """Whether *text* ends with the beginning of a value. A single character counts only at the start of a word."""
        shortest = 2 if text[-2:-1].isalnum() else 1
        if any(length >= shortest for each in self.exact for length in each.beginnings(text)):
            return True
        tail = text[-(_LEAST + _CODE * self.normal.longest()) :]
        return any(map(self._plain, _variants(tail))) or self._is_cut(tail) or self._encoded(tail, _DEPTH)

    def _plain(self, text: str) -> bool:
        view = decoded(text)
        if self._normal_form(Normal(view)) or begins_date(view.data.decode("latin-1"), self.dates):
            return True
        return self.has_number and _DIAL.search(view.text[-TRUNK_REACH:]) is not None

    def _normal_form(self, normal: Normal) -> bool:
        text, size = normal.view.text, len(normal.text)
        if not size:
            return False
        behind = len(text) - normal.places[size - 1] - 1
        if behind > WIDEST:
            return False
        return any(
            normal.is_close(size - length, size) and self._opens(text, normal.places[size - length], length, behind)
            for length in self.normal.beginnings(normal.text)
        )

    def _opens(self, text: str, start: int, length: int, behind: int) -> bool:
        """Whether what begins at *start* may be the beginning of a value, and not the end of another word."""
        if length == 1 and (text[start - 1 : start].isalnum() or (behind and text[start].isdigit())):
            return False
        if length >= _MIDWORD or is_edge(text, start, length):
            return True
        return self.has_number and text[start].isdigit() and opens_number(text, start) < start

    def _is_cut(self, tail: str) -> bool:
        """Whether a word begins with a cut code that may be the first character of a value."""
        match = _STARTED.search(tail[-_CODE:])
        if match is None or match.lastgroup is None:
            return False
        shown, form = match[match.lastgroup].lower(), _FORMS[match.lastgroup]
        firsts = self.normal.firsts().union(*(each.firsts() for each in self.exact))
        return any(format(ord(c), form).startswith(shown) for first in firsts for c in {first, first.upper()[:1]})

    def _encoded(self, text: str, depth: int) -> bool:
        return depth > 0 and any(self._inner(inner, least, depth - 1) for inner, least in _decoded(text))

    def _inner(self, text: str, least: int, depth: int) -> bool:
        if len(text) < least:
            return False
        return self._holds(text) or any(map(self._plain, _variants(text))) or self._encoded(text, depth)

    def _holds(self, text: str) -> bool:
        """Whether the text of a run that is cut off holds a whole value: no detector decodes such a run."""
        return any(end - first >= _MIDWORD for first, end, _ in self.normal.matches(Normal(decoded(text)).text))


def _variants(tail: str) -> Iterator[str]:
    """*tail*, and what it was before its last code was cut off or its signs were spelled out."""
    yield tail
    cut = _CUT.sub("", tail)
    if cut != tail:
        yield cut
    if "=" in tail:
        yield quopri.decodestring(cut.encode("utf-8", "replace")).decode("utf-8", "replace")
    spoken = tail
    for pattern, sign in _SPOKEN:
        spoken = pattern.sub(sign, spoken)
    if spoken != tail:
        yield spoken


def _decoded(text: str) -> Iterator[tuple[str, int]]:
    """What the encoded run at the end of *text* may decode to, each with the characters that it must have to count."""
    match = _HEX.search(text)
    if match is not None:
        yield from _texts(bytes.fromhex(match[0][: len(match[0]) // 2 * 2]), 0)
    match = _BASE64.search(text)
    if match is not None:
        compact = match[0].translate(_STANDARD)
        for skipped in range(4):
            yield from _texts(_from_base64(compact[skipped:]), skipped)


def _from_base64(run: str) -> bytes:
    """The whole bytes of *run*, which may break off anywhere."""
    run = run[: len(run) - (len(run) % 4 == 1)]
    return binascii.a2b_base64(run + "=" * (-len(run) % 4))


def _texts(data: bytes, skipped: int) -> Iterator[tuple[str, int]]:
    """The text at the end of *data*, in UTF-8 or UTF-16."""
    for each in (data, data.replace(b"\0", b"")) if b"\0" in data else (data,):
        text = each.decode("utf-8", "replace").rstrip("\ufffd")
        match = _TEXTUAL.search(text)
        if match is not None and match[0]:
            yield match[0], 2 if len(match[0]) == len(text) and not skipped else _SURE

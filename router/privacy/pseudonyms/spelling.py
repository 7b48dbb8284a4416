"""What the spellings of one value have in common: its normal form, its edges, and what stands between its characters.

The normal form has lower-case letters and digits only. `511-073-750`, `511 073 750` and a full-width `５１１…` are one
string in it, and so are `Jane.Doe@Example.org` and `jane\\.doe@example.org`. It is made of a `View`, whose encodings
are undone already. Characters map one to one, so that every match leads back to the characters it came from.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final

from hybrid_llm.core.lazy import cached_property
from hybrid_llm.router.privacy.detectors.text import View, decoded, fold

_NOTHING: Final = "\0"


class _Table(dict[int, str]):
    """Code point -> its normal form, filled as characters occur."""

    def __missing__(self, code: int) -> str:
        value = self[code] = _normal(chr(code))
        return value


def _normal(char: str) -> str:
    """A lower-case letter or digit, `@`, or `_NOTHING` for a separator: always one character."""
    ascii_form = chr(fold(char)[0])
    if ascii_form == "@" or (ascii_form.isascii() and ascii_form.isalnum() and not _is_stand_in(char, ascii_form)):
        return ascii_form.lower()
    if not char.isalnum():
        return _NOTHING
    return char.lower() if len(char.lower()) == 1 else char


def _is_stand_in(char: str, ascii_form: str) -> bool:
    """Whether the letter is folded to `x` only because it has no ASCII form."""
    return ascii_form == "x" and char not in "\u0445\u03c7" and "x" not in unicodedata.normalize("NFKD", char).lower()


_TABLE: Final = _Table()
_KEPT: Final = bytes(byte for byte in range(128) if _normal(chr(byte)) != _NOTHING)
_LOWER: Final = bytes(range(256)).lower()
_DROPPED: Final = bytes(byte for byte in range(128) if byte not in _KEPT)
_END: Final = "\x80"
"""Stands between values; no ASCII character."""


SPACED: Final = 6
"""A normal form of so many characters is found with other separators between its characters too."""
WIDEST: Final = 24
"""Separators that may stand between two characters of a value."""
TRUNK_REACH: Final = 20
"""Characters that a country code and a trunk prefix have at most, with what is between them."""

_COUNTRY: Final = (
    "1|7|20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[1-689][0-9]|3[578][0-9]|42[0-9]|50[0-9]|59[0-9]"
    "|6[789][0-9]|8[057-9][0-9]|9[679][0-9]"
)
"""Country calling codes (ITU-T E.164)."""
_PREFIX: Final = re.compile(rf"(?:\+|00|011)(?:{_COUNTRY})")
_EXTENSION: Final = re.compile(r"(?:[xX#;]|[eE][xX][tT]).*", re.DOTALL)
_UNDIALLED: Final = re.compile("[^0-9+]+")
_UNSPACED: Final = str.maketrans("", "", " .()/-")
_CODES: Final = "|".join(str(code)[::-1] for code in range(1, 1000) if re.fullmatch(_COUNTRY, str(code)))
_TRUNK: Final = re.compile(
    rf"(?:[ .()/\-]{{0,2}}0)?\(?(?:[ .()/\-]{{0,3}}(?:{_CODES})\(?)?(?: ?(?:\+|00|110))?(?![0-9A-Za-z])"
)
"""What precedes a national number, read backwards: a trunk zero, a country code and an international prefix."""
_LEADING: Final = frozenset("0123456789 .()/-+")


class Normal:
    """A text in normal form, and where each of its characters stands in its view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._spaced = view.text.translate(_TABLE)
        self.text = self._spaced.replace(_NOTHING, "")

    @cached_property
    def places(self) -> Sequence[int]:
        """The position in the view of each character."""
        return memoryview(self._places)

    @cached_property
    def _places(self) -> Any:
        import numpy as np

        plain = self._spaced.isascii()
        data = self._spaced.encode("ascii") if plain else self._spaced.encode("utf-32-le", "surrogatepass")
        return np.flatnonzero(np.frombuffer(data, np.uint8 if plain else np.uint32))

    @cached_property
    def _gaps(self) -> list[int]:
        import numpy as np

        return np.flatnonzero(np.diff(self._places) > WIDEST + 1).tolist()

    def is_close(self, first: int, end: int) -> bool:
        """Whether no two of the characters *first* to *end* (exclusive) have more between them than a spelling has."""
        gap = bisect_left(self._gaps, first)
        return gap == len(self._gaps) or self._gaps[gap] >= end - 1


def is_encoded(value: str) -> bool:
    """Whether *value* may hold codes, or characters that have an ASCII form."""
    return not value.isascii() or "\\" in value or "%" in value or "&" in value


def normal_forms(values: Sequence[str]) -> list[str]:
    """Each of the *values* with its encodings undone, in normal form."""
    joined = _END.join(values)
    if not is_encoded(joined.replace(_END, "")):
        return joined.encode("latin-1").translate(_LOWER, _DROPPED).decode("latin-1").split(_END)
    return [normal_form(value) for value in values]


def normal_form(value: str) -> str:
    """*value* with its encodings undone, in normal form."""
    if not is_encoded(value):
        return value.encode("ascii").translate(_LOWER, _DROPPED).decode("ascii")
    return decoded(value).text.translate(_TABLE).replace(_NOTHING, "")


def national(number: str) -> str:
    """The digits of a telephone *number* without country code, trunk zero and extension."""
    shown = decoded(number).data.decode("latin-1") if is_encoded(number) else number
    compact = shown.translate(_UNSPACED)
    if not compact[1:].isdigit():
        compact = _UNDIALLED.sub("", _EXTENSION.sub("", shown))
    prefix = _PREFIX.match(compact)
    return (compact[prefix.end() :] if prefix else compact).lstrip("0+")


def opens_number(text: str, start: int) -> int:
    """Where the country code or trunk zero begins that leads up to *start*; *start* where there is none."""
    if text[start - 1 : start] not in _LEADING:
        return start
    match = _TRUNK.match(text[max(0, start - TRUNK_REACH) : start][::-1])
    return start - (0 if match is None else match.end())


def is_edge(text: str, position: int, length: int) -> bool:
    """Whether a value of *length* characters may begin or end at *position*: no word goes on there.

    A letter next to a digit counts as the end of a word where the value is long enough not to occur by chance.
    """
    left, right = text[position - 1 : position], text[position : position + 1]
    if not (_is_worded(left) and _is_worded(right)):
        return True
    return length >= SPACED and left.isdigit() != right.isdigit()


def _is_worded(char: str) -> bool:
    """Whether *char* is a letter or digit of a script that separates words."""
    return char.isalnum() and (char.isascii() or not "\u2e80" <= char <= "\ufaff")

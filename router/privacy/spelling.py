"""What a spelling of a value may look like: where it may begin and end, and what may stand between its characters."""

from __future__ import annotations

import re
from typing import Final

SPACED: Final = 6
"""A normal form of so many characters is found with other separators between its characters too."""
WIDEST: Final = 5
"""Separators that may stand between two characters of a value."""
TRUNK_REACH: Final = 20
"""Characters that a country code and a trunk prefix have at most, with what is between them."""

_COUNTRY: Final = (
    "1|7|20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[1-689][0-9]|3[578][0-9]|42[0-9]|50[0-9]|59[0-9]"
    "|6[789][0-9]|8[057-9][0-9]|9[679][0-9]"
)
"""Country calling codes (ITU-T E.164)."""
_PREFIX: Final = re.compile(rf"(?:\+|00|011)(?:{_COUNTRY})")
_EXTENSION: Final = re.compile(r" ?(?:x|ext|#|;).*", re.IGNORECASE | re.DOTALL)
_TRUNK: Final = re.compile(
    rf"(?:\A|(?<=[^0-9A-Za-z]))(?:\+ ?|00 ?|011 ?)?(?:\(?(?:{_COUNTRY})\)?[ .()/\-]{{0,3}})?"
    r"(?:\(?0\)?[ .()/\-]{0,2})?\Z"
)


def national(number: str) -> str:
    """The digits of a telephone *number* without country code, trunk zero and extension."""
    compact = "".join(c for c in _EXTENSION.sub("", number.strip()) if c.isdigit() or c == "+")
    prefix = _PREFIX.match(compact)
    return (compact[prefix.end() :] if prefix else compact).lstrip("0+")


def opens_number(text: str, start: int) -> int:
    """Where the country code or trunk zero begins that leads up to *start*; *start* where there is none."""
    trunk = _TRUNK.search(text, max(0, start - TRUNK_REACH), start)
    return start if trunk is None else trunk.start()


def is_close(text: str, start: int, stop: int, length: int) -> bool:
    """Whether the *length* characters from *start* to *stop* have no more between them than a spelling of one value."""
    if length < SPACED or stop - start > length * (WIDEST + 1):
        return False
    gap = 0
    for char in text[start:stop]:
        gap = 0 if char.isalnum() or char == "@" else gap + 1
        if gap > WIDEST:
            return False
    return True


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

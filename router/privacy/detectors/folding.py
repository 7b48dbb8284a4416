"""Folding: one byte for each character of a text, so that expressions over bytes read every script.

ASCII stays as it is. Full-width, mathematical and other digits and letters become the ASCII characters that they are
compatible with (Unicode NFKC), letters with marks their base letter, any other letter `x`, so that a word stays a word.
Characters of scripts that do not separate words become `CJK`.
"""

from __future__ import annotations

import codecs
import unicodedata
from typing import Final

_HANDLER: Final = "hybrid_llm.fold"
CJK: Final = 0x80
"""A character of a script that does not separate words."""
CJK_CLASS: Final = rb"[\x80\x90-\x99]"
"""A character class of `CJK` and the Chinese digits, which fold to 0x90 to 0x99."""
_CHINESE_ZERO: Final = 0x90
_OTHER: Final = 0xA1
_IGNORED: Final = 0xA2
_FULL_STOP: Final = 0xA3

_CHINESE_DIGITS: Final = {char: _CHINESE_ZERO + i % 10 for i, char in enumerate("零一二三四五六七八九〇幺")}
_LOOKALIKES: Final = dict(
    zip("АВЕКМНОРСТУХІЅЈаеорсухіѕјԁӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTYXISJaeopcyxisjdlABEZHIKMNOPTYXo", strict=True)
)
_UNSPACED: Final = (
    "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "THAI", "LAO", "KHMER", "MYANMAR", "YI",
)  # fmt: skip
"""How the Unicode names of the characters begin that fold to `CJK`."""
_FILLERS: Final = frozenset("\u034f\u115f\u1160\u3164\uffa0")
_SELECTORS: Final = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))


def fold(text: str) -> bytes:
    """One byte for each character of *text*; never fails."""
    return text.encode("ascii", _HANDLER)


def _fold_run(error: UnicodeError) -> tuple[bytes, int]:
    """The ASCII encoder's error handler, called once per run of other characters: ASCII itself costs nothing."""
    assert isinstance(error, UnicodeEncodeError)
    return error.object[error.start : error.end].translate(_TABLE).encode("latin-1"), error.end


class _Table(dict[int, int]):
    """Code point -> byte, filled as characters occur."""

    def __missing__(self, code: int) -> int:
        special = _special(chr(code))
        value = self[code] = _by_category(chr(code)) if special is None else special
        return value


def _special(char: str) -> int | None:
    """The byte of a character that is folded regardless of its category; None for all others."""
    if char in _CHINESE_DIGITS:
        return _CHINESE_DIGITS[char]
    if char in "。｡":
        return _FULL_STOP
    if char in _LOOKALIKES:
        return ord(_LOOKALIKES[char])
    decimal = unicodedata.decimal(char, None)
    return _ascii_form(char) if decimal is None else ord("0") + decimal


def _ascii_form(char: str) -> int | None:
    """The ASCII character that *char* is compatible with or a marked form of; None without one."""
    same = unicodedata.normalize("NFKC", char)
    if len(same) == 1 and same.isascii():
        return ord(same)
    base = unicodedata.normalize("NFKD", char)
    is_marked = len(base) > 1 and base[0].isascii() and base[0].isalpha() and not any(map(str.isalnum, base[1:]))
    return ord(base[0]) if is_marked else None


def _by_category(char: str) -> int:
    category = unicodedata.category(char)
    if category == "Cf" or char in _FILLERS or "\u0300" <= char <= "\u036f" or char in _SELECTORS:
        return _IGNORED
    if category == "Pd" or char == "\u2212":
        return ord("-")
    if category[0] == "Z":
        return ord("\n" if category in {"Zl", "Zp"} else " ")
    if category[0] in "LM":
        return CJK if unicodedata.name(char, "").startswith(_UNSPACED) else ord("x")
    return _OTHER


_TABLE: Final = _Table()
codecs.register_error(_HANDLER, _fold_run)

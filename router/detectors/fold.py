"""Folds any text to one byte a character, so that patterns run over bytes and offsets stay as they were.

It decides what a character counts as, and nothing about what is sensitive. ASCII stays itself; full-width, mathematical
and other scripts' digits and letters become the ASCII ones that they are compatible with (Unicode's NFKC), letters with
marks their base letter, every other letter of an alphabet `x`, so that a word stays a word. Scripts that write without
spaces become `CJK`: a number beside them is not glued to a word.
"""

from __future__ import annotations

import codecs
import unicodedata
from typing import Final

__all__ = ["CJK", "CJK_CLASS", "fold"]

_HANDLER: Final = "hybrid_llm.fold"
CJK: Final = 0x80
"""A character of a script that separates no words."""
CJK_CLASS: Final = rb"[\x80\x90-\x99]"
"""A class, for patterns, of `CJK` and the Chinese digits, which fold to 0x90 to 0x99."""
_CHINESE_ZERO: Final = 0x90
_OTHER: Final = 0xA1
_IGNORED: Final = 0xA2
_FULL_STOP: Final = 0xA3

_CHINESE_DIGITS: Final = {char: _CHINESE_ZERO + i % 10 for i, char in enumerate("零一二三四五六七八九〇幺")}
_LOOKALIKES: Final = dict(
    zip("АВЕКМНОРСТУХІЅЈаеорсухіѕјԁӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTYXISJaeopcyxisjdlABEZHIKMNOPTYXo", strict=True)
)
_UNSPACED: Final = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "BOPOMOFO",
    "IDEOGRAPHIC",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "YI",
)
_FILLERS: Final = frozenset("\u034f\u115f\u1160\u3164\uffa0")


def fold(text: str) -> bytes:
    """One byte for each character of *text*; it never fails, whatever the text holds."""
    return text.encode("ascii", _HANDLER)


def _fold_run(error: UnicodeError) -> tuple[bytes, int]:
    """What the ASCII encoder calls for each run of other characters: so ASCII, most of most texts, costs nothing."""
    assert isinstance(error, UnicodeEncodeError)
    return error.object[error.start : error.end].translate(_TABLE).encode("latin-1"), error.end


class _Table(dict[int, int]):
    """Code point -> byte; filled as characters are met, at most once each."""

    def __missing__(self, code: int) -> int:
        value = self[code] = _fold_one(chr(code))
        return value


def _fold_one(char: str) -> int:
    if char.isascii():
        return ord(char)
    special = _special(char)
    return special if special is not None else _by_category(char)


def _special(char: str) -> int | None:
    """What has a value of its own, whatever its category."""
    if char in _CHINESE_DIGITS:
        return _CHINESE_DIGITS[char]
    if char in "。｡":
        return _FULL_STOP
    if char in _LOOKALIKES:
        return ord(_LOOKALIKES[char])
    decimal = unicodedata.decimal(char, None)
    return _ascii_form(char) if decimal is None else ord("0") + decimal


def _ascii_form(char: str) -> int | None:
    """The one ASCII character that *char* is compatible with, or is a marked form of."""
    same = unicodedata.normalize("NFKC", char)
    if len(same) == 1 and same.isascii():
        return ord(same)
    base = unicodedata.normalize("NFKD", char)
    is_marked = len(base) > 1 and base[0].isascii() and base[0].isalpha() and not any(map(str.isalnum, base[1:]))
    return ord(base[0]) if is_marked else None


def _by_category(char: str) -> int:
    category = unicodedata.category(char)
    if category == "Cf" or char in _FILLERS or "\u0300" <= char <= "\u036f" or "\ufe00" <= char <= "\ufe0f":
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

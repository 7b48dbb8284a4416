"""How a pseudonym looks, `EMAIL_QYSAI`, and the patterns that find whole ones and beginnings of them. It keeps nothing.

Type, underscore, and a fixed number of base32 letters (RFC 4648): since a type has letters only and the number is
fixed, no pseudonym begins another one. Models change what they copy, so a pattern takes these spellings for the same:
any case (`Email_Qysai`), the underscore escaped as in Markdown (`EMAIL\\_QYSAI`) or as in Markdown inside JSON, and one
space on either side of it. A hyphen or a space in place of the underscore is not one: it would find plain words.
Nothing is asked of what stands before or after: word boundaries are not known yet when a stream is cut there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

__all__ = ["BASE32", "LITERAL", "canonical", "full_pattern", "normalise", "stream_pattern", "type_of"]

BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
LITERAL: Final = "TEXT"
"""The type of what is no finding and is replaced only because it reads as a pseudonym."""

_TYPES: Final = {
    "payment_card": "CARD",
    "ip_address": "IP",
    "us_ssn": "SSN",
    "cn_resident_id": "ID",
    "medical_record": "RECORD",
    "credential": "SECRET",
}
_LONGEST_TYPE: Final = 12
_SEPARATOR: Final = r" ?\\{0,2}_ ?"
_NORMAL: Final = re.compile(_SEPARATOR)


def type_of(kind: str) -> str:
    """The type that stands for a detector's *kind*: a short form, or its ASCII letters in capitals, at most 12."""
    letters = "".join(c for c in kind.upper() if "A" <= c <= "Z")
    return _TYPES.get(kind, letters[:_LONGEST_TYPE] or "VALUE")


def canonical(match: re.Match[str]) -> str:
    """The pseudonym, or its beginning, that a match of `full_pattern` or `stream_pattern` spells."""
    letters = match[match.lastgroup or 0]
    return f"{match.string[match.start() : match.end('stem')]}_{letters}".upper()


def normalise(texts: Iterable[str]) -> str:
    """All *texts* in one spelling: where a pattern finds a pseudonym in one of them, this holds it letter by letter."""
    return _NORMAL.sub("_", "\n".join(text for text in texts if "_" in text)).upper()


@lru_cache(maxsize=64)
def full_pattern(types: tuple[str, ...], alphabet: str, length: int) -> re.Pattern[str]:
    """Finds whole pseudonyms of these *types*, known or not. Groups: *stem* and *suffix*."""
    return re.compile(rf"{_first(types)}(?P<stem>{_rest(types)}){_SEPARATOR}(?P<suffix>{_any(alphabet)}{{{length}}})")


@lru_cache(maxsize=64)
def stream_pattern(types: tuple[str, ...], alphabet: str, length: int, *, json: bool) -> re.Pattern[str]:
    r"""Finds whole pseudonyms, and what at the end of the text may be the beginning of one.

    The last group that matched tells which: *suffix* a whole one; *part* one that lacks letters; *head* one that lacks
    the underscore too. With *json* also *quote*, *escape* (one whole escape sequence) and *cut* (one that the end of
    the text cuts).
    """
    heads = sorted({word[:end] for word in types for end in range(1, len(word))}, key=len, reverse=True)
    letter = _any(alphabet)
    whole = rf"(?P<suffix>{letter}{{{length}}})"
    part = rf"(?P<part>{letter}{{0,{length - 1}}})\Z"
    rest = rf"(?P<stem>{_rest(types)}){_SEPARATOR}(?:{whole}|{part})"
    head = rf"(?:(?:{_rest(types)}) ?\\{{0,2}}|{_rest(heads) or '(?!)'})(?P<head>\Z)"
    known = f"{rest}|{head}"
    if not json:
        return re.compile(f"{_first(types)}(?:{known})")
    escape = r"(?<=\\)(?:(?P<escape>u[0-9A-Fa-f]{4}|[^u])|(?P<cut>(?:u[0-9A-Fa-f]{0,3})?)\Z)"  # RFC 8259, section 7
    first = _first(types, more=r"\"\\")
    return re.compile(rf'{first}(?:(?<=")(?P<quote>)|{escape}|{known})', re.DOTALL)


def _first(words: Sequence[str], more: str = "") -> str:
    """One class of all first letters: a pattern that begins with a class is searched several times as fast."""
    return f"[{''.join(sorted({c for word in words for c in (word[0], word[0].lower())}))}{more}]"


def _rest(words: Sequence[str]) -> str:
    """What follows the first letter, tied to it by looking back; the longest word is tried first."""
    ordered = sorted(words, key=len, reverse=True)
    return "|".join(f"(?<={_either(word[0])})" + "".join(map(_either, word[1:])) for word in ordered)


def _either(letter: str) -> str:
    return f"[{letter}{letter.lower()}]"


def _any(alphabet: str) -> str:
    return f"[{''.join(dict.fromkeys(alphabet + alphabet.lower()))}]"

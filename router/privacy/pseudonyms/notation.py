r"""How a pseudonym is written, and how it is recognised in what users and models write.

A pseudonym is a type, an underscore and a fixed number of base32 letters (RFC 4648). A type has letters only and the
number is fixed, so no pseudonym is a prefix of another. Models change what they copy, so the patterns accept any case
(`Email_Qysai`), the underscore escaped as in Markdown (`EMAIL\_QYSAI`) or as in Markdown inside JSON, and one space on
either side of it. A hyphen or a space instead of the underscore is not accepted, because it would match ordinary words.
Word boundaries are not required: in a stream they are not known yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
LITERAL: Final = "TEXT"
"""The type of text that is not a finding and is replaced only because it reads as a pseudonym."""

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


@lru_cache(maxsize=256)
def type_of(kind: str) -> str:
    """The type in the pseudonyms of a detector's *kind*: a short form, or up to 12 of its ASCII letters in capitals."""
    letters = "".join(c for c in kind.upper() if "A" <= c <= "Z")
    return _TYPES.get(kind, letters[:_LONGEST_TYPE] or "VALUE")


def canonical(match: re.Match[str]) -> str:
    """The canonical spelling of what `full_pattern` or `stream_pattern` matched, whole or a prefix."""
    letters = match[match.lastgroup or 0]
    return f"{match.string[match.start() : match.end('stem')]}_{letters}".upper()


def suffixes(texts: Iterable[str], length: int) -> set[str]:
    """Whatever reads as the letters of a pseudonym in some texts, in any spelling: a new pseudonym must have others."""
    following = re.compile(rf"_(?=([A-Z0-9]{{{length}}}))")
    canonical = (_NORMAL.sub("_", text).upper() for text in texts if "_" in text)
    return {letters for text in canonical for letters in following.findall(text)}


@lru_cache(maxsize=64)
def full_pattern(types: tuple[str, ...], alphabet: str, length: int) -> re.Pattern[str]:
    """A pattern for whole pseudonyms of these *types*, known or not. Groups: *stem* and *suffix*."""
    return re.compile(rf"{_first(types)}(?P<stem>{_rest(types)}){_SEPARATOR}(?P<suffix>{_any(alphabet)}{{{length}}})")


@lru_cache(maxsize=64)
def stream_pattern(types: tuple[str, ...], alphabet: str, length: int, *, json: bool) -> re.Pattern[str]:
    r"""A pattern for whole pseudonyms, and for a prefix of one at the end of the text.

    The last group that matched shows which: *suffix* a whole one; *part* one without its last letters; *head* one
    without its underscore too. With *json* also *quote*, *escape* (a whole escape sequence) and *cut* (an escape
    sequence that the end of the text cuts off).
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
    """A character class of all first letters: `re` searches a pattern that begins with one several times as fast."""
    return f"[{''.join(sorted({c for word in words for c in (word[0], word[0].lower())}))}{more}]"


def _rest(words: Sequence[str]) -> str:
    """What follows the first letter, tied to it by a lookbehind; longer words are tried first."""
    ordered = sorted(words, key=len, reverse=True)
    return "|".join(f"(?<={_either(word[0])})" + "".join(map(_either, word[1:])) for word in ordered)


def _either(letter: str) -> str:
    return f"[{letter}{letter.lower()}]"


def _any(alphabet: str) -> str:
    return f"[{''.join(dict.fromkeys(alphabet + alphabet.lower()))}]"

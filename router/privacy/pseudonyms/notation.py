r"""How a pseudonym is written, and how it is recognised in what users and models write.

A pseudonym is a type, an underscore and a *code* of fixed length. A type has letters only, a code has a digit and a
letter, so neither a word nor a number reads as one. Models change what they copy; what real ones do (see
`benchmarks/kept_pseudonyms.py`) is recognised:

- another case: `Email_K4821`; a hyphen or underscore in the type: `E-MAIL_K4821`, `Date_of_birth_K4821`;
- another separator: a hyphen, a space, a line break, marks of Markdown around it, a backslash before it, one that is
  encoded for HTML, a URL or JSON: `EMAIL\_K4821`, `EMAIL **K4821**`, `EMAIL&#95;K4821`, `EMAIL%5FK4821`;
- characters without width anywhere in it;
- the code alone, as it is, as a word of its own: `The address is K4821.`

Behind a type no word boundary is required, since a stream does not know it yet. With all of this, no spelling of a
pseudonym is a prefix of a spelling of another one: what separates type and code cannot occur within the code, and no
type holds a code, as it has no digit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, Literal

from hybrid_llm.core.lazy import cached_property

BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
LITERAL: Final = "TEXT"
"""The type of text that is not a finding and is replaced only because it reads as a pseudonym."""
END: Final = "\0"
"""Marks the end of a text, so that nothing before it can go on."""

_TYPES: Final = {
    "phone": "TEL",  # kept in 51 of 90 answers of two models, PHONE in 27: docs/pseudonyms.md
    "payment_card": "CARD",
    "ip_address": "IP",
    "us_ssn": "SSN",
    "cn_resident_id": "ID",
    "medical_record": "RECORD",
    "credential": "SECRET",
}
"""Of some kinds of value. A type tells the model what it writes, so it is a word; no other word was kept better."""
_LONGEST_TYPE: Final = 12

_INVISIBLE: Final = "\u00ad\u200b-\u200d\u2060\ufeff"
_IN_TYPE: Final = rf"[-_{_INVISIBLE}]?"
_IN_CODE: Final = rf"[{_INVISIBLE}]?"
_ENCODED: Final = r"\\(?:u[0-9a-fA-F]{4}|[nrt]|(?![nrtu]))|&#?[0-9A-Za-z]{1,7};|%[0-9a-fA-F]{2}"
"""One character, escaped as in Markdown or JSON, or encoded as in HTML or in a URL."""
_VISIBLE: Final = rf"[ \t\r\n*_~`\u00a0\u2010-\u2015-]|{_ENCODED}"
_SEPARATOR: Final = rf"[{_INVISIBLE}]{{0,2}}(?:{_VISIBLE})(?:[{_INVISIBLE}]|{_VISIBLE}){{0,5}}"
_CUT_SEPARATOR: Final = (
    rf"[{_INVISIBLE}]{{0,2}}(?:(?:{_VISIBLE})(?:[{_INVISIBLE}]|{_VISIBLE}){{0,5}})?"
    r"(?:\\(?:u[0-9a-fA-F]{0,3})?|&#?[0-9A-Za-z]{0,7}|%[0-9a-fA-F]?)?"
)
"""A separator whose end may be missing, also within an encoded character."""
_NORMAL: Final = re.compile(_SEPARATOR)


@lru_cache(maxsize=256)
def type_of(kind: str) -> str:
    """The type in the pseudonyms of a detector's *kind*: a short form, or up to 12 of its ASCII letters in capitals."""
    return _TYPES.get(kind, capitals(kind)[:_LONGEST_TYPE] or "VALUE")


def capitals(text: str) -> str:
    """The ASCII letters of *text*, in capitals: what a type shows of a kind."""
    return "".join([c for c in text.upper() if "A" <= c <= "Z"])


def is_mixed(alphabet: str) -> bool:
    """Whether *alphabet* has letters and digits, so that a code can be told from words and numbers."""
    return not (alphabet.isalpha() or alphabet.isdigit())


def suffixes(texts: Iterable[str], length: int) -> set[str]:
    """Whatever reads as the code of a pseudonym in some texts, in any spelling: a new pseudonym must have another."""
    following = re.compile(rf"_(?=([A-Z0-9]{{{length}}}))")
    canonical = (_NORMAL.sub("_", text).upper() for text in texts if "_" in text)
    return {letters for text in canonical for letters in following.findall(text)}


Reading = Literal["whole", "part", "head", "quote", "escape", "cut"]
"""What a match of `Spellings` shows."""
WHOLE: Final = "whole"
"""A whole pseudonym, or its code alone."""
PART: Final = "part"
"""A pseudonym without the last characters of its code, or a code alone that may go on."""
HEAD: Final = "head"
"""A type, or its first letters: every pseudonym of the type begins so."""
QUOTE: Final = "quote"
ESCAPE: Final = "escape"
CUT: Final = "cut"
_READINGS: Final[Mapping[str, Reading]] = {
    "whole": WHOLE, "alone": WHOLE, "part": PART, "begun": PART,
    "quote": QUOTE, "escape": ESCAPE, "cut": CUT,
}  # fmt: skip
"""What it is that a group matched last; without one of these it is a head."""
_BEHIND_TYPE: Final = frozenset({"whole", "part"})


class Spellings:
    """All spellings of the pseudonyms of some *types*, whose codes have *length* characters of *alphabet*.

    Types and codes may be known or not: which of them are pseudonyms, the table decides.
    """

    def __init__(self, types: tuple[str, ...], alphabet: str, length: int) -> None:
        self._types, self._alphabet, self._length = types, alphabet, length
        self._mixed = alphabet if is_mixed(alphabet) else ""
        self._is_nested = any(one != other and one.startswith(other) for one in types for other in types)

    @cached_property
    def whole(self) -> re.Pattern[str]:
        """Whole pseudonyms, anywhere."""
        alone = rf"[{self._mixed}]{{{self._length - 1}}}(?P<alone>)(?![0-9A-Za-z_])"
        return self._pattern([f"{self._stem}{_SEPARATOR}{self._code}"], [alone])

    @cached_property
    def typed(self) -> re.Pattern[str]:
        """A type, a separator, and letters or digits that may be no code: groups *stem* and *whole*."""
        return re.compile(f"[{_firsts(self._types)}]{self._stem}{_SEPARATOR}(?P<whole>[A-Za-z0-9]+)")

    @cached_property
    def streamed(self) -> re.Pattern[str]:
        """Whole pseudonyms, and prefixes of some at the end of the text."""
        return self._pattern(*self._streamed)

    @cached_property
    def streamed_json(self) -> re.Pattern[str]:
        """As `streamed`; also quotes, whole escape sequences (RFC 8259, section 7), and those that are cut off."""
        escape = r"(?<=\\)(?:(?P<escape>u[0-9A-Fa-f]{4}|[^u])|(?P<cut>(?:u[0-9A-Fa-f]{0,3})?)\Z)"
        known, alone = self._streamed
        return self._pattern([r'(?<=")(?P<quote>)', escape, *known], alone, r"\"\\")

    @property
    def _streamed(self) -> tuple[list[str], list[str]]:
        letter, most = f"[{self._mixed}]", self._length - 1
        part = rf"(?P<part>{_cut_code(self._alphabet, self._length)})\Z"
        known = rf"{self._stem}(?:{_SEPARATOR}(?:{self._code}|{part})|{_CUT_SEPARATOR}\Z)"
        alone, begun = rf"{letter}{{{most}}}(?=[^0-9A-Za-z_])(?P<alone>)", rf"{letter}{{0,{most}}}(?P<begun>)\Z"
        return [known, self._heads], [alone, begun]

    @property
    def _stem(self) -> str:
        """The types behind their first letters; longer ones are tried first."""
        ordered = sorted(self._types, key=len, reverse=True)
        rests = ("".join(_IN_TYPE + _either(letter) for letter in word[1:]) for word in ordered)
        return f"(?P<stem>{'|'.join(f'(?<={_either(w[0])}){rest}' for w, rest in zip(ordered, rests, strict=True))})"

    @property
    def _heads(self) -> str:
        return f"(?:{'|'.join(map(_beginning, self._types))})"

    @property
    def _code(self) -> str:
        letter = _any(self._alphabet)
        return f"(?P<whole>{letter}(?:{_IN_CODE}{letter}){{{self._length - 1}}})"

    def _pattern(self, known: list[str], alone: list[str], more: str = "") -> re.Pattern[str]:
        """A pattern that begins with a character class: `re` searches such a one several times as fast."""
        if self._mixed:  # else a code alone would be a word, or a number
            known, more = [*known, f"{_word(self._mixed)}(?:{'|'.join(alone)})"], self._mixed + more
        return re.compile(f"[{_firsts(self._types)}{more}](?:{'|'.join(known)})", re.DOTALL)

    @cached_property
    def _head(self) -> re.Pattern[str]:
        return re.compile(f"[{_firsts(self._types)}]{self._heads}")

    def read(self, match: re.Match[str]) -> tuple[Reading, str]:
        """What *match* shows, and the canonical spelling of the pseudonym, of the code alone, or of its prefix."""
        group = match.lastgroup
        if group is None or group == "stem":
            return HEAD, ""
        reading = _READINGS[group]
        if group not in _BEHIND_TYPE:
            return reading, match[0]
        if reading is PART and self._is_nested and self._head.match(match.string, match.start()):
            return HEAD, ""  # of a longer type
        stem, code = match.string[match.start() : match.end("stem")], match[group]
        if not (stem.isalnum() and code.isalnum()):
            stem, code = "".join(filter(str.isalnum, stem)), "".join(filter(str.isalnum, code))
        return reading, f"{stem}_{code}".upper()


@lru_cache(maxsize=64)
def spellings(types: tuple[str, ...], alphabet: str, length: int) -> Spellings:
    """The spellings of pseudonyms of *types*, in alphabetical order."""
    return Spellings(types, alphabet, length)


def _firsts(words: Iterable[str]) -> str:
    return "".join(sorted({c for word in words for c in (word[0], word[0].lower())}))


def _beginning(word: str) -> str:
    """The first letters of *word*, behind the very first, at the end of the text; not the whole word."""
    following = rf"{_IN_TYPE}\Z"
    for letter in reversed(word[1:-1]):
        following = rf"{_IN_TYPE}(?:\Z|{_either(letter)}{following})"
    return f"(?<={_either(word[0])}){following}" if len(word) > 1 else "(?!)"


def _either(letter: str) -> str:
    return f"[{letter}{letter.lower()}]"


def _any(alphabet: str) -> str:
    return f"[{''.join(dict.fromkeys(alphabet + alphabet.lower()))}]"


def _cut_code(alphabet: str, length: int) -> str:
    """A code without its last characters."""
    return f"{_any(alphabet)}(?:{_IN_CODE}{_any(alphabet)}){{0,{length - 2}}}{_IN_CODE}" if length > 1 else "(?!)"


def _word(alphabet: str) -> str:
    """Hold behind the first character of a word, if the *alphabet* has it."""
    return rf"(?<=[{alphabet}])(?:(?<![0-9A-Za-z_].)|(?<=\\[nrt].))"

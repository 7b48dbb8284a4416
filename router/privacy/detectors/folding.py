"""Folds any text to one byte per character and searches it with RE2, in time linear in the text.

ASCII stays as it is. Full-width, mathematical and other digits and letters become the ASCII characters that they are
compatible with (Unicode NFKC), letters with marks their base letter, any other letter `x`, so that a word stays a word.
Characters of scripts that do not separate words become `CJK`: a number next to them is not part of a word. Offsets are
those of the original text.

RE2 has no lookaround: a pattern also matches what must surround a find, and the find is its group. google-re2 is
imported, and each pattern compiled, at first use.
"""

from __future__ import annotations

import codecs
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

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
_MEMORY: Final = 16 << 20
"""Bytes that one expression's automaton may use; beyond that RE2 falls back to a slower search, still linear."""


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
        value = self[code] = _fold_one(chr(code))
        return value


def _fold_one(char: str) -> int:
    if char.isascii():
        return ord(char)
    special = _special(char)
    return special if special is not None else _by_category(char)


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


class Found(NamedTuple):
    """A find: *start* and *end* are those of the group that matched, *kind* is its name."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, eq=False)
class Regex:
    """A pattern in RE2 syntax over Latin-1 bytes."""

    pattern: bytes

    @cached_property
    def _compiled(self) -> Any:
        import re2

        return re2.compile(self.pattern, _options(re2))

    @cached_property
    def _groups(self) -> int:
        return int(self._compiled.groups)

    @cached_property
    def _names(self) -> dict[int, str]:
        return {index: name.decode("ascii") for name, index in self._compiled.groupindex.items()}

    def search(self, data: bytes, start: int = 0) -> Any:
        """The first match that begins at or after *start*, an `re2` match object, or None."""
        return self._compiled.search(data, start)

    def match(self, data: bytes, start: int = 0) -> Any:
        """The match that begins at *start*, or None."""
        return self._compiled.match(data, start)

    def finditer(self, data: bytes) -> Iterator[Found]:
        """Yield every find, in order; the text after one find may also precede the next."""
        search, groups = self._compiled.search, self._groups
        match = search(data, 0)
        while match is not None:
            index = groups if groups < 2 else match.lastindex
            start, end = match.span(index)
            yield Found(start, end, self._names.get(index, ""))
            match = search(data, max(end, start + 1)) if end < len(data) else None


def linear(pattern: bytes) -> Regex:
    """*pattern*, compiled at first use."""
    return Regex(pattern)


class WordSet:
    """Many words, searched for in one pass, case-insensitive."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._lock = threading.Lock()

    @cached_property
    def _set(self) -> Any:
        import re2

        options = _options(re2)
        options.case_sensitive = False
        words = re2.Set.SearchSet(options)
        for word in self._words:
            words.Add(re2.escape(word.encode("ascii")))
        words.Compile()
        return words

    def within(self, data: bytes) -> Iterator[str]:
        """Yield each word that occurs in *data*."""
        with self._lock:
            words = self._set
        return (self._words[index] for index in words.Match(data) or ())


def _options(re2: Any) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = _MEMORY
    options.log_errors = False
    options.never_capture = False
    return options

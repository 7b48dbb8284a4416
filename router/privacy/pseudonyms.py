r"""The pseudonyms of one session: values are replaced by names such as `EMAIL_QYSAI`, and can be restored exactly.

It lives in memory only. Which texts need pseudonyms, and what in them is sensitive, is decided elsewhere. For all texts
and findings:

- No value that was ever found in this session remains between the pseudonyms of a text, whether or not a detector
  finds it this time; neither does its JSON-escaped form.
- `Restorer` restores every text exactly. Hence one pseudonym per *spelling*: `Bob@x.org` and `bob@x.org` have two,
  since a common one could restore only one of them.
- A spelling has the same pseudonym on every turn, and a different one in every other session.
- A known pseudonym that already occurs in a text is replaced like a value, so that it is not mistaken for one of ours;
  a new pseudonym never matches anything in the texts that it is made for.

A pseudonym is a type, an underscore and a fixed number of base32 letters (RFC 4648). A type has letters only and the
number is fixed, so no pseudonym is a prefix of another. Models change what they copy, so the patterns accept any case
(`Email_Qysai`), the underscore escaped as in Markdown (`EMAIL\_QYSAI`) or as in Markdown inside JSON, and one space on
either side of it. A hyphen or a space instead of the underscore is not accepted, because it would match ordinary words.
Word boundaries are not required: in a stream they are not known yet.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, NoReturn

from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.core.protocols import Finding

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
_MAX_ATTEMPTS: Final = 256
"""Names that are tried for a new pseudonym."""
_MAX_ROUNDS: Final = 64


class _Span(NamedTuple):
    """The characters *start* to *end* of a source text, which one pseudonym replaces."""

    start: int
    end: int
    type: str


class _Placed(NamedTuple):
    """A pseudonym in the written text: its characters *start* to *end* stand for *span* of the source."""

    start: int
    end: int
    span: _Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one pseudonym stands for: *value* in plain text, *escaped* in a JSON string. `repr` shows neither."""

    value: str = field(repr=False)
    escaped: str = field(repr=False)
    ordinal: int
    """How many pseudonyms were created before it."""


class PseudonymTable:
    """The values and pseudonyms of one session. Thread-safe.

    Args:
        key: Pseudonyms are derived from it. Default: 32 random bytes.
        alphabet: The characters after the underscore: capital letters and digits.
        length: How many there are: five base32 letters give 33 million pseudonyms per type.

    Raises:
        ConfigError: the alphabet is empty or has other characters, or the length is less than 1.
    """

    __slots__ = ("_begins", "_entries", "_format", "_key", "_lock", "_names", "_raw", "_types", "_values", "_wiped")

    def __init__(self, key: bytes | None = None, *, alphabet: str = BASE32, length: int = 5) -> None:
        if not re.fullmatch("[A-Z0-9]+", alphabet) or length < 1:
            raise ConfigError("a pseudonym needs an alphabet of capital letters and digits, and a length of 1 at least")
        self._key = bytearray(secrets.token_bytes(32) if key is None else key)
        self._format = (alphabet, length)
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}  # pseudonym -> what it stands for
        self._names: dict[str, str] = {}  # value -> pseudonym
        self._values: dict[str, str] = {}  # every value that was ever found -> type
        self._raw: set[str] = set()  # values that are JSON-escaped already
        self._begins: set[str] = set()  # every proper prefix of a pseudonym, from the underscore on
        self._types: tuple[str, ...] = ()
        self._wiped = False

    def replace_all(self, texts: Sequence[str], findings: Sequence[Sequence[Finding]]) -> list[str]:
        """Replace in all texts of a request at once: a value found in one of them is replaced in all.

        Overlapping findings become one value, with the type of the longest.

        Raises:
            ValueError: a finding does not lie inside its text, or there are not as many lists as texts.
            PrivacyViolation: the table is wiped, or no unambiguous pseudonym is left.
        """
        with self._lock:
            self.check()
            if len(texts) != len(findings):
                raise ValueError(f"{len(texts)} texts with {len(findings)} lists of findings: pass one list per text")
            found = [_spans(text, each) for text, each in zip(texts, findings, strict=True)]
            for text, each in zip(texts, found, strict=True):
                for span in each:
                    self._learn(text[span.start : span.end], span.type)
            return self._write_all(texts, [self._all(text, each) for text, each in zip(texts, found, strict=True)])

    def begins_value(self, text: str) -> bool:
        """Whether *text* ends with the beginning of a known value, as a stream does that broke off within one.

        A single character counts only at the beginning of a word.
        """
        shortest = 2 if text[-2:-1].isalnum() else 1
        with self._lock:
            return any(text.endswith(value[:end]) for value in self._values for end in range(shortest, len(value)))

    def _all(self, text: str, found: list[_Span]) -> list[_Span]:
        """All values in *text*: its findings, and values that were found before or in other texts."""
        return _merge([*found, *self._occurrences(text)])

    def _learn(self, value: str, kind: str) -> None:
        """Store a value and its JSON-escaped forms, in which tools and models return it."""
        if value in self._values and value not in self._raw:  # a value known only as an escaped form is new
            return
        self._values.setdefault(value, kind)
        for ascii_only in (False, True):
            escaped = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
            if escaped not in self._values:
                self._values[escaped] = kind
                self._raw.add(escaped)

    def _occurrences(self, text: str) -> Iterator[_Span]:
        for value, kind in self._values.items():
            start = text.find(value)
            while start >= 0:
                yield _Span(start, start + len(value), kind)
                start = text.find(value, start + 1)  # occurrences may overlap

    def _pseudonyms(self, text: str) -> Iterator[tuple[int, int]]:
        """The spans of known pseudonyms in *text*, from left to right, as `Restorer` finds them."""
        if not self._types or "_" not in text:
            return
        search = full_pattern(self._types, *self._format).search
        at = 0
        while (match := search(text, at)) is not None:
            known = canonical(match) in self._entries
            at = match.end() if known else match.start() + 1
            if known:
                yield match.span()

    def _write_all(self, texts: Sequence[str], spans: list[list[_Span]]) -> list[str]:
        """Write every text and check that the restorer would restore each pseudonym and nothing else.

        Anything else that it would restore becomes a value too: a pseudonym that a user typed, or text that reads as
        one together with an adjacent pseudonym, such as `EMAIL_` before `PHONE_QYSAI`. Spans only grow, and one round
        nearly always suffices.
        """
        taken = normalise(texts)
        for _ in range(_MAX_ROUNDS):
            for text, each in zip(texts, spans, strict=True):
                for span in each:
                    self._name(text[span.start : span.end], span.type, taken)
            written = [self._write(text, each) for text, each in zip(texts, spans, strict=True)]
            strays = [self._strays(text, placed) for text, placed in written]
            if not any(strays):
                return [text for text, _ in written]
            spans = [_merge([*each, *more]) for each, more in zip(spans, strays, strict=True)]
        raise PrivacyViolation("the texts and their pseudonyms cannot be told apart", location="cloud")

    def _write(self, text: str, spans: list[_Span]) -> tuple[str, list[_Placed]]:
        parts: list[str] = []
        placed: list[_Placed] = []
        source = length = 0
        for span in spans:
            name = self._names[text[span.start : span.end]]
            parts += [text[source : span.start], name]
            length += span.start - source + len(name)
            placed.append(_Placed(length - len(name), length, span))
            source = span.end
        return "".join([*parts, text[source:]]), placed

    def _strays(self, text: str, placed: list[_Placed]) -> list[_Span]:
        """The spans of the source that a restorer would take for pseudonyms although they are none of ours."""
        ours = {(one.start, one.end) for one in placed}
        return [
            _Span(_source(start, placed, end=False), _source(end, placed, end=True), LITERAL)
            for start, end in self._pseudonyms(text)
            if (start, end) not in ours
        ]

    def _name(self, value: str, kind: str, taken: str) -> str:
        """The pseudonym of *value*: the one it has, or a new one that occurs in none of the texts."""
        if value in self._names:
            return self._names[value]
        for attempt in range(_MAX_ATTEMPTS):
            name = f"{kind}_{self._suffix(f'{kind}:{attempt}:{value}')}"
            if name not in self._entries and name not in taken:  # the texts may hold it by chance
                self._add(name, kind, value)
                return name
        raise PrivacyViolation(f"no free pseudonym is left for the type {kind}", location="cloud")

    def _suffix(self, message: str) -> str:
        alphabet, length = self._format
        digest = hmac.digest(self._key, message.encode("utf-8", "surrogatepass"), "sha256")
        number, letters = int.from_bytes(digest, "big"), ""
        for _ in range(length):
            number, letter = divmod(number, len(alphabet))
            letters += alphabet[letter]
        return letters

    def _add(self, name: str, kind: str, value: str) -> None:
        escaped = value if value in self._raw else json.dumps(value, ensure_ascii=False)[1:-1]
        self._begins.update(name[:end] for end in range(len(kind) + 1, len(name)))
        self._names[value] = name
        self._entries[name] = Entry(value=value, escaped=escaped, ordinal=len(self._entries))
        if kind not in self._types:
            self._types = (*self._types, kind)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def format(self) -> tuple[tuple[str, ...], str, int]:
        """The types in use, the alphabet and the length: the arguments of the patterns."""
        return (self._types, *self._format)

    def entry(self, name: str) -> Entry | None:
        """The entry of the pseudonym *name* in its canonical spelling; None if it is unknown."""
        return self._entries.get(name)

    def begins(self, beginning: str) -> bool:
        """Whether a pseudonym begins so. *beginning* reaches to the underscore at least."""
        return beginning in self._begins

    def check(self) -> None:
        """Make sure that the table is still there.

        Raises:
            PrivacyViolation: it is wiped.
        """
        if self._wiped:
            raise PrivacyViolation("the pseudonyms of this session are wiped", location="cloud")

    def wipe(self) -> None:
        """Forget everything: from now on every method raises, and so does every `Restorer`. Idempotent.

        The key is overwritten. The values are Python strings, which cannot be: they are dropped, and freed memory may
        hold them until the interpreter uses it again.
        """
        with self._lock:
            self._wiped = True
            self._key[:] = bytes(len(self._key))
            for held in (self._entries, self._names, self._values, self._raw, self._begins):
                held.clear()
            self._types = ()

    def __repr__(self) -> str:
        return f"PseudonymTable({'wiped' if self._wiped else f'{len(self)} pseudonyms'})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a PseudonymTable cannot be copied or pickled: it stays in this process and is wiped")


def _spans(text: str, findings: Sequence[Finding]) -> list[_Span]:
    for finding in findings:
        if not 0 <= finding.start < finding.end <= len(text):
            where = f"from {finding.start} to {finding.end}"
            raise ValueError(f"a finding of {finding.kind!r} is {where}, in a text of {len(text)} characters")
    return [_Span(finding.start, finding.end, type_of(finding.kind)) for finding in findings]


def _merge(spans: Sequence[_Span]) -> list[_Span]:
    """Merge overlapping spans; the longest one gives the type, the first of those that are equally long."""
    merged: list[_Span] = []
    longest = 0
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        length = span.end - span.start
        if merged and span.start < merged[-1].end:
            last = merged.pop()
            kind = span.type if length > longest else last.type
            span, length = _Span(last.start, max(last.end, span.end), kind), max(length, longest)
        merged.append(span)
        longest = length
    return merged


def _source(offset: int, placed: Sequence[_Placed], *, end: bool) -> int:
    """*offset* of the written text as an offset of the source; inside a pseudonym, the start or end of its span."""
    shift = 0
    for one in placed:
        if one.start < offset < one.end:
            return one.span.end if end else one.span.start
        if one.end <= offset:
            shift = one.span.end - one.end
    return offset + shift


def type_of(kind: str) -> str:
    """The type in the pseudonyms of a detector's *kind*: a short form, or up to 12 of its ASCII letters in capitals."""
    letters = "".join(c for c in kind.upper() if "A" <= c <= "Z")
    return _TYPES.get(kind, letters[:_LONGEST_TYPE] or "VALUE")


def canonical(match: re.Match[str]) -> str:
    """The canonical spelling of what `full_pattern` or `stream_pattern` matched, whole or a prefix."""
    letters = match[match.lastgroup or 0]
    return f"{match.string[match.start() : match.end('stem')]}_{letters}".upper()


def normalise(texts: Iterable[str]) -> str:
    """All *texts* in canonical spelling: a pseudonym that a pattern finds in one of them occurs here literally."""
    return _NORMAL.sub("_", "\n".join(text for text in texts if "_" in text)).upper()


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

r"""How a pseudonym looks, `EMAIL_QYSAI`, and the patterns that find whole ones and beginnings of them.

Type, underscore, and a fixed number of base32 letters (RFC 4648): since a type has letters only and the number is
fixed, no pseudonym begins another one. Models change what they copy, so a pattern takes these spellings for the same:
any case (`Email_Qysai`), the underscore escaped as in Markdown (`EMAIL\_QYSAI`) or as in Markdown inside JSON, and one
space on either side of it. A hyphen or a space in place of the underscore is not one: it would find plain words.
Nothing is asked of what stands before or after: word boundaries are not known yet when a stream is cut there.

The pseudonyms of one session: values out of a text and names in, so that the names can be turned back exactly.

It decides nothing: which texts need it, and what in them is sensitive, others say. It lives in memory only.

What it promises, for all texts and findings:

- No value that was ever found in this session is left between the pseudonyms of a text, whether a detector fires on it
  this time or not; also not as it stands in JSON, with its escapes.
- `Restorer` turns every text back into exactly what it was. Hence one pseudonym for one *spelling*: `Bob@x.org` and
  `bob@x.org` are two, since a common one could bring back only one of them.
- The same spelling has the same pseudonym on every turn, and another one in every other session.
- A text that happens to hold a known pseudonym is not confused with it: that part is replaced like a value. A new
  pseudonym never reads like anything in the texts that it is made for.
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


_ATTEMPTS = 256
_ROUNDS = 64


class _Span(NamedTuple):
    """What becomes one pseudonym: characters *start* to *end* of a source text."""

    start: int
    end: int
    type: str


class _Placed(NamedTuple):
    """A pseudonym in a text that was written: *start* to *end* there stand for *span* of the source."""

    start: int
    end: int
    span: _Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one pseudonym stands for: *value* in a text, *escaped* inside a string of JSON. Neither shows in `repr`."""

    value: str = field(repr=False)
    escaped: str = field(repr=False)
    ordinal: int
    """How many pseudonyms there were before it."""


class PseudonymTable:
    """Values and pseudonyms of one session. Every method may be called from any thread.

    *key* makes the pseudonyms; without it they come from 32 random bytes. *alphabet*, capital letters and digits, and
    *length* are those of the part after the underscore: five base32 letters are 33 million for each type.

    Raises:
        ConfigError: the alphabet has other characters or none, or the length is less than 1.
    """

    __slots__ = ("_begins", "_entries", "_form", "_key", "_lock", "_names", "_raw", "_types", "_values", "_wiped")

    def __init__(self, key: bytes | None = None, *, alphabet: str = BASE32, length: int = 5) -> None:
        if not re.fullmatch("[A-Z0-9]+", alphabet) or length < 1:
            raise ConfigError("a pseudonym needs an alphabet of capital letters and digits, and a length of 1 at least")
        self._key = bytearray(secrets.token_bytes(32) if key is None else key)
        self._form = (alphabet, length)
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}  # pseudonym -> what it stands for
        self._names: dict[str, str] = {}  # value -> pseudonym
        self._values: dict[str, str] = {}  # every value that was found -> type
        self._raw: set[str] = set()  # values that are JSON text already
        self._begins: set[str] = set()
        self._types: tuple[str, ...] = ()
        self._wiped = False

    def replace(self, text: str, findings: Sequence[Finding]) -> str:
        """Return *text* with pseudonyms in place of what is found; as `replace_all` of one text.

        Raises:
            ValueError: a finding does not lie inside the text.
            PrivacyViolation: the table is wiped, or no pseudonym is left.
        """
        return self.replace_all([text], [findings])[0]

    def replace_all(self, texts: Sequence[str], findings: Sequence[Sequence[Finding]]) -> list[str]:
        """Replace in all texts of a request at once: what is found in one of them is replaced in all.

        Findings that overlap become one value; it has the type of the longest.

        Raises:
            ValueError: a finding does not lie inside its text, or there are not as many lists as texts.
            PrivacyViolation: the table is wiped, or no pseudonym is left.
        """
        with self._lock:
            self.check()
            if len(texts) != len(findings):
                raise ValueError(f"{len(texts)} texts came with {len(findings)} lists of findings: give one for each")
            found = [_spans(text, each) for text, each in zip(texts, findings, strict=True)]
            for text, each in zip(texts, found, strict=True):
                for span in each:
                    self._learn(text[span.start : span.end], span.type)
            return self._write_all(texts, [self._all(text, each) for text, each in zip(texts, found, strict=True)])

    def begins_value(self, text: str) -> bool:
        """Whether *text* ends with the beginning of a value, as a stream does that was cut within one.

        A single character counts where a word begins with it.
        """
        shortest = 2 if text[-2:-1].isalnum() else 1
        with self._lock:
            return any(text.endswith(value[:end]) for value in self._values for end in range(shortest, len(value)))

    def _all(self, text: str, found: list[_Span]) -> list[_Span]:
        """All values in *text*: what is found in it, and what was found before or elsewhere."""
        return _merge([*found, *self._occurrences(text)])

    def _learn(self, value: str, kind: str) -> None:
        """Remember a value, and how it would stand in JSON: so do tools and models send it back."""
        if value in self._values and value not in self._raw:
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
                start = text.find(value, start + 1)

    def _pseudonyms(self, text: str) -> Iterator[tuple[int, int]]:
        """Where known pseudonyms stand in *text*, from left to right, as `Restorer` finds them."""
        if not self._types or "_" not in text:
            return
        search = full_pattern(self._types, *self._form).search
        at = 0
        while (match := search(text, at)) is not None:
            known = canonical(match) in self._entries
            at = match.end() if known else match.start() + 1
            if known:
                yield match.span()

    def _write_all(self, texts: Sequence[str], spans: list[list[_Span]]) -> list[str]:
        """Write every text, and look whether each pseudonym, and nothing else, would be turned back.

        What would be turned back too becomes a value: a pseudonym that somebody typed, or text that reads as one
        together with the pseudonym beside it, as `EMAIL_` before `PHONE_QYSAI` may. Spans only grow, and one round is
        nearly always enough.
        """
        taken = normalise(texts)
        for _ in range(_ROUNDS):
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
        """The parts of the source that a restorer would take for pseudonyms, although nobody put them there."""
        ours = {(here.start, here.end) for here in placed}
        return [
            _Span(_source(start, placed, end=False), _source(end, placed, end=True), LITERAL)
            for start, end in self._pseudonyms(text)
            if (start, end) not in ours
        ]

    def _name(self, value: str, kind: str, taken: str) -> str:
        """The pseudonym of *value*: the one it has, or a new one that is in none of the texts."""
        if value in self._names:
            return self._names[value]
        for attempt in range(_ATTEMPTS):
            name = f"{kind}_{self._suffix(f'{kind}:{attempt}:{value}')}"
            if name not in self._entries and name not in taken:
                self._add(name, kind, value)
                return name
        raise PrivacyViolation(f"no free pseudonym is left for the type {kind}", location="cloud")

    def _suffix(self, message: str) -> str:
        alphabet, length = self._form
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

    def names(self) -> tuple[str, ...]:
        """All pseudonyms, in the order in which they were given."""
        return tuple(self._entries)

    @property
    def form(self) -> tuple[tuple[str, ...], str, int]:
        """The types there are, the alphabet and the length: what a pattern is made of."""
        return (self._types, *self._form)

    def entry(self, name: str) -> Entry | None:
        """What the pseudonym *name*, in its canonical spelling, stands for."""
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
        """Forget everything; from now on every method raises, and so does every `Restorer`. Twice is once.

        The key is overwritten. The values are texts of Python, which cannot be: they are let go, and memory that the
        interpreter has not used again yet may hold them a while.
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
        raise TypeError("a PseudonymTable is neither copied nor pickled: it stays in this process and is wiped")


def _spans(text: str, findings: Sequence[Finding]) -> list[_Span]:
    for finding in findings:
        if not 0 <= finding.start < finding.end <= len(text):
            where = f"from {finding.start} to {finding.end}"
            raise ValueError(f"a finding of {finding.kind!r} reaches {where}, in a text of {len(text)} characters")
    return [_Span(finding.start, finding.end, type_of(finding.kind)) for finding in findings]


def _merge(spans: Sequence[_Span]) -> list[_Span]:
    """Spans that overlap become one, of the type of the longest; where two are equal, the first given counts."""
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
    """Where *offset* of the written text is in the source; inside a pseudonym, where its span begins or ends."""
    shift = 0
    for here in placed:
        if here.start < offset < here.end:
            return here.span.end if end else here.span.start
        if here.end <= offset:
            shift = here.span.end - here.end
    return offset + shift

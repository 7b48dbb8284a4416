r"""The pseudonyms of one session: values are replaced by names such as `EMAIL_K7SAI`, and can be restored exactly.

It lives in memory only. Which texts need pseudonyms, and what in them is sensitive, is decided elsewhere. For all texts
and findings:

- No value that was ever found in this session remains between the pseudonyms of a text, whether or not a detector
  finds it this time; neither does its JSON-escaped form.
- `Restorer` restores every text exactly. Hence one pseudonym per *spelling*: `Bob@x.org` and `bob@x.org` have two,
  since a common one could restore only one of them.
- A spelling has the same pseudonym on every turn, and a different one in every other session.
- A known pseudonym that already occurs in a text is replaced like a value, so that it is not mistaken for one of ours;
  a new pseudonym never matches anything in the texts that it is made for.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Final, NoReturn

from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.core.looks import look, looked
from hybrid_llm.router.privacy.detectors import Finding, Prepared
from hybrid_llm.router.privacy.pseudonyms.kinds import is_naming
from hybrid_llm.router.privacy.pseudonyms.notation import (
    BASE32,
    LITERAL,
    is_mixed,
    spellings,
    suffixes,
    type_of,
)
from hybrid_llm.router.privacy.pseudonyms.spans import Placed, Span, merge, source
from hybrid_llm.router.privacy.pseudonyms.values import KnownValues, json_forms

_MAX_ATTEMPTS: Final = 256
"""Names that are tried for a new pseudonym."""
_MAX_ROUNDS: Final = 64
_DIGIT: Final = re.compile("[0-9]")
_MOST: Final = 64
"""Bytes of a digest, and so the letters of a pseudonym."""
_BATCH: Final = 1024
"""Values between two looks at the deadline."""


def counted(names: Iterable[str]) -> dict[str, int]:
    """How many of some pseudonyms have each type."""
    return dict(sorted(Counter([name.partition("_")[0] for name in names]).items()))


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
        key: Pseudonyms are derived from it by keyed BLAKE2b; at most 64 bytes. Default: 32 random bytes.
        alphabet: The characters after the underscore: capital letters and digits.
        length: How many there are: five base32 letters give 33 million pseudonyms per type.

    Raises:
        ConfigError: the alphabet is empty or has other characters, or the length is not from 1 to 64.
    """

    __slots__ = (
        "_begins", "_begun", "_codes", "_entries", "_format", "_is_mixed", "_key", "_letters",
        "_lock", "_names", "_types", "_values", "_wiped",
    )  # fmt: skip

    def __init__(self, key: bytes | None = None, *, alphabet: str = BASE32, length: int = 5) -> None:
        if not re.fullmatch("[A-Z0-9]+", alphabet) or not 1 <= length <= _MOST:
            raise ConfigError(f"a pseudonym needs an alphabet of capital letters and digits, and 1 to {_MOST} of them")
        self._key = bytearray(secrets.token_bytes(32) if key is None else key)
        self._format = (alphabet, length)
        self._letters = _letters(self._key, alphabet, length)
        self._lock = threading.RLock()
        self._entries: dict[str, tuple[str, int, bool]] = {}  # pseudonym -> value, how many there were, if escaped
        self._names: dict[str, str] = {}  # value -> pseudonym
        self._codes: dict[str, str] = {}  # code that is known alone -> pseudonym
        self._is_mixed = is_mixed(alphabet)
        self._values = KnownValues()
        self._begins: set[str] = set()  # every proper prefix of a pseudonym, from the underscore on, and of a code
        self._begun: list[str] = []  # pseudonyms whose prefixes are not among these yet
        self._types: tuple[str, ...] = ()
        self._wiped = False

    def replace_all(
        self,
        texts: Sequence[Prepared],
        findings: Sequence[Sequence[Finding]],
        *,
        used: set[str] | None = None,
        kept: Sequence[Callable[[Span], Iterable[Span]]] = (),
    ) -> list[str]:
        """Replace in all texts of a request at once: a value found in one of them is replaced in all.

        Overlapping findings become one value, with the type of the longest.

        Args:
            texts: As the detectors saw them.
            findings: Those in each text.
            used: Gets every pseudonym that is written.
            kept: For each text, what is replaced of a place where a value of another text or request stands; by
                default all of it.

        Raises:
            ValueError: a finding does not lie inside its text, or there are not as many lists as texts.
            PrivacyViolation: the table is wiped, or no unambiguous pseudonym is left.
        """
        with self._lock:
            self.check()
            if len(texts) != len(findings):
                raise ValueError(f"{len(texts)} texts with {len(findings)} lists of findings: pass one list per text")
            found = [_spans(each.text, some) for each, some in zip(texts, findings, strict=True)]
            self._learn(texts, found)
            limits = kept or [_whole] * len(texts)
            spans = [self._all(each, some, limit) for each, some, limit in zip(texts, found, limits, strict=True)]
            written = self._write_all([each.text for each in texts], spans)
            if used is not None:
                used.update(text[start:end] for text, placed in written for start, end in placed)
            return [text for text, _ in written]

    def begins_value(self, text: str) -> bool:
        """Whether *text* ends with what could begin a known value in any spelling: a stream broke off within one.

        A single character counts only at the beginning of a word.
        """
        with self._lock:
            return self._values.begins(text)

    def _learn(self, texts: Sequence[Prepared], found: Sequence[Sequence[Span]]) -> None:
        values: dict[str, str] = {}
        for each, some in zip(texts, found, strict=True):
            for start, end, kind in looked(some, _BATCH):
                value = each.text[start:end]
                known = values.setdefault(value, kind)
                if is_naming(known):
                    values[value] = kind
        self._values.learn(values)

    def _all(self, prepared: Prepared, found: list[Span], kept: Callable[[Span], Iterable[Span]]) -> list[Span]:
        """All values in a text: its findings, and values that were found before or in other texts."""
        known = [part for span in self._values.occurrences(prepared, merge(found)) for part in kept(span)]
        return merge([*found, *known])

    def _write_all(self, texts: Sequence[str], spans: list[list[Span]]) -> list[tuple[str, list[Placed]]]:
        """Write every text, with the places of its pseudonyms, which are all that the restorer would restore there.

        Anything else that it would restore becomes a value too: a pseudonym that a user typed, or text that reads as
        one together with an adjacent pseudonym, such as `EMAIL_` before `PHONE_K7SAI`. Spans only grow, and one round
        nearly always suffices.
        """
        taken = suffixes(texts, self._format[1])
        for _ in range(_MAX_ROUNDS):
            written = [self._write(text, each, taken) for text, each in zip(texts, spans, strict=True)]
            look()
            strays = [list(self._strays(*one, each)) for one, each in zip(written, spans, strict=True)]
            if not any(strays):
                return written
            spans = [merge([*each, *more]) for each, more in zip(spans, strays, strict=True)]
        raise PrivacyViolation("the texts and their pseudonyms cannot be told apart", location="cloud")

    def _write(self, text: str, spans: list[Span], taken: set[str]) -> tuple[str, list[Placed]]:
        parts: list[str] = []
        placed: list[Placed] = []
        done = length = 0
        for start, end, kind in looked(spans, _BATCH):
            value = text[start:end]
            name = self._names.get(value) or self._new_name(value, kind, taken)
            parts += (text[done:start], name)
            begin = length + start - done
            length = begin + len(name)
            placed.append((begin, length))
            done = end
        return "".join([*parts, text[done:]]), placed

    def _strays(self, text: str, placed: list[Placed], spans: list[Span]) -> Iterator[Span]:
        """The spans of the source that a restorer would take for pseudonyms although they are none of ours."""
        read = list(self.pseudonyms(text))
        if read == placed:
            return
        ours = set(placed)
        for start, end in read:
            if (start, end) not in ours:
                yield source(start, placed, spans, end=False), source(end, placed, spans, end=True), LITERAL

    def pseudonyms(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the spans of known pseudonyms in *text*, from left to right, as `Restorer` finds them."""
        if not self._types or not (_DIGIT.search(text) or not self._is_mixed):
            return
        known = spellings(*self.format)
        search, read = known.whole.search, known.read
        at = 0
        while (match := search(text, at)) is not None:
            is_ours = match[0] in self._entries or self.entry(read(match)[1]) is not None
            at = match.end() if is_ours else match.start() + 1
            if is_ours:
                yield match.span()

    def typed(self, text: str) -> Iterator[tuple[str, str, int]]:
        """Yield each type of this table in *text* with what stands behind it as a code does, and where that begins."""
        known = spellings(*self.format)
        for match in known.typed.finditer(text) if self._types else ():
            stem, _, code = known.read(match)[1].partition("_")
            yield stem, code, match.start("whole")

    def _new_name(self, value: str, kind: str, taken: set[str]) -> str:
        """A pseudonym for *value*, which has none; it occurs in none of the texts."""
        stem = type_of(kind)
        for letters in islice(self._letters, _MAX_ATTEMPTS):
            name = f"{stem}_{letters}"
            if letters not in taken and letters not in self._codes and name not in self._entries:
                self._names[value] = name
                if self._is_mixed:
                    self._codes[letters] = name
                self._entries[name] = (value, len(self._entries), self._values.is_escaped(value))
                self._begun.append(name)
                if stem not in self._types:
                    self._types = tuple(sorted((*self._types, stem)))
                return name
        raise PrivacyViolation(f"no free pseudonym is left for the type {stem}", location="cloud")

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def format(self) -> tuple[tuple[str, ...], str, int]:
        """The types in use, the alphabet and the length: the arguments of `spellings`."""
        return (self._types, *self._format)

    def entry(self, name: str) -> Entry | None:
        """The entry of the pseudonym *name* in its canonical spelling, or of its code; None if it is unknown."""
        name = self._codes.get(name, name)
        if name not in self._entries:
            return None
        value, ordinal, is_escaped = self._entries[name]
        forms = () if is_escaped else json_forms(value)
        return Entry(value=value, escaped=forms[0] if forms else value, ordinal=ordinal)

    def begins(self, beginning: str) -> bool:
        """Whether a pseudonym, or a code alone, begins so. *beginning* of a pseudonym reaches into its code."""
        if self._begun:
            with self._lock:
                self._index()
        return beginning in self._begins

    def _index(self) -> None:
        while self._begun:
            stem, code = self._begun.pop().split("_")
            begins = [code[:end] for end in range(1, len(code))]
            self._begins.update(begins, [f"{stem}_{each}" for each in begins], [code])

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
            self._values.clear()
            for held in (self._entries, self._names, self._codes, self._begins, self._begun):
                held.clear()
            self._types = ()

    def __repr__(self) -> str:
        return f"PseudonymTable({'wiped' if self._wiped else f'{len(self)} pseudonyms'})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a PseudonymTable cannot be copied or pickled: it stays in this process and is wiped")


def _whole(span: Span) -> Iterable[Span]:
    return (span,)


def _spans(text: str, findings: Sequence[Finding]) -> list[Span]:
    for finding in findings:
        if not 0 <= finding.start < finding.end <= len(text):
            where = f"from {finding.start} to {finding.end}"
            raise ValueError(f"a finding of {finding.kind!r} is {where}, in a text of {len(text)} characters")
    return [(finding.start, finding.end, finding.kind) for finding in findings]


def _letters(key: bytearray, alphabet: str, length: int) -> Iterator[str]:
    """Yield one code after another, from a stream of keyed BLAKE2b: neither a word nor a number, where that can be."""
    letters = (alphabet * 256)[:256].encode("ascii")
    telling = is_mixed(alphabet) and length > 1
    for number in count():
        block = hashlib.blake2b(number.to_bytes(8), key=key).digest().translate(letters).decode("ascii")
        for at in range(0, _MOST - length + 1, length):
            code = block[at : at + length]
            if not (telling and (code.isalpha() or code.isdigit())):
                yield code

"""Runs detectors over a text: every pattern over its decoded form, each match scored by the evidence for it.

A match counts as a find when its score reaches `THRESHOLD`. A format that is rarely met by chance scores that much
alone; a weaker one needs a valid checksum or a word nearby. A checksum is therefore evidence, not a filter: a mistyped
card number is found where the text says `card`.

Text inside base64 (RFC 4648, both alphabets, in one line or in MIME lines) and hexadecimal is decoded and scanned too;
a run that holds a finding is reported whole. Time is linear in the length of the text. What is sensitive is defined in
`catalogue`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from hybrid_llm.core.protocols import Detector, Finding
from hybrid_llm.router.privacy.detectors.encodings import embedded
from hybrid_llm.router.privacy.detectors.text import Regex, View, decoded

THRESHOLD: Final = 0.5
"""The score from which a find counts."""
CONTEXT: Final = 0.3
"""What a word near a find adds to its score, or takes from it."""
_BEFORE: Final = 60
_AFTER: Final = 24
_NO_DIGITS: Final = bytes(byte for byte in range(256) if not 48 <= byte <= 57)
_DEPTH: Final = 3
"""How many levels of base64 inside base64 are decoded."""

Spans = Iterable[tuple[int, int]]
"""Start and end (exclusive) of each find, as character offsets."""


class Candidate(NamedTuple):
    """What a pattern matched: the characters *start* to *end* (exclusive) of *view*."""

    view: View
    start: int
    end: int

    @property
    def value(self) -> str:
        """The folded text: the digits of every script as ASCII."""
        return self.view.data[self.start : self.end].decode("latin-1")

    @property
    def digits(self) -> str:
        """Only the digits of the value."""
        return self.view.data[self.start : self.end].translate(None, _NO_DIGITS).decode("ascii")


@dataclass(frozen=True, eq=False)
class Context:
    """Words near a match: *words* is an RE2 pattern, case-insensitive; *chinese* words match literally."""

    words: bytes
    chinese: tuple[str, ...] = ()
    before: int = _BEFORE
    after: int = _AFTER

    @cached_property
    def _regex(self) -> Regex:
        return Regex(rb"(?i)(?:\b|_)(?:" + self.words + rb")(?:\b|_|[0-9])")

    def within(self, view: View) -> bool:
        """Whether one of the words occurs in *view*."""
        return bool(self._positions(view))

    def around(self, candidate: Candidate) -> bool:
        """Whether one of the words occurs near *candidate*."""
        positions = self._positions(candidate.view)
        index = bisect_left(positions, candidate.start - self.before)
        while index < len(positions) and positions[index] < candidate.end + self.after:
            if not candidate.start < positions[index] < candidate.end:
                return True
            index += 1
        return False

    def _positions(self, view: View) -> Sequence[int]:
        """Where the words begin in *view*, searched for once per view."""
        if self not in view.notes:
            positions = [found.start for found in self._regex.finditer(view.data)]
            if self.chinese and not view.text.isascii():
                positions = sorted([*positions, *(start for word in self.chinese for start in view.find(word))])
            view.notes[self] = positions
        return view.notes[self]


@dataclass(frozen=True, eq=False)
class Pattern:
    """One format of a kind of value: its expression, its score, and the words that count for or against it.

    Attributes:
        regex: The value is its group, or the whole match where it has none.
        score: From 0 to 1; below `THRESHOLD - CONTEXT` no word nearby can make it count.
        near: Words that raise the score.
        against: Words that lower the score.
        weak: Only counts near a word of *near*; texts without one are not searched.
        needs: Text without this is not searched: lower-case characters, found in any case, or `6` or `9` for a number
            of that many digits.
    """

    regex: Regex
    score: Callable[[Candidate], float] = lambda _: 1.0
    near: Context | None = None
    against: Context | None = None
    weak: bool = False
    needs: bytes = b""

    def spans(self, view: View, known: bytearray) -> Iterator[tuple[int, int]]:
        """Yield the finds in *view* that do not lie within the characters that *known* marks."""
        for start, end, _ in self.regex.finditer(view.data):
            if not (known[start] and known[end - 1]) and self.accepts(Candidate(view, start, end)):
                yield start, end

    def may_match(self, view: View) -> bool:
        """Whether *view* holds what every match needs: a quick test that spares most searches."""
        if self.needs == b"9":
            present = view.has_long_number
        else:
            present = view.has_number if self.needs == b"6" else self.needs in view.lower
        if not present:
            return False
        return not self.weak or self.near is None or self.near.within(view)

    def accepts(self, candidate: Candidate) -> bool:
        """Whether the evidence for *candidate* is sufficient."""
        score = self.score(candidate)
        if score < THRESHOLD - CONTEXT:
            return False
        if self.against is not None and self.against.around(candidate):
            score -= CONTEXT
        if score < THRESHOLD and self.near is not None and self.near.around(candidate):
            score += CONTEXT
        return score >= THRESHOLD - 1e-9  # sums such as 0.2 + 0.3 may fall just short


class Prepared:
    """A text with its encodings undone and its embedded texts decoded, shared by all detectors that scan it."""

    __slots__ = ("inner", "text", "view")

    def __init__(self, text: str, depth: int = _DEPTH) -> None:
        self.text = text
        self.view = decoded(text)
        runs = embedded(self.view) if depth else ()
        self.inner = [(start, end, Prepared(inner, depth - 1)) for start, end, inner in runs]


def prepare(texts: Sequence[str]) -> list[Prepared]:
    """The texts of one request, in its order, ready for all detectors."""
    return [Prepared(text) for text in texts]


@dataclass(frozen=True, eq=False)
class PatternDetector:
    """A detector made of *patterns* and of *search*, a function from a view to spans; *finds* describes it for docs.

    With *needs_digit* the search skips texts without a digit, which most are.
    """

    name: str
    patterns: tuple[Pattern, ...] = ()
    search: Callable[[View], Spans] | None = None
    needs_digit: bool = False
    finds: str = ""

    def find(self, text: str) -> Iterator[Finding]:
        """Yield the findings in *text*, in order and without overlaps."""
        return iter(self.find_in(Prepared(text)))

    def find_in(self, prepared: Prepared) -> tuple[Finding, ...]:
        """Like `find`, for a text that several detectors scan."""
        origins = self._origins(prepared)
        if not origins:
            return ()
        return tuple([Finding(kind=self.name, start=start, end=end) for start, end in _joined(origins)])

    def _origins(self, prepared: Prepared) -> list[tuple[int, int]]:
        """The finds as spans of the original text; an encoded run that holds one counts whole."""
        view = prepared.view
        origins = [view.origin(start, end) for start, end in self._spans(view)]
        if prepared.inner:
            origins += [(start, end) for start, end, inner in prepared.inner if self._origins(inner)]
        return origins

    def _spans(self, view: View) -> list[tuple[int, int]]:
        """The finds in *view*; they may overlap. A pattern skips what an earlier one has found."""
        found: list[tuple[int, int]] = []
        known = bytearray()
        for pattern in self.patterns:
            if pattern.may_match(view):
                known = known or bytearray(len(view.data))
                for start, end in pattern.spans(view, known):
                    known[start:end] = b"\1" * (end - start)
                    found.append((start, end))
        if self.search is not None and (view.has_digit or not self.needs_digit):
            found.extend(self.search(view))
        return found


def scan(text: str, detectors: Iterable[Detector]) -> list[Finding]:
    """Everything that *detectors* find in *text*, by `start`, the longer first, then in the order of *detectors*.

    Findings of one pattern detector never overlap; findings of different detectors may.
    """
    prepared = Prepared(text)
    findings = [finding for detector in detectors for finding in find_with(detector, prepared)]
    return sorted(findings, key=lambda finding: (finding.start, -finding.end))


def find_with(detector: Detector, prepared: Prepared) -> tuple[Finding, ...]:
    """What one detector of any sort finds in a text that several scan."""
    if isinstance(detector, PatternDetector):
        return detector.find_in(prepared)
    return tuple(detector.find(prepared.text))


def _joined(spans: Spans) -> list[tuple[int, int]]:
    """*spans* in order, overlapping ones merged."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined

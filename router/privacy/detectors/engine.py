"""Runs detectors over a text: every pattern over its decoded form, each match scored by the evidence for it.

A match counts as a find when its score reaches `THRESHOLD`. A format that is rarely met by chance scores that much
alone; a weaker one needs a valid checksum or a word nearby. A checksum is therefore evidence, not a filter: a mistyped
card number is found where the text says `card`.

Text inside base64 (RFC 4648, both alphabets, in one line or in MIME lines) and hexadecimal is decoded and scanned too;
a run that holds a finding is reported whole. Time is linear in the length of the text. What is sensitive is defined in
`catalogue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from hybrid_llm.core.lazy import cached_property
from hybrid_llm.core.looks import look, looked
from hybrid_llm.core.protocols import Detector, Finding
from hybrid_llm.router.privacy.detectors.bidi import Shown, shown
from hybrid_llm.router.privacy.detectors.encodings import embedded, hidden
from hybrid_llm.router.privacy.detectors.evidence import DIRECT, Candidate, Context, evidence, labelled_values
from hybrid_llm.router.privacy.detectors.text import Regex, View, decoded

__all__ = [
    "THRESHOLD",
    "Candidate",
    "Context",
    "Pattern",
    "PatternDetector",
    "Prepared",
    "find_with",
    "labelled_values",
    "prepare",
    "scan",
]

THRESHOLD: Final = 0.5
"""The score from which a find counts."""
_TOLERANCE: Final = 1e-9
"""Sums such as 0.2 + 0.3 may fall just short."""
_LONGEST: Final = 80
"""How far behind a region the value may end that begins in it."""
_ASKED: Final = 300
"""How many characters of what was said before may hold the question that a text answers."""
_DEPTH: Final = 3
"""How many levels of base64 inside base64 are decoded."""

Needs = bytes | tuple[bytes, ...]
Spans = Iterable[tuple[int, int]]
"""Start and end (exclusive) of each find, as character offsets."""


class _Gate(NamedTuple):
    """What *needs* means: a number of so many *digits*, and one of the *literals*."""

    digits: int
    literals: tuple[bytes, ...]

    @classmethod
    def of(cls, needs: Needs) -> Self:
        if isinstance(needs, tuple):
            return cls(0, needs)
        return cls(int(needs), (b"",)) if needs.isdigit() else cls(0, (needs,))

    def lets(self, view: View) -> bool:
        """Whether *view* holds it."""
        digits, literals = self
        if view.digits < digits:
            return False
        lower = view.lower
        for literal in literals:  # noqa: SIM110  # a generator for each pattern would cost more than the searches
            if literal in lower:
                return True
        return False


@dataclass(frozen=True, eq=False)
class Pattern:
    """One format of a kind of value: its expression, its score, and the words that count for or against it.

    Attributes:
        regex: The value is its group, or the whole match where it has none.
        score: From 0 to 1; below `THRESHOLD - DIRECT` no word can make it count.
        near: Words that raise the score.
        against: Words that lower the score.
        weak: Only counts with a word of *near*; only what is in reach of one is searched.
        needs: Text without this is not searched: lower-case characters, found in any case, or `1`, `6` or `9` for a
            number of that many digits; a tuple has alternatives.
    """

    regex: Regex
    score: Callable[[Candidate], float] = lambda _: 1.0
    near: Context | None = None
    against: Context | None = None
    weak: bool = False
    needs: Needs = b""

    def spans(self, view: View, known: bytearray) -> Iterator[tuple[int, int]]:
        """Yield the finds in *view* that do not lie within the characters that *known* marks."""
        regions: Sequence[tuple[int, int]] = ((0, len(view.data)),)
        if self.weak and self.near is not None:
            regions = self.near.regions(view) if self.regex.search(view.data) is not None else ()
        for first, last in regions:
            for start, end, _ in self.regex.finditer(view.data, first, last + _LONGEST):
                if start >= last:
                    break
                if not (known[start] and known[end - 1]) and self.accepts(Candidate(view, start, end)):
                    yield start, end

    def is_near(self, view: View) -> bool:
        """Whether *view* holds a word that a weak format needs."""
        return not self.weak or self.near is None or self.near.within(view)

    @cached_property
    def gate(self) -> _Gate:
        """What every match needs: a quick test that spares most searches."""
        return _Gate.of(self.needs)

    def accepts(self, candidate: Candidate) -> bool:
        """Whether the evidence for *candidate* is sufficient."""
        score = self.score(candidate)
        if score < THRESHOLD - DIRECT - _TOLERANCE:
            return False
        if score >= THRESHOLD and (self.against is None or not self.against.within(candidate.view)):
            return True
        return score + evidence(candidate, self.near, self.against) >= THRESHOLD - _TOLERANCE


class Prepared:
    """A text with its encodings undone and its embedded texts decoded, shared by all detectors that scan it."""

    __slots__ = ("hidden", "inner", "shown", "text", "view")

    def __init__(self, text: str, depth: int = _DEPTH, before: str = "") -> None:
        self.text = text
        self.view = decoded(text)
        self.view.before = before
        self.hidden = hidden(text)
        runs = embedded(self.view) if depth else ()
        self.inner = [
            (start, end, Prepared(inner, depth - 1, _said_before(text, start, end))) for start, end, inner in runs
        ]
        self.shown = self._read_as_shown(depth) if self.view.directed is not None else None

    def _read_as_shown(self, depth: int) -> tuple[View, Shown, Prepared] | None:
        """What this text is read from, as it is shown; what cannot be read is reported as hidden."""
        source = self.view.directed
        reading = shown(source.text) if source is not None and depth else None
        if source is None or reading is None:
            return None
        self.hidden += [source.origin(start, end) for start, end in reading.unread]
        return source, reading, Prepared(reading.text, depth - 1, self.view.before)


def _said_before(text: str, start: int, end: int) -> str:
    """The question that an encoded run may answer; a word of letters alone decodes to anything and answers none."""
    return "" if text[start:end].isalpha() else text[max(0, start - _ASKED) : start]


def prepare(texts: Sequence[str]) -> list[Prepared]:
    """The texts of one request, in its order, ready for all detectors; each may answer a question of those before."""
    prepared: list[Prepared] = []
    before = ""
    for text in texts:
        prepared.append(Prepared(text, before=before))
        before = f"{before}\n{text[-_ASKED:]}"[-_ASKED:]
    return prepared


@dataclass(frozen=True, eq=False)
class PatternDetector:
    """A detector made of *patterns* and of *search*, a function from a view to spans; *finds* describes it for docs.

    Without what *needs* says, as that of a `Pattern`, a text is not searched.
    """

    name: str
    patterns: tuple[Pattern, ...] = ()
    search: Callable[[View], Spans] | None = None
    needs: Needs = b""
    finds: str = ""

    @cached_property
    def _gate(self) -> _Gate:
        return _Gate.of(self.needs)

    @cached_property
    def _digits(self) -> int:
        """The digits that every pattern and the search need at least; 0 where one of them needs none."""
        gates = [pattern.gate for pattern in self.patterns] + [self._gate] * (self.search is not None)
        return min([gate.digits for gate in gates], default=0)

    def find(self, text: str) -> Iterator[Finding]:
        """Yield the findings in *text*, in order and without overlaps."""
        return iter(self.find_in(Prepared(text)))

    def find_in(self, prepared: Prepared) -> tuple[Finding, ...]:
        """Like `find`, for a text that several detectors scan."""
        found = self._spans(prepared.view)
        if not (found or prepared.inner or prepared.shown or prepared.hidden):
            return ()
        origins = self._origins(prepared, found)
        return tuple([Finding(kind=self.name, start=start, end=end) for start, end in looked(_joined(origins))])

    def _origins(self, prepared: Prepared, found: Spans) -> list[tuple[int, int]]:
        """What was *found* as spans of the original text; an encoded run that holds a find counts whole."""
        origins = [prepared.view.origin(start, end) for start, end in found]
        origins += [(start, end) for start, end, inner in prepared.inner if self.find_in(inner)]
        if prepared.shown is not None:
            source, reading, inner = prepared.shown
            origins += [source.origin(*reading.origin(each.start, each.end)) for each in looked(self.find_in(inner))]
        return origins + prepared.hidden

    def _spans(self, view: View) -> list[tuple[int, int]]:
        """The finds in *view*; they may overlap. A pattern skips what an earlier one has found."""
        found: list[tuple[int, int]] = []
        if view.digits < self._digits:
            return found
        known = bytearray()
        for pattern in self.patterns:
            if pattern.gate.lets(view) and pattern.is_near(view):
                known = known or bytearray(len(view.data))
                for start, end in pattern.spans(view, known):
                    known[start:end] = b"\1" * (end - start)
                    found.append((start, end))
        if self.search is not None and self._gate.lets(view):
            found.extend(looked(self.search(view)))
        return found


def scan(text: str, detectors: Iterable[Detector]) -> list[Finding]:
    """Everything that *detectors* find in *text*, by `start`, the longer first, then in the order of *detectors*.

    Findings of one pattern detector never overlap; findings of different detectors may.
    """
    prepared = Prepared(text)
    findings = [finding for detector in detectors for finding in find_with(detector, prepared)]
    return sorted(findings, key=lambda finding: (finding.start, -finding.end))


def find_with(detector: Detector, prepared: Prepared, text: str | None = None) -> tuple[Finding, ...]:
    """What one detector of any sort finds in a text that several scan; others than the built-in ones read *text*."""
    if isinstance(detector, PatternDetector):
        return detector.find_in(prepared)
    look()
    return tuple(detector.find(prepared.text if text is None else text))


def _joined(spans: Spans) -> list[tuple[int, int]]:
    """*spans* in order, overlapping ones merged."""
    joined: list[tuple[int, int]] = []
    for start, end in looked(sorted(spans)):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined

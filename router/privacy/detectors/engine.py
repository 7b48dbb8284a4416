"""Text inside base64 (RFC 4648, both alphabets, in one line or in lines as MIME has it) and inside hexadecimal.

What does not decode to text is left alone; whether the text is sensitive is for others to say.

Scans a text with many detectors at once: every form of the text is made once, and each pattern runs over each form.

It does not know what is sensitive; `catalog` does. Time is linear in the length of the text.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from hybrid_llm.core.protocols import Detector, Finding
from hybrid_llm.router.privacy.detectors.evidence import Pattern
from hybrid_llm.router.privacy.detectors.folding import linear
from hybrid_llm.router.privacy.detectors.views import View, decoded

_RUN: Final = linear(
    rb"[A-Za-z0-9+/_-]{56,}(?:\r?\n[A-Za-z0-9+/_-]{56,})*(?:\r?\n[A-Za-z0-9+/_-]{1,76})?={0,2}|[A-Za-z0-9+/_-]{14,}={0,2}"
)
_LINE: Final = re.compile(r"\S+")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")
_UNTEXTUAL: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_STANDARD: Final = str.maketrans("-_", "+/", "=\r\n")


class Run(NamedTuple):
    """A run of an encoding from *start* to *end* of the original text, and the *text* that it holds."""

    start: int
    end: int
    text: str


def embedded(view: View) -> Iterator[Run]:
    """Yield each run that decodes to text."""
    for found in _RUN.finditer(view.data):
        raw = view.data[found.start : found.end].decode("latin-1")
        text = _decoded(raw)
        if text is not None:
            yield Run(*view.origin(found.start, found.end), text)
        elif "\n" in raw:
            yield from _lines(view, raw, found.start)


def _lines(view: View, raw: str, offset: int) -> Iterator[Run]:
    """Lines that only looked like one run: each may be one of its own."""
    for line in _LINE.finditer(raw):
        text = _decoded(line.group())
        if text is not None:
            yield Run(*view.origin(offset + line.start(), offset + line.end()), text)


def _decoded(raw: str) -> str | None:
    compact = raw.translate(_STANDARD)
    if _HEX.fullmatch(compact) and (text := _as_text(bytes.fromhex(compact))) is not None:
        return text
    if compact.islower() or compact.isupper():
        return None  # a word, or words joined to a name: base64 of a text is in both cases
    try:
        return _as_text(binascii.a2b_base64(compact + "=" * (-len(compact) % 4)))
    except binascii.Error:
        return None


def _as_text(data: bytes) -> str | None:
    """*data* as text in UTF-8, or in UTF-16 where every second byte is zero; None if it is neither."""
    if data[1::2].count(0) == len(data) // 2 > 0:
        data = data[::2]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if _UNTEXTUAL.search(text) else text


_DEPTH: Final = 3
"""How deep base64 in base64 is followed."""

Spans = Iterable[tuple[int, int]]


class Prepared:
    """A text with its encodings undone and the texts inside it found, once for all detectors that look at it."""

    __slots__ = ("inner", "text", "view")

    def __init__(self, text: str, depth: int = _DEPTH) -> None:
        self.text = text
        self.view = decoded(text)
        runs = embedded(self.view) if depth else ()
        self.inner = [(run.start, run.end, Prepared(run.text, depth - 1)) for run in runs]


@dataclass(frozen=True, eq=False)
class PatternDetector:
    """Finds one kind of text by its *patterns*, and by *search*, a function from a view to spans in it."""

    name: str
    patterns: tuple[Pattern, ...] = ()
    search: Callable[[View], Spans] | None = None

    def find(self, text: str) -> Iterator[Finding]:
        """Yield what is found in *text*, in order, without overlaps."""
        return iter(self.find_in(Prepared(text)))

    def find_in(self, prepared: Prepared) -> tuple[Finding, ...]:
        """As `find`, for a text that several detectors look at."""
        origins = self._origins(prepared)
        if not origins:
            return ()
        return tuple([Finding(kind=self.name, start=start, end=end) for start, end in _joined(origins)])

    def _origins(self, prepared: Prepared) -> list[tuple[int, int]]:
        """Where it is found, as places of the original text: a run that holds it inside is found whole."""
        view = prepared.view
        origins = [view.origin(start, end) for start, end in self._spans(view)]
        if prepared.inner:
            origins += [(start, end) for start, end, inner in prepared.inner if self._origins(inner)]
        return origins

    def _spans(self, view: View) -> list[tuple[int, int]]:
        """Where in *view* it is found; spans may overlap. What one pattern found no other looks at again."""
        found: list[tuple[int, int]] = []
        known = bytearray()
        for pattern in self.patterns:
            if pattern.may_match(view):
                known = known or bytearray(len(view.data))
                for start, end in pattern.spans(view, known):
                    known[start:end] = b"\1" * (end - start)
                    found.append((start, end))
        if self.search is not None:
            found.extend(self.search(view))
        return found


def scan(text: str, detectors: Iterable[PatternDetector]) -> list[Finding]:
    """All that *detectors* find in *text*.

    Finds of one kind never overlap: those that do are joined. Finds of different kinds may. The order is that of
    `start`, the longer first, then that of *detectors*.
    """
    prepared = Prepared(text)
    return _ordered(finding for detector in detectors for finding in detector.find_in(prepared))


def find_all(text: str, detectors: Iterable[Detector]) -> list[Finding]:
    """As `scan`, for detectors of every sort: those with patterns share the work on the text, others do their own."""
    prepared = Prepared(text)
    return _ordered(finding for detector in detectors for finding in find_with(detector, prepared))


def find_with(detector: Detector, prepared: Prepared) -> tuple[Finding, ...]:
    """What one detector of any sort finds in a text that several look at."""
    if isinstance(detector, PatternDetector):
        return detector.find_in(prepared)
    return tuple(detector.find(prepared.text))


def _ordered(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (finding.start, -finding.end))


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """*spans* in order, overlapping ones made one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined

"""Runs detectors over a text: each encoding is undone once, then every pattern runs over the decoded form.

Text inside base64 (RFC 4648, both alphabets, in one line or in MIME lines) and hexadecimal is decoded and scanned too;
a run that holds a finding is reported whole. Time is linear in the length of the text. What is sensitive is defined in
`catalogue`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

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
_DEPTH: Final = 3
"""How many levels of base64 inside base64 are decoded."""

Spans = Iterable[tuple[int, int]]
"""Start and end (exclusive) of each find, as character offsets."""
_Run = tuple[int, int, str]
"""Start and end of an encoded run in the original text, and the text that it decodes to."""


class Prepared:
    """A text with its encodings undone and its embedded texts decoded, shared by all detectors that scan it."""

    __slots__ = ("inner", "text", "view")

    def __init__(self, text: str, depth: int = _DEPTH) -> None:
        self.text = text
        self.view = decoded(text)
        runs = _embedded(self.view) if depth else ()
        self.inner = [(start, end, Prepared(inner, depth - 1)) for start, end, inner in runs]


@dataclass(frozen=True, eq=False)
class PatternDetector:
    """A detector made of *patterns* and of *search*, a function from a view to spans; *finds* describes it for docs."""

    name: str
    patterns: tuple[Pattern, ...] = ()
    search: Callable[[View], Spans] | None = None
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
        if self.search is not None:
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


def _embedded(view: View) -> Iterator[_Run]:
    """Yield each run of base64 or hexadecimal that decodes to text."""
    for found in _RUN.finditer(view.data):
        raw = view.data[found.start : found.end].decode("latin-1")
        text = _decoded(raw)
        if text is not None:
            yield *view.origin(found.start, found.end), text
        elif "\n" in raw:
            yield from _lines(view, raw, found.start)


def _lines(view: View, raw: str, offset: int) -> Iterator[_Run]:
    """Adjacent lines that do not decode as one run: each may be a run of its own."""
    for line in _LINE.finditer(raw):
        text = _decoded(line.group())
        if text is not None:
            yield *view.origin(offset + line.start(), offset + line.end()), text


def _decoded(raw: str) -> str | None:
    compact = raw.translate(_STANDARD)
    if _HEX.fullmatch(compact) and (text := _as_text(bytes.fromhex(compact))) is not None:
        return text
    if compact.islower() or compact.isupper():
        return None  # a word or joined words: base64 of a text has letters of both cases
    try:
        return _as_text(binascii.a2b_base64(compact + "=" * (-len(compact) % 4)))
    except binascii.Error:
        return None


def _as_text(data: bytes) -> str | None:
    """*data* as text in UTF-8, or in UTF-16 where every second byte is zero; None if it is neither."""
    if data[1::2].count(0) == len(data) // 2 > 0:
        data = data[::2]  # UTF-16 in ASCII
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if _UNTEXTUAL.search(text) else text

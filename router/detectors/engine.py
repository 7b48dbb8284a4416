"""Scans a text with many detectors at once: every form of the text is made once, and each pattern runs over each form.

It does not know what is sensitive; `catalog` does. Time is linear in the length of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hybrid_llm.router.detectors.base import Detector, Finding
from hybrid_llm.router.detectors.embedded import embedded
from hybrid_llm.router.detectors.evidence import Candidate, Pattern
from hybrid_llm.router.detectors.views import View, decoded

__all__ = ["PatternDetector", "Spans", "find_all", "scan"]

_DEPTH = 3
"""How deep base64 in base64 is followed."""

Spans = Iterable[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class PatternDetector:
    """Finds one kind of text by its *patterns*, and by *search*, a function from a view to spans in it."""

    name: str
    patterns: tuple[Pattern, ...] = ()
    search: Callable[[View], Spans] | None = None

    def find(self, text: str) -> Iterator[Finding]:
        """Yield what is found in *text*, in order, without overlaps."""
        return iter(scan(text, (self,)))

    def spans(self, view: View) -> Iterator[tuple[int, int]]:
        """Yield where in *view* it is found; spans may overlap."""
        for pattern in self.patterns:
            if pattern.may_match(view):
                for found in pattern.regex.finditer(view.data):
                    if pattern.accepts(Candidate(view, found.start, found.end)):
                        yield found.start, found.end
        if self.search is not None:
            yield from self.search(view)


def scan(text: str, detectors: Sequence[PatternDetector]) -> list[Finding]:
    """All that *detectors* find in *text*, in one pass over its forms.

    Finds of one kind never overlap: those that do are joined. Finds of different kinds may. The order is that of
    `start`, the longer first, then that of *detectors*.
    """
    found = {detector.name: _joined(spans) for detector, spans in _raw(text, detectors, _DEPTH)}
    findings = [Finding(kind=name, start=start, end=end) for name, spans in found.items() for start, end in spans]
    return sorted(findings, key=lambda finding: (finding.start, -finding.end))


def find_all(text: str, detectors: Iterable[Detector]) -> list[Finding]:
    """As `scan`, for detectors of every sort: those with patterns share the work, the others run one by one."""
    detectors = list(detectors)
    findings = scan(text, [detector for detector in detectors if isinstance(detector, PatternDetector)])
    for detector in detectors:
        if not isinstance(detector, PatternDetector):
            findings += detector.find(text)
    return sorted(findings, key=lambda finding: (finding.start, -finding.end))


_Raw = list[tuple[PatternDetector, list[tuple[int, int]]]]


def _raw(text: str, detectors: Sequence[PatternDetector], depth: int) -> _Raw:
    view = decoded(text)
    raw = [(detector, [view.origin(*span) for span in detector.spans(view)]) for detector in detectors]
    for run in embedded(view) if depth else ():
        for (_, spans), (_, inner) in zip(raw, _raw(run.text, detectors, depth - 1), strict=True):
            if inner:
                spans.append((run.start, run.end))
    return raw


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """*spans* in order, overlapping ones made one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined

"""Drawings of a report as SVG: intervals of a metric, and reliability. Colours are variables of the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from hybrid_llm.prepare.evaluation.metrics.bootstrap import Estimate
from hybrid_llm.prepare.evaluation.metrics.labels import Bin
from hybrid_llm.prepare.evaluation.report.words import number

_WIDTH: Final = 480
_NAMES: Final = 116
_ROW: Final = 26
_SIDE: Final = 220
COLOURS: Final = 6
"""Subjects that have a colour of their own; further ones begin again."""


def intervals(estimates: Mapping[str, Estimate], colours: Mapping[str, int]) -> str:
    """A dot and its interval for each subject, on one axis."""
    finite = {name: one for name, one in estimates.items() if math.isfinite(one.value)}
    if not finite:
        return ""
    low, high = _span(finite.values())
    height = _ROW * len(finite) + 30

    def x(value: float) -> float:
        return _NAMES + (value - low) / (high - low) * (_WIDTH - _NAMES - 20)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="figures with intervals">']
    for tick in _ticks(low, high):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 24}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 8}">{tick:g}</text>')
    for row, (name, one) in enumerate(finite.items()):
        y, colour = _ROW * row + 18, colours[name] % COLOURS
        left = one.low if math.isfinite(one.low) else one.value
        right = one.high if math.isfinite(one.high) else one.value
        parts.append(f'<text class="name" x="{_NAMES - 12}" y="{y + 4}">{escape(_short(name))}</text>')
        parts.append(f'<line class="bar c{colour}" x1="{x(left):.1f}" x2="{x(right):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot c{colour}" cx="{x(one.value):.1f}" cy="{y}" r="5"/>')
        parts.append(f"<title>{escape(name)}: {number(one.value)}</title>")
    return "".join([*parts, "</svg>"])


def diagram(name: str, bins: Sequence[Bin], colour: int) -> str:
    """A reliability diagram: where the dots are below the diagonal, the model is surer than it is right."""
    size, most = _SIDE, max((each.count for each in bins), default=1) or 1
    parts = [f'<svg class="square" viewBox="-40 -20 {size + 60} {size + 60}" role="img" aria-label="reliability">']
    parts.append(f'<rect class="frame" x="0" y="0" width="{size}" height="{size}"/>')
    parts.append(f'<line class="grid" x1="0" y1="{size}" x2="{size}" y2="0"/>')
    points = [(each.confidence * size, size - each.accuracy * size, each.count) for each in bins if each.count]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    parts.append(f'<polyline class="bar c{colour % COLOURS}" points="{line}"/>')
    for x, y, count in points:
        radius = 2.5 + 5 * math.sqrt(count / most)
        parts.append(f'<circle class="dot c{colour % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>')
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<text class="tick" x="{share * size:.0f}" y="{size + 16}">{share:g}</text>')
        parts.append(f'<text class="name" x="-8" y="{size - share * size + 4:.0f}">{share:g}</text>')
    parts.append(f'<text class="tick" x="{size / 2}" y="{size + 34}">probability</text>')
    parts.append(f'<text class="tick" x="{size / 2}" y="-6">{escape(_short(name))}: share that is right</text>')
    return "".join([*parts, "</svg>"])


def _span(estimates: object) -> tuple[float, float]:
    values = [value for one in estimates for value in (one.low, one.value, one.high) if math.isfinite(value)]  # type: ignore[attr-defined]
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _ticks(low: float, high: float) -> Iterator[float]:
    """About five round numbers from *low* to *high*."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    tick = math.ceil(low / step) * step
    while tick <= high:
        yield round(tick, 10)
        tick += step


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"

"""The plot of a frontier as SVG: quality against speed and against size, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

from hybrid_llm.prepare.compression.frontier.variants import Frontier, Variant

_WIDTH, _HEIGHT = 430, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 34, 48
_LETTER, _LINE = 6.6, 14.0
"""Width of a letter and height of a line of a label, in pixels; a little too much, so that labels keep apart."""
_STYLE: Final = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 13px }
.faint { fill: #57606a }
.axis { stroke: #8c959f; fill: none }
.grid { stroke: #d0d7de; fill: none }
.front { stroke: #0969da; stroke-width: 2; fill: none }
.best { fill: #0969da }
.other { fill: none; stroke: #57606a; stroke-width: 1.5 }
.lead { stroke: #8c959f; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .faint { fill: #9198a1 } .axis, .lead { stroke: #6e7681 } .grid { stroke: #30363d }
  .front { stroke: #4493f8 } .best { fill: #4493f8 } .other { stroke: #9198a1 }
}
"""


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to pixels, logarithmic where values differ by more than a factor of 4."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        low, high = min(values), max(values)
        log = low > 0 and high / low > 4
        if log:
            return cls(low / 1.25, high * 1.25, start, end, log)
        room = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
        return cls(low - room, high + room, start, end, log)

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the scale."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        else:
            step = _round_step((self.high - self.low) / 6)
            first = math.ceil(self.low / step)
            found = [number * step for number in range(first, math.floor(self.high / step) + 1)]
        return [value for value in found if self.low <= value <= self.high]


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, other: _Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


def draw(frontier: Frontier) -> str:
    """The plot as one SVG document."""
    unit = frontier.unit.replace("_per_", "/").replace("_", " ")
    panels = (
        _panel(frontier, f"speed, {unit}", lambda each: each.speed, 1),
        _panel(frontier, "size, MB", lambda each: each.size_mb, -1),
    )
    parts = [f'<g transform="translate({_WIDTH * i} 0)">{"".join(panel)}</g>' for i, panel in enumerate(panels)]
    size = f'width="{2 * _WIDTH}" height="{_HEIGHT}" viewBox="0 0 {2 * _WIDTH} {_HEIGHT}"'
    about = f"{frontier.metric} against speed and size of {len(frontier.variants)} variants"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(about)}">'
    return f"{head}<style>{_STYLE}</style>{''.join(parts)}</svg>\n"


def _panel(frontier: Frontier, title: str, value: Callable[[Variant], float], sign: int) -> Iterator[str]:
    """One plot: *sign* is 1 where more of *value* is better, and -1 where less is."""
    variants = frontier.variants
    x = _Scale.of([value(each) for each in variants], _LEFT, _WIDTH - _RIGHT)
    ends = (_TOP, _HEIGHT - _BOTTOM) if frontier.less_is_better else (_HEIGHT - _BOTTOM, _TOP)
    y = _Scale.of([each.quality for each in variants], *ends)
    yield from _axes(x, y, title, frontier.metric)
    front = _front(frontier, value, sign)
    points = {each.name: (x(value(each)), y(each.quality)) for each in variants}
    line = " ".join(f"{points[each.name][0]:.1f},{points[each.name][1]:.1f}" for each in front)
    yield f'<polyline class="front" points="{line}"/>'
    best = {each.name for each in front}
    for name, (px, py) in points.items():
        kind, radius = ("best", 5) if name in best else ("other", 4)
        yield f'<circle class="{kind}" cx="{px:.1f}" cy="{py:.1f}" r="{radius}"/>'
    yield from _labels(points, list(_along([points[each.name] for each in front])))


def _front(frontier: Frontier, value: Callable[[Variant], float], sign: int) -> list[Variant]:
    """The variants that no other beats in quality and *value*, from the best quality to the best value."""
    ranked = sorted(
        frontier.variants, key=lambda each: (-frontier.better(each.quality), -sign * value(each), each.name)
    )
    found: list[Variant] = []
    for variant in ranked:
        if not found or sign * value(variant) > sign * value(found[-1]):
            found.append(variant)
    return found


def _axes(x: _Scale, y: _Scale, title: str, metric: str) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in y.ticks():
        at = y(value)
        yield f'<path class="grid" d="M{_LEFT} {at:.1f}H{right}"/>'
        yield f'<text class="faint" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_plain(value)}</text>'
    for value in x.ticks():
        at = x(value)
        yield f'<path class="axis" d="M{at:.1f} {bottom}v4"/>'
        yield f'<text class="faint" x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{_plain(value)}</text>'
    yield f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>'
    logs = [name for name, scale in ((metric, y), (title.split(",")[0], x)) if scale.log]
    note = f" ({' and '.join(logs)} logarithmic)" if logs else ""
    yield f'<text class="title" x="{_LEFT}" y="18">{escape(metric)}, better is up</text>'
    middle = (_LEFT + right) / 2
    yield f'<text x="{middle:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(title + note)}</text>'


def _along(line: Sequence[tuple[float, float]]) -> Iterator[_Box]:
    """Small boxes on a line, which labels keep off."""
    for (x, y), (to_x, to_y) in pairwise(line):
        count = max(1, round(math.hypot(to_x - x, to_y - y) / 5))
        for i in range(count + 1):
            at_x, at_y = x + (to_x - x) * i / count, y + (to_y - y) * i / count
            yield _Box(at_x - 2, at_y - 2, at_x + 2, at_y + 2)


def _labels(points: dict[str, tuple[float, float]], line: Sequence[_Box]) -> Iterator[str]:
    """The names beside their points, where they overlap neither points nor each other nor the line."""
    plot = _Box(_LEFT + 2, _TOP - 8, _WIDTH - 2, _HEIGHT - _BOTTOM - 2)
    taken = [*line, *(_Box(x - 6, y - 6, x + 6, y + 6) for x, y in points.values())]
    for name, (x, y) in sorted(points.items(), key=lambda item: (item[1][1], item[1][0], item[0])):
        box = _free(name, x, y, plot, taken)
        taken.append(box)
        middle_x, middle_y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
        if math.hypot(middle_x - x, middle_y - y) > len(name) * _LETTER / 2 + 26:
            yield f'<path class="lead" d="M{x:.1f} {y:.1f}L{middle_x:.1f} {middle_y:.1f}"/>'
        yield f'<text x="{middle_x:.1f}" y="{box.bottom - 3.5:.1f}" text-anchor="middle">{escape(name)}</text>'


def _free(name: str, x: float, y: float, plot: _Box, taken: Sequence[_Box]) -> _Box:
    """The nearest box for *name* that nothing takes; right of its point if there is none."""
    width = len(name) * _LETTER
    candidates = sorted(_around(x, y, width), key=lambda box: _distance(box, x, y))
    fitting = (box for box in candidates if box.inside(plot) and not any(box.overlaps(other) for other in taken))
    return next(fitting, candidates[0])


def _around(x: float, y: float, width: float) -> Iterator[_Box]:
    for ring in range(10):
        for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
            left = {1: x + 9, -1: x - 9 - width, 0: x - width / 2}[dx]
            middle = y + dy * (_LINE + ring * _LINE * 0.7) + (0 if dy else (ring % 2 * 2 - 1) * ring * 4)
            yield _Box(left, middle - _LINE / 2, left + width, middle + _LINE / 2)


def _distance(box: _Box, x: float, y: float) -> float:
    """From the point to the box; a box on the right is read most easily."""
    dx, dy = max(box.left - x, x - box.right, 0.0), max(box.top - y, y - box.bottom, 0.0)
    return math.hypot(dx, dy) + (0.5 if box.left < x else 0.0)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"

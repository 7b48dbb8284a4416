"""The curve of a soak: what app and node hold over the requests that were asked, as CSV and as a small SVG."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 260, 56, 28
_COLOURS: Final = ("#1f6feb", "#d1570a", "#2da44e")
_MOST_POINTS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One figure of one process at one instant: seconds since the beginning, and the requests that had ended."""

    seconds: float
    requests: int
    process: str
    figure: str
    value: float


def write_curve(folder: Path, samples: Sequence[Sample], figure: str) -> tuple[Path, Path]:
    """Write `soak.csv` with all *samples*, and `soak.svg` with *figure* of each process over the requests."""
    folder.mkdir(parents=True, exist_ok=True)
    data, drawing = folder / "soak.csv", folder / "soak.svg"
    with data.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("seconds", "requests", "process", "figure", "value"))
        rows.writerows((f"{s.seconds:.1f}", s.requests, s.process, s.figure, f"{s.value:.1f}") for s in samples)
    drawing.write_text(svg([sample for sample in samples if sample.figure == figure], figure), encoding="utf-8")
    return data, drawing


def svg(samples: Sequence[Sample], figure: str) -> str:
    """A line for each process, over the requests."""
    most = max((sample.requests for sample in samples), default=0) or 1
    top = max((sample.value for sample in samples), default=0.0) * 1.1 or 1.0
    right, bottom = _WIDTH - 16, _HEIGHT - 36
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"',
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#888"/>',
        _text(_LEFT - 6, _TOP + 4, f"{top:.0f}", "end"),
        _text(_LEFT - 6, bottom, "0", "end"),
        _text(right, bottom + 16, f"{most:,} requests", "end"),
    ]
    processes = list(dict.fromkeys(sample.process for sample in samples))
    for number, process in enumerate(processes):
        colour = _COLOURS[number % len(_COLOURS)]
        of_it = _thinned([sample for sample in samples if sample.process == process])
        points = " ".join(
            f"{_LEFT + each.requests / most * (right - _LEFT):.1f},{bottom - each.value / top * (bottom - _TOP):.1f}"
            for each in of_it
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(_text(_LEFT + 150 * number, 16, f"{process}: {figure}", "start", colour))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, words: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def _thinned(samples: Sequence[Sample]) -> Iterable[Sample]:
    return samples[:: max(1, len(samples) // _MOST_POINTS)]

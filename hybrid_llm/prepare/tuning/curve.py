"""The loss curve of a training: as `training.json`, and as a drawing in SVG that needs no library."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

JSON_NAME: Final = "training.json"
SVG_NAME: Final = "training.svg"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 320, 56, 40, 28, 16
_MOST_POINTS: Final = 600
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#333}.axis{stroke:#999}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}"
    ".train{stroke:#2563eb}.held{stroke:#d97706}.mark{fill:#d97706}.trained{fill:#2563eb}"
    "@media(prefers-color-scheme:dark){svg{background:#111}text{fill:#ddd}.axis{stroke:#777}.grid{stroke:#333}"
    ".train{stroke:#60a5fa}.held{stroke:#fbbf24}.mark{fill:#fbbf24}.trained{fill:#60a5fa}}"
)
Point = tuple[int, float]
"""A step, and the loss after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Losses in nats by step: of training, before each step, and of validation after it.

    Attributes:
        learning_rate: of each step.
        best_step: of the lowest loss of validation; None without validation.
    """

    train: tuple[Point, ...]
    validation: tuple[Point, ...]
    learning_rate: tuple[Point, ...]
    best_step: int | None

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Curve:
        """The curve that the state of a trainer records."""
        log = state["log_history"]

        def points(name: str) -> tuple[Point, ...]:
            return tuple((int(each["step"]), float(each[name])) for each in log if name in each)

        return cls(
            train=points("loss"),
            validation=points("eval_loss"),
            learning_rate=points("learning_rate"),
            best_step=state.get("best_global_step"),
        )

    def write(self, out: Path, more: Mapping[str, Any]) -> None:
        """Write both files into the folder *out*; *more* is recorded too."""
        text = json.dumps({**more, **asdict(self)}, indent=1) + "\n"
        (out / JSON_NAME).write_text(text, encoding="utf-8")
        (out / SVG_NAME).write_text(draw(self), encoding="utf-8")


def draw(curve: Curve) -> str:
    """The curve as an SVG of its own, for light and dark pages."""
    points = [*curve.train, *curve.validation]
    last = max((step for step, _ in points), default=1)
    low, high = _bounds([loss for _, loss in points])
    scale = _Scale(last, low, high)
    body = [*_grid(scale), _line(_thinned(curve.train), scale, "train"), _line(curve.validation, scale, "held")]
    body += [_mark(scale, each, 3.0) for each in curve.validation]
    best = next((each for each in curve.validation if each[0] == curve.best_step), None)
    if best:
        body += [_mark(scale, best, 6.0), _text(scale.x(best[0]), scale.y(best[1]) + 22, f"best, {best[1]:.3g}")]
    body += _legend(has_validation=bool(curve.validation))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Loss by step"><style>{_STYLE}</style>{"".join(body)}</svg>\n'
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    last: int
    low: float
    high: float

    def x(self, step: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / self.last

    def y(self, loss: float) -> float:
        share = (loss - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * share


def _bounds(losses: Sequence[float]) -> tuple[float, float]:
    low, high = min(losses, default=0.0), max(losses, default=1.0)
    margin = (high - low) * 0.05 or 0.5
    return low - margin, high + margin


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Means of neighbours, so that a long training is drawn in few points."""
    size = math.ceil(len(points) / _MOST_POINTS) or 1
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(each[-1][0], sum(loss for _, loss in each) / len(each)) for each in groups]


def _grid(scale: _Scale) -> list[str]:
    parts = []
    for at in range(5):
        loss = scale.low + (scale.high - scale.low) * at / 4
        y = scale.y(loss)
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
            _text(_LEFT - 6, y + 4, f"{loss:.3g}", anchor="end"),
        ]
    for step in sorted({round(scale.last * at / 4) for at in range(5)}):
        parts.append(_text(scale.x(step), _HEIGHT - _BOTTOM + 18, str(step)))
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, "step"))
    return parts


def _line(points: Sequence[Point], scale: _Scale, name: str) -> str:
    path = " ".join(f"{scale.x(step):.1f},{scale.y(loss):.1f}" for step, loss in points)
    return f'<polyline class="line {name}" points="{path}"/>'


def _mark(scale: _Scale, point: Point, radius: float) -> str:
    return f'<circle class="mark" cx="{scale.x(point[0]):.1f}" cy="{scale.y(point[1]):.1f}" r="{radius}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _legend(*, has_validation: bool) -> list[str]:
    parts = [f'<circle class="trained" cx="{_LEFT + 8}" cy="14" r="5"/>', _text(_LEFT + 18, 18, "train", "start")]
    if has_validation:
        parts += [
            f'<circle class="mark" cx="{_LEFT + 78}" cy="14" r="5"/>',
            _text(_LEFT + 88, 18, "validation", "start"),
        ]
    return [*parts, _text(_WIDTH - _RIGHT, 18, "loss, nats", "end")]

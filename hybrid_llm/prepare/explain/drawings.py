"""The drawings of the page as SVG: curves, each with a colour and a dash of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Final

from hybrid_llm.prepare.explain.results import Curve

_WIDTH: Final = 320
_HEIGHT: Final = 180
COLOURS: Final = 3
"""Methods that have a colour of their own; it is also the class of their line."""


def curves(title: str, named: Mapping[str, Curve], random: Curve) -> str:
    """The curves of some methods, and that of random orders, from share 0 to 1 and probability 0 to their largest."""
    top = max([*(value for curve in named.values() for value in curve.values), *random.values, 1e-12])
    about = "; ".join(f"{name}: area {curve.area:.3f}" for name, curve in [*named.items(), ("random", random)])
    parts = [
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="-46 -10 {_WIDTH + 60} {_HEIGHT + 52}" '
        f'role="img" aria-label="{escape(title)}: {escape(about)}">',
        *_axes(top),
        _line(random, top, "random"),
        *(_line(curve, top, f"c{number % COLOURS}") for number, curve in enumerate(named.values())),
        "</svg></figure>",
    ]
    return "".join(parts)


def _axes(top: float) -> Iterator[str]:
    for part in (0.0, 0.5, 1.0):
        y, x = _HEIGHT * (1 - part), _WIDTH * part
        yield f'<line class="grid" x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick left" x="-6" y="{y + 4:.1f}">{top * part:.2g}</text>'
        yield f'<text class="tick" x="{x:.1f}" y="{_HEIGHT + 18}">{part:.0%}</text>'
    yield f'<text class="tick" x="{_WIDTH / 2}" y="{_HEIGHT + 36}">share of the tokens</text>'


def _line(curve: Curve, top: float, kind: str) -> str:
    points = " ".join(
        f"{share * _WIDTH:.1f},{_HEIGHT * (1 - value / top):.1f}"
        for share, value in zip(curve.shares, curve.values, strict=True)
    )
    return f'<polyline class="curve {kind}" points="{points}"/>'


def sample(kind: str) -> str:
    """A short line as the legend has it."""
    line = f'<line class="curve {kind}" x1="1" x2="31" y1="5" y2="5"/>'
    return f'<svg class="sample" viewBox="0 0 32 10" aria-hidden="true">{line}</svg>'

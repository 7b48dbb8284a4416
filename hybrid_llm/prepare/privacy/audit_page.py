"""The page of an audit: its figures and ROC curves, in one file that asks no server for anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from hybrid_llm.core.html import document
from hybrid_llm.prepare.privacy.attacks import Attack, Interval

_SIDE, _MARGIN, _DECADES = 320, 48, 3
_COLOURS: Final = ("#1f77b4", "#d1500f")
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #bbb; --soft: #666 }
@media (prefers-color-scheme: dark) { :root { --ink: #eaeaea; --paper: #161616; --line: #555; --soft: #aaa } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 44rem;
  margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line);
  text-align: right } th:first-child, td:first-child { text-align: left }
svg { max-width: 100% } svg text { fill: var(--soft); font-size: 12px } .frame { fill: none; stroke: var(--line) }
.guess { stroke: var(--soft); stroke-dasharray: 4 4; fill: none } .key { display: inline-block; width: 1.2rem;
  height: .25rem; vertical-align: middle; margin-right: .4rem }
p { color: var(--soft) }
"""


def page(attacks: Sequence[Attack]) -> str:
    """The page as HTML."""
    rows = "".join(_row(each, colour) for each, colour in zip(attacks, _COLOURS, strict=False))
    body = f"""<h1>Privacy audit</h1>
<p>Membership inference: an attacker who has the model ranks records by how sure it is of them. Guessing gives an area
of 0.5, and 1 % true positives at 1 % false positives. Brackets: 95 % by bootstrap over {attacks[0].members} members and
{attacks[0].non_members} non-members.</p>
<table><tr><th>attack</th><th>area under the curve</th><th>true positives at 1 % false</th></tr>{rows}</table>
{_plot(attacks)}
<p>Both axes are logarithmic, since an attack that is sure of a few records is a danger too. The dashed line is
guessing. An attack that fails is no proof: the bound of differential privacy is one.</p>"""
    return document("Privacy audit", [body], style=_STYLE)


def _row(attack: Attack, colour: str) -> str:
    name = f'<span class="key" style="background:{colour}"></span>{escape(attack.name)}'
    return f"<tr><td>{name}</td><td>{_shown(attack.auc)}</td><td>{_shown(attack.tpr)}</td></tr>"


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _plot(attacks: Sequence[Attack]) -> str:
    size = _SIDE + 2 * _MARGIN
    ticks = "".join(_tick(10.0**-power) for power in range(_DECADES + 1))
    lines = "".join(_line(each, colour) for each, colour in zip(attacks, _COLOURS, strict=False))
    return (
        f'<svg viewBox="0 0 {size} {size}" width="{size}" role="img" aria-label="ROC curves">'
        f'<rect class="frame" x="{_MARGIN}" y="{_MARGIN}" width="{_SIDE}" height="{_SIDE}"/>{ticks}'
        f'<path class="guess" d="M{_x(1e-9)} {_y(1e-9)}L{_x(1)} {_y(1)}"/>{lines}'
        f'<text x="{size / 2}" y="{size - 8}" text-anchor="middle">false positives</text>'
        f'<text transform="translate(12 {size / 2}) rotate(-90)" text-anchor="middle">true positives</text></svg>'
    )


def _tick(value: float) -> str:
    label = f"{100 * value:g} %"
    return (
        f'<text x="{_x(value)}" y="{_MARGIN + _SIDE + 16}" text-anchor="middle">{label}</text>'
        f'<text x="{_MARGIN - 4}" y="{_y(value) + 4}" text-anchor="end">{label}</text>'
    )


def _line(attack: Attack, colour: str) -> str:
    points = "L".join(f"{_x(false):.1f} {_y(true):.1f}" for false, true in attack.curve)
    return f'<path d="M{points}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _share(value: float) -> float:
    """Where a rate lies on a logarithmic axis, 0 to 1."""
    return max(0.0, 1 + math.log10(max(value, 1e-9)) / _DECADES)


def _x(value: float) -> float:
    return _MARGIN + _SIDE * _share(value)


def _y(value: float) -> float:
    return _MARGIN + _SIDE * (1 - _share(value))

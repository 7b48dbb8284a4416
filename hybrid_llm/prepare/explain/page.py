"""An explanation as one HTML page: self-contained, without scripts, for light and dark screens of any width.

A token has its score as colour, as the line under it (solid: supports, dashed: speaks against) and as a tooltip; a
table beside has the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from hybrid_llm.core.html import document
from hybrid_llm.prepare.explain.drawings import COLOURS, curves, sample
from hybrid_llm.prepare.explain.methods import ROLL_OUT
from hybrid_llm.prepare.explain.results import Attribution, Convergence, Explanation
from hybrid_llm.prepare.explain.route_page import route_section
from hybrid_llm.prepare.explain.routing import Routed

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b1f24;--faint:#59636e;--line:#d1d9e0;--paper:#fff;--shade:#f4f6f8;
--for:0 114 178;--against:213 94 0;--doubt:160 71 138;--c0:#0072b2;--c1:#d55e00;--c2:#007a5c;--none:#59636e}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--faint:#9ba7b4;--line:#30363d;--paper:#0d1117;--shade:#161b22;
--for:64 150 214;--against:214 110 46;--doubt:190 100 168;--c0:#56b4e9;--c1:#f0914c;--c2:#2fc99f;--none:#9ba7b4}}
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 3rem;background:var(--paper);
color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}h1{font-size:1.6rem;margin:0 0 .3rem}
h2{margin:2.2rem 0 .4rem;font-size:1.25rem}h3{font-size:1rem;margin:1.4rem 0 .2rem}p,ul{margin:.4rem 0}
.faint{color:var(--faint);font-size:.9rem}.scroll{overflow-x:auto}table{border-collapse:collapse;overflow-wrap:normal;font-size:.92rem;
font-variant-numeric:tabular-nums}th,td{padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);
text-align:right;vertical-align:top}th:first-child,td:first-child,.words td,.words th{text-align:left}
thead th{border-bottom:2px solid var(--line)}.text{background:var(--shade);border-radius:.5rem;padding:.7rem .9rem;
font-size:1.05rem;line-height:2;white-space:pre-wrap}.t{border-radius:.2rem;padding:.12em 0;
border-bottom:2px solid transparent}
.for{background:rgb(var(--for)/var(--a));border-bottom-color:rgb(var(--for)/var(--b))}
.against{background:rgb(var(--against)/var(--a));border-bottom:2px dashed rgb(var(--against)/var(--b))}
.doubt{background:rgb(var(--doubt)/var(--a));border-bottom:2px dashed rgb(var(--doubt)/var(--b))}
.key{display:inline-block;padding:0 .45em;border-radius:.2rem;color:var(--ink)}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:1rem}figure{margin:0}
figcaption{font-size:.92rem}figure svg{width:100%;height:auto;display:block;overflow:visible}
.sample{width:32px;height:10px;margin-right:.4rem}.grid{stroke:var(--line)}.tick{fill:var(--faint);font-size:12px;
text-anchor:middle}.tick.left{text-anchor:end}.curve{fill:none;stroke-width:2.5}.curve.random{stroke:var(--none);
stroke-dasharray:1 5;stroke-linecap:round}.curve.c0{stroke:var(--c0)}.curve.c1{stroke:var(--c1);stroke-dasharray:8 3}
.curve.c2{stroke:var(--c2);stroke-dasharray:3 2}details{margin:.5rem 0}summary{cursor:pointer}
code{font-size:.9em}.held{font-weight:600}.rules li{margin:.5rem 0}
"""
_STRONG: Final = 0.6
"""The opacity of the largest score: the contrast of the text on it is 5.3 to 7.1 to 1 (WCAG 2.2 asks for 4.5)."""
_LISTED: Final = 200
"""Rows of the table of tokens."""


def page(explanation: Explanation | None, routed: Routed | None, text: str) -> str:
    """The whole page of *text*; each part stands on it if there is one."""
    body = (
        "<h1>Explanation</h1>",
        '<p class="faint">This page contains the text that is explained. It loads nothing and sends nothing.</p>',
        *(_model(explanation) if explanation is not None else [f'<p class="text">{escape(text)}</p>']),
        *(route_section(routed) if routed is not None else ()),
    )
    return document("Explanation", body, style=_STYLE)


def _model(found: Explanation) -> Iterator[str]:
    yield f"<h2>Why {escape(found.model)} gives <q>{escape(found.target)}</q> {found.probability:.3f}</h2>"
    yield (
        f"<p>That is its probability; it is {found.neutral:.3g} where every token is replaced by "
        f"<code>{escape(found.neutral_token)}</code>.</p>"
    )
    yield (
        '<p class="faint">Colour and line: <span class="key for" style="--a:.6;--b:1">supports the answer</span> '
        '<span class="key against" style="--a:.6;--b:1">speaks against it</span>. The strongest token of each method '
        "has the full colour.</p>"
    )
    for attribution in found.attributions:
        yield f"<h3>{escape(attribution.method[:1].upper() + attribution.method[1:])}</h3>"
        yield f'<p class="text">{_coloured(found, attribution)}</p>'
        if attribution.method == ROLL_OUT:
            yield '<p class="faint">Attention has no sign: it shows what the model reads, not what it makes of it.</p>'
        if attribution.convergence is not None:
            yield f'<p class="faint">{added_up(attribution.convergence)}</p>'
    for method, why in found.omitted.items():
        yield f"<p>No {escape(method)}: {escape(why)}.</p>"
    yield from _table(found)
    yield from _faithfulness(found)


def added_up(convergence: Convergence) -> str:
    """How far integrated gradients add up, in a sentence."""
    missed = f"{convergence.delta:+.3f} of {convergence.whole:+.3f} after {convergence.steps} steps"
    if convergence.converged:
        return f"The scores add up, but for {missed}."
    return f"The scores do not add up: they miss {missed}. Trust another method, or take more steps."


def _coloured(found: Explanation, attribution: Attribution) -> str:
    largest = max((abs(score) for score in attribution.scores), default=0.0) or 1.0
    parts = []
    for piece, score in zip(found.pieces, attribution.scores, strict=True):
        share = abs(score) / largest
        kind = "for" if score >= 0 else "against"
        style = f"--a:{_STRONG * share:.2f};--b:{share:.2f}"
        shown = escape(piece.text)
        parts.append(f'{escape(piece.gap)}<span class="t {kind}" style="{style}" title="{score:+.3g}">{shown}</span>')
    return "".join(parts)


def _table(found: Explanation) -> Iterator[str]:
    methods = [attribution.method for attribution in found.attributions]
    yield "<details><summary>The same as numbers</summary><div class='scroll'><table><thead><tr><th>token</th>"
    yield "".join(f"<th>{escape(method)}</th>" for method in methods) + "</tr></thead><tbody>"
    columns = [attribution.scores for attribution in found.attributions]
    for number, piece in enumerate(found.pieces[:_LISTED]):
        cells = "".join(f"<td>{scores[number]:+.3f}</td>" for scores in columns)
        yield f"<tr><td>{escape(piece.text.strip()) or '(continued)'}</td>{cells}</tr>"
    yield "</tbody></table></div></details>"


def _faithfulness(found: Explanation) -> Iterator[str]:
    random = found.random
    yield "<h2>How far this holds</h2>"
    yield (
        "<p>A faithful order finds the tokens that the model needs. When they are replaced first, the probability "
        "falls at once (deletion, a small area); when they are put back first, it rises at once (insertion, a large "
        "area).</p>"
    )
    yield '<div class="side">'
    for name, baseline in (("deletion", random.deletion), ("insertion", random.insertion)):
        named = {each.method: getattr(each.faithfulness, name) for each in found.attributions}
        yield curves(f"Probability under {name}", named, baseline)
    yield "</div><div class='scroll'><table><thead><tr><th>order</th><th>deletion area</th><th>insertion area</th>"
    yield "<th>beats random orders</th></tr></thead><tbody>"
    for number, each in enumerate(found.attributions):
        held = each.faithfulness
        yield (
            f"<tr><td>{sample(f'c{number % COLOURS}')}{escape(each.method)}</td><td>{held.deletion.area:.3f}</td>"
            f"<td>{held.insertion.area:.3f}</td><td>{held.beats_deletion:.0%}, {held.beats_insertion:.0%}</td></tr>"
        )
    yield (
        f"<tr><td>{sample('random')}random, {random.orders} orders</td>"
        f"<td>{random.deletion.area:.3f} ± {random.deletion_spread:.3f}</td>"
        f"<td>{random.insertion.area:.3f} ± {random.insertion_spread:.3f}</td><td></td></tr></tbody></table></div>"
    )

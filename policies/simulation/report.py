"""The report of a comparison: one HTML page that needs nothing else, no network and no script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

from hybrid_llm.policies.simulation.compare import Comparison, Contestant
from hybrid_llm.policies.simulation.plots import Plot, plots
from hybrid_llm.policies.simulation.summary import Summary
from hybrid_llm.policies.simulation.table import Row, rows
from hybrid_llm.policies.simulation.words import sentences, warnings

__all__ = ["report"]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #57606a; --paper: #ffffff; --panel: #f5f7f9; --faint: #d0d7de;
  --shade: #eef1f4; --good: #00704a; --bad: #b3261e; --series1: #0072b2; --series2: #d55e00; --series3: #009e73;
  --series4: #a3417d; --series5: #8a6d00; --series6: #56667a; --series7: #4b3f9e; --series8: #aab4bf; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #a3adb8; --paper: #14181d; --panel: #1c2229;
  --faint: #3a434d; --shade: #222a32; --good: #4fd1a1; --bad: #ff8a80; --series1: #56b4e9; --series2: #ff9447;
  --series3: #3ad0a4; --series4: #e08fc0; --series5: #e3c341; --series6: #9fb0c3; --series7: #a79df0;
  --series8: #5c6874; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .4rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.lead { font-size: 1.08rem; margin-top: 1rem; }
.note { border-left: 4px solid var(--series5); padding: .3rem .8rem; background: var(--panel); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.card { background: var(--panel); border-radius: .5rem; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.4rem; line-height: 1.3; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1.2rem; }
figure { margin: 0; background: var(--panel); border-radius: .5rem; padding: .9rem 1rem; --paper: var(--panel); }
figure svg { width: 100%; height: auto; display: block; margin-top: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--faint); text-align: right; vertical-align: top; }
th:first-child, td:first-child, .left td, .left th { text-align: left; white-space: pre-wrap; }
tr.group th { text-align: left; padding-top: 1rem; color: var(--soft); font-weight: 600; }
td.own { font-weight: 600; }
code, pre { font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--panel); border-radius: .5rem; padding: 1rem; overflow-x: auto; white-space: pre-wrap; }
details { margin: .5rem 0; } summary { cursor: pointer; }
@media print { body { max-width: none; } figure, .card { break-inside: avoid; } }
"""


def report(comparison: Comparison, *, command: str, version: str) -> str:
    """The page. *command* is the command line that makes it again, *version* that of the library.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    drawn = plots(comparison)
    title = f"Simulation of the policy {comparison.summaries[0].policy}"
    parts = [
        *_head(comparison, title),
        *_cards(comparison.summaries[0], comparison.currency),
        "<h2>Plots</h2>",
        f'<div class="plots">{"".join(map(_figure, drawn))}</div>',
        *_figures(comparison),
        *_policies(comparison),
        *_constants(comparison),
        *_foot(command, version),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _head(comparison: Comparison, title: str) -> Iterator[str]:
    own, *rivals = comparison.summaries
    yield f"<h1>{escape(title)}</h1>"
    named = escape(", ".join(one.policy for one in rivals))
    yield f'<p class="soft">Compared with {named}. {escape(_setting(comparison))}</p>'
    did, kept, *others = sentences(comparison)
    kind = "bad" if own.bound_left else "good"
    yield f'<p class="lead">{escape(did)} <span class="{kind}">{escape(kept)}</span></p>'
    yield f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in others)}</ul>"
    for warning in warnings(comparison):
        yield f'<p class="note">Note: {escape(warning)}</p>'


def _setting(comparison: Comparison) -> str:
    setting = comparison.setting
    hours = comparison.trace.span_s / 3600.0
    return (
        f"Trace: {comparison.trace.source}, over {hours:.1f} hours. Round trips: {setting.rtt.source} "
        f"(median {setting.rtt.median_ms:g} ms). Seed {setting.seed}."
    )


def _cards(own: Summary, currency: str) -> Iterator[str]:
    answered = own.edge + own.cloud
    cards = [
        (f"{_share(answered, own.requests)}", "answered", ""),
        (f"{_share(own.edge, own.requests)}", "answered on the device", ""),
        (f"{_ms(own.ttft_ms.p95)}", "first token, p95", ""),
        (f"{_share(own.missed, own.requests)}", "missed service levels", ""),
        (f"{own.cost:.2f} {currency}", "cost", ""),
        (f"{own.bound_left:,}", "left the device and may not", "bad" if own.bound_left else "good"),
        (f"{own.would_leave:,}", "would have left without tags", ""),
    ]
    yield '<div class="cards">'
    for figure, label, kind in cards:
        yield f'<div class="card"><b class="{kind}">{escape(figure)}</b><span class="soft">{escape(label)}</span></div>'
    yield "</div>"


def _share(count: int, of: int) -> str:
    return f"{100.0 * count / max(1, of):.1f} %"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} ms"


def _figure(plot: Plot) -> str:
    return f"<figure><h3>{escape(plot.title)}</h3><figcaption>{escape(plot.about)}</figcaption>{plot.svg}</figure>"


def _figures(comparison: Comparison) -> Iterator[str]:
    names = [one.policy for one in comparison.summaries]
    yield "<h2>All figures</h2>"
    yield '<div class="wide"><table>'
    yield f"<thead><tr><td></td>{''.join(f'<th scope=col>{escape(name)}</th>' for name in names)}</tr></thead><tbody>"
    for row in rows(comparison.summaries, currency=comparison.currency, goal_ms=comparison.goals.ttft_ms):
        yield _row(row, len(names))
    yield "</tbody></table></div>"
    yield (
        '<p class="soft">Percentiles are of answered requests, by nearest rank. Energy is that of the device. '
        "How everything is computed: docs/simulation.md of the library.</p>"
    )


def _row(row: Row, columns: int) -> str:
    if not row.cells:
        return f'<tr class="group"><th scope="colgroup" colspan="{columns + 1}">{escape(row.label)}</th></tr>'
    own, *others = row.cells
    cells = f'<td class="own">{escape(own)}</td>' + "".join(f"<td>{escape(cell)}</td>" for cell in others)
    return f'<tr><th scope="row" style="font-weight: 400">{escape(row.label)}</th>{cells}</tr>'


def _policies(comparison: Comparison) -> Iterator[str]:
    yield "<h2>The policies</h2>"
    for number, contestant in enumerate(comparison.contestants):
        yield _policy(contestant, unfolded=number == 0)


def _policy(contestant: Contestant, *, unfolded: bool) -> str:
    policy = contestant.policy
    return (
        f"<details{' open' if unfolded else ''}><summary><b>{escape(policy.name)}</b> "
        f"<code>{policy.digest}</code></summary><pre>{escape(contestant.text)}</pre></details>"
    )


def _constants(comparison: Comparison) -> Iterator[str]:
    found = list(comparison.setting.world.constants())
    changed = sum(constant.changed for constant in found)
    yield "<h2>The world</h2>"
    yield f"<details><summary>{len(found)} constants, {changed} of them changed from their defaults</summary>"
    yield '<div class="wide"><table class="left"><thead><tr>'
    yield "<th>constant</th><th>value</th><th>meaning</th><th>source</th></tr></thead><tbody>"
    for constant in found:
        source = "the world file" if constant.changed else constant.source
        cells = (f"<code>{escape(constant.name)}</code>", *map(escape, (constant.shown, constant.about, source)))
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</tbody></table></div></details>"


def _foot(command: str, version: str) -> Iterable[str]:
    return (
        "<h2>The same again</h2>",
        f"<pre>{escape(command)}</pre>",
        f'<p class="soft">Made by hybrid-llm {escape(version)}. The same command gives the same figures.</p>',
    )

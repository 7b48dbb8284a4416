"""Shows a comparison: in sentences, as a table for terminals, and as one self-contained HTML page without scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from statistics import mean
from typing import Final

from hybrid_llm.core.html import document
from hybrid_llm.core.request import Location
from hybrid_llm.lab.simulate.compare import Comparison, Summary
from hybrid_llm.lab.simulate.plots import plots


def sentences(comparison: Comparison) -> list[str]:
    """What the policy did with the trace, what stayed private, and how each baseline differs."""
    first, *others = comparison.summaries
    return [_did(first), _private(first), *(_differs(first, other, comparison.currency) for other in others)]


def _did(one: Summary) -> str:
    lost = one.requests - one.edge - one.cloud
    return (
        f"{one.policy} answered {one.edge + one.cloud:,} of {one.requests:,} requests: "
        f"{_percent(one.edge, one.requests)} of all on the device, {_percent(one.cloud, one.requests)} in the cloud; "
        f"{lost:,} had no answer."
    )


def _private(one: Summary) -> str:
    if one.bound_left:
        return f"{one.bound_left:,} requests that must stay on the device were sent to the cloud: this is a bug."
    if not one.bound:
        return "No request of the trace had to stay on the device."
    return (
        f"None of the {one.bound:,} requests that must stay on the device left it; "
        f"without their tags {one.would_leave:,} would have."
    )


def _differs(one: Summary, other: Summary, currency: str) -> str:
    missed, theirs = _percent(one.missed, one.requests), _percent(other.missed, other.requests)
    parts = [f"{missed} missed the service level instead of {theirs}"]
    if one.ttft_ms.p95 is not None and other.ttft_ms.p95 is not None:
        parts.append(f"first token at p95 after {one.ttft_ms.p95:,.0f} ms instead of {other.ttft_ms.p95:,.0f} ms")
    parts.append(f"cost {one.cost:.2f} {currency} instead of {other.cost:.2f} {currency}")
    parts.append(f"energy for answers {one.model_energy_wh:.1f} Wh instead of {other.model_energy_wh:.1f} Wh")
    return f"Compared with {other.policy}: {', '.join(parts)}."


def _percent(count: int, of: int) -> str:
    """The share; rounding never makes all or none of what is not."""
    share = 100.0 * count / of if of else 0.0
    if 0.0 < share < 0.05:
        return "< 0.1 %"
    return "> 99.9 %" if 99.95 <= share < 100.0 else f"{share:.1f} %"


def warnings(comparison: Comparison) -> Iterator[str]:
    """Conditions under which the figures mislead."""
    if Location.EDGE in comparison.contestants[0].policy.backends.values():
        yield from _overload(comparison)
    if comparison.summaries[0].off:
        yield "the battery was empty for some time: see `battery` of the world file (--show-world)"


def _overload(comparison: Comparison) -> Iterator[str]:
    trace, world = comparison.trace, comparison.setting.world
    if len(trace.arrivals) < 2:
        return
    edge = world.edge
    prompt = mean(one.prompt_tokens for one in trace.arrivals)
    output = mean(min(one.output_tokens, world.requests.max_tokens) for one in trace.arrivals)
    each_s = edge.overhead_ms / 1000.0 + prompt / edge.prefill_tokens_per_s + output / edge.decode_tokens_per_s
    most = edge.slots * 3600.0 / each_s
    if trace.per_hour > most:
        rate = "all at once" if math.isinf(trace.per_hour) else f"{trace.per_hour:,.0f} requests an hour"
        yield (
            f"the trace has {rate}, and one device can answer about {most:,.0f}: "
            f"it is the load of a service; --rate {most / 10.0:.0f}/h scales it to one device"
        )


Cell = Callable[[Summary], str]
Row = tuple[str, list[str]]
"""A label, and a cell of each policy; a row without cells is a heading."""


def _share(count: int, of: int) -> str:
    return f"{count} ({_percent(count, of)})" if of else str(count)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value < 10_000.0 else f"{value / 1000.0:.1f} s"


def _level(value: float | None) -> str:
    return "no battery" if value is None else f"{100.0 * value:.0f} %"


def _all(field: str) -> Cell:
    return lambda one: _share(getattr(one, field), one.requests)


def _quantile(group: str, name: str) -> Cell:
    return lambda one: _ms(getattr(getattr(one, group), name))


def _lines(currency: str, goal: str) -> Iterator[tuple[str, Cell | None]]:
    yield "Routes", None
    yield "answered on the device", _all("edge")
    yield "answered in the cloud", _all("cloud")
    yield "refused: no eligible backend", _all("refused")
    yield "failed: all backends failed", _all("failed")
    yield "late: deadline exceeded", _all("late")
    yield "off: the battery was empty", _all("off")
    yield "Latency of answered requests", None
    for group, label in (("ttft_ms", "first token"), ("latency_ms", "whole answer")):
        for name in ("p50", "p95", "p99"):
            yield f"{label}, {name}", _quantile(group, name)
    yield "Service level", None
    yield f"first token after {goal}", _all("slow")
    yield "missed: slow or unanswered", _all("missed")
    yield "Cost and energy", None
    yield f"cost, {currency}", lambda one: f"{one.cost:.4f}"
    yield "device, total, Wh", lambda one: f"{one.energy_wh:.1f}"
    yield "device, for answers, Wh", lambda one: f"{one.model_energy_wh:.2f}"
    yield "battery at the end", lambda one: _level(one.battery)
    yield "battery minimum", lambda one: _level(one.least_battery)
    yield "peak temperature, C", lambda one: f"{one.peak_c:.0f}"
    yield "Privacy", None
    yield "must stay on the device", lambda one: str(one.bound)
    yield "  answered on the device", lambda one: _share(one.bound_answered, one.bound)
    yield "  no answer", lambda one: _share(one.bound - one.bound_answered, one.bound)
    yield "  left the device", lambda one: str(one.bound_left)
    yield "  would have, without tags", lambda one: _share(one.would_leave, one.bound)
    yield "sent under pseudonyms", lambda one: str(one.pseudonymised)


def _rows(comparison: Comparison) -> list[Row]:
    goal = "its goal (none set)" if comparison.goal_ms is None else f"{comparison.goal_ms:g} ms"
    lines = _lines(comparison.currency, goal)
    return [(label, [cell(one) for one in comparison.summaries] if cell else []) for label, cell in lines]


def table(comparison: Comparison) -> str:
    """The figures as text, with headings."""
    found = [("", [one.policy for one in comparison.summaries]), *_rows(comparison)]
    longest = max(len(label) for label, _ in found) + 2
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in found if cells), strict=True)]
    lines = []
    for label, cells in found:
        padded = "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=False))
        lines.append(f"{'  ' if cells else ''}{label:<{longest}}{padded}".rstrip())
    return "\n".join(lines)


_MOST_RULES: Final = 24


def rules_table(one: Summary) -> str:
    """How often each rule of a policy decided, as text."""
    shown = [(each.rule, _share(each.decisions, one.requests), each.because) for each in one.rules[:_MOST_RULES]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)] if shown else []
    lines = [f"How often each rule of {one.policy} decided"]
    lines += [f"  {rule:<{widths[0]}}  {share:>{widths[1]}}  {because}" for rule, share, because in shown]
    return "\n".join(lines)


_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #57606a; --paper: #ffffff; --panel: #f5f7f9; --faint: #d0d7de;
  --shade: #eef1f4; --good: #00704a; --bad: #b3261e; --edge: #0072b2; --cloud: #d55e00; --slow: #c79a00;
  --refused: #8a6d00; --failed: #a3417d; --late: #56667a; --off: #4b3f9e; --unanswered: #7d8590; --left: #b3261e;
  --energy: #009e73; --rest: #aab4bf; --load: #3f6f6a;
  --policy1: #1c2127; --policy2: #6a737d; --policy3: #6a737d; --policy4: #9aa3ad; --policy5: #9aa3ad;
  --policy6: #9aa3ad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #a3adb8; --paper: #14181d; --panel: #1c2229;
  --faint: #3a434d; --shade: #222a32; --good: #4fd1a1; --bad: #ff8a80; --edge: #56b4e9; --cloud: #ff9447;
  --slow: #f2dc7a; --refused: #e3c341; --failed: #e08fc0; --late: #9fb0c3; --off: #a79df0; --unanswered: #8b949e;
  --left: #ff8a80; --energy: #3ad0a4; --rest: #5c6874; --load: #7fb8b1;
  --policy1: #e6e9ed; --policy2: #a3adb8; --policy3: #a3adb8; --policy4: #75808c; --policy5: #75808c;
  --policy6: #75808c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .4rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.lead { font-size: 1.08rem; margin-top: 1rem; }
.note { border-left: 4px solid var(--refused); padding: .3rem .8rem; background: var(--panel); }
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
    """The page. *command* is the command line that reproduces it, *version* that of the library.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    drawn = plots(comparison)
    title = f"Simulation of the policy {comparison.summaries[0].policy}"
    body = "\n".join(
        [
            *_head(comparison, title),
            *_cards(comparison.summaries[0], comparison.currency),
            "<h2>Plots</h2>",
            f'<div class="plots">{"".join(drawn)}</div>',
            *_rules(comparison.summaries[0]),
            *_figures(comparison),
            *_policies(comparison),
            *_constants(comparison),
            "<h2>Reproduce</h2>",
            f"<pre>{escape(command)}</pre>",
            f'<p class="soft">Made by hybrid-llm {escape(version)}. The same command gives the same figures.</p>',
        ]
    )
    return document(title, ["<main>", body, "</main>"], style=_STYLE)


def _head(comparison: Comparison, title: str) -> Iterator[str]:
    own, *baselines = comparison.summaries
    yield f"<h1>{escape(title)}</h1>"
    setting, hours = comparison.setting, comparison.trace.span_s / 3600.0
    about = (
        f"Compared with {', '.join(one.policy for one in baselines)}. "
        f"Trace: {comparison.trace.source}, over {hours:.1f} hours. Round trips: {setting.rtt.source} "
        f"(median {setting.rtt.median_ms:g} ms). Seed {setting.seed}."
    )
    yield f'<p class="soft">{escape(about)}</p>'
    did, private, *others = sentences(comparison)
    kind = "bad" if own.bound_left else "good"
    yield f'<p class="lead">{escape(did)} <span class="{kind}">{escape(private)}</span></p>'
    yield f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in others)}</ul>"
    for warning in warnings(comparison):
        yield f'<p class="note">Note: {escape(warning)}</p>'


def _cards(own: Summary, currency: str) -> Iterator[str]:
    answered = own.edge + own.cloud
    cards = [
        (_percent(answered, own.requests), "answered", ""),
        (_percent(own.edge, own.requests), "answered on the device", ""),
        (_ms(own.ttft_ms.p95), "first token, p95", ""),
        (_percent(own.missed, own.requests), "missed service levels", ""),
        (f"{own.cost:.2f} {currency}", "cost", ""),
        (f"{own.bound_left:,}", "left the device against their tags", "bad" if own.bound_left else "good"),
        (f"{own.would_leave:,}", "would have left without tags", ""),
    ]
    yield '<div class="cards">'
    for figure, label, kind in cards:
        yield f'<div class="card"><b class="{kind}">{escape(figure)}</b><span class="soft">{escape(label)}</span></div>'
    yield "</div>"


def _rules(own: Summary) -> Iterator[str]:
    yield "<h2>How often each rule decided</h2>"
    yield '<div class="wide"><table><thead><tr><th>rule</th><th>decisions</th>'
    yield '<th style="text-align: left">because</th></tr></thead>'
    for each in own.rules[:_MOST_RULES]:
        cells = (each.rule, _share(each.decisions, own.requests))
        yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}"
        yield f'<td style="text-align: left">{escape(each.because)}</td></tr>'
    yield "</table></div>"
    yield (
        f'<p class="soft">Of {own.requests:,} requests under {escape(own.policy)}: the rule that ordered the backends, '
        "and below it how often a backend was excluded, by reason.</p>"
    )


def _figures(comparison: Comparison) -> Iterator[str]:
    names = [one.policy for one in comparison.summaries]
    yield "<h2>All figures</h2>"
    yield '<div class="wide"><table>'
    yield f"<thead><tr><td></td>{''.join(f'<th scope=col>{escape(name)}</th>' for name in names)}</tr></thead><tbody>"
    for label, cells in _rows(comparison):
        yield _row(escape(label), [escape(cell) for cell in cells], len(names))
    yield "</tbody></table></div>"
    yield (
        '<p class="soft">Percentiles are of answered requests, by nearest rank. Energy is that of the device. '
        "docs/simulation.md of the library has the formulas.</p>"
    )


def _row(label: str, cells: Sequence[str], columns: int) -> str:
    if not cells:
        return f'<tr class="group"><th scope="colgroup" colspan="{columns + 1}">{label}</th></tr>'
    own, others = cells[0], "".join(f"<td>{cell}</td>" for cell in cells[1:])
    return f'<tr><th scope="row" style="font-weight: 400">{label}</th><td class="own">{own}</td>{others}</tr>'


def _policies(comparison: Comparison) -> Iterator[str]:
    yield "<h2>The policies</h2>"
    for number, contestant in enumerate(comparison.contestants):
        name, digest = escape(contestant.policy.name), contestant.policy.digest
        yield f"<details{' open' if number == 0 else ''}><summary><b>{name}</b> <code>{digest}</code></summary>"
        yield f"<pre>{escape(contestant.text)}</pre></details>"


def _constants(comparison: Comparison) -> Iterator[str]:
    found = list(comparison.setting.world.constants())
    changed = sum(constant.changed for constant in found)
    yield "<h2>The world</h2>"
    yield f"<details><summary>{len(found)} constants, {changed} of them changed from their defaults</summary>"
    yield '<div class="wide"><table class="left"><thead><tr>'
    yield "<th>constant</th><th>value</th><th>meaning</th><th>source</th></tr></thead><tbody>"
    for constant in found:
        source = "the world file" if constant.changed else constant.declared.source
        cells = (
            f"<code>{escape(constant.name)}</code>",
            *map(escape, (constant.shown, constant.declared.about, source)),
        )
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</tbody></table></div></details>"

"""An evaluation as one HTML page: self-contained, without scripts, for light and dark screens of any width."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from hybrid_llm.core.html import document
from hybrid_llm.prepare.evaluation.report.drawings import COLOURS, diagram, intervals
from hybrid_llm.prepare.evaluation.report.words import compared, is_certain, label, notes, rows
from hybrid_llm.prepare.evaluation.results import Results, TaskResult

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b1f24;--faint:#59636e;--line:#d1d9e0;--paper:#fff;--shade:#f4f6f8;
--c0:#0072b2;--c1:#d55e00;--c2:#008463;--c3:#a0478a;--c4:#8a6d00;--c5:#4a5568}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--faint:#9ba7b4;--line:#30363d;--paper:#0d1117;--shade:#161b22;
--c0:#56b4e9;--c1:#f0914c;--c2:#2fc99f;--c3:#dd8fc4;--c4:#e0c04a;--c5:#a9b4c2}}
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 3rem;background:var(--paper);
color:var(--ink);font:16px/1.5 system-ui,sans-serif}h1{font-size:1.6rem;margin:0 0 .3rem}h2{margin:2.2rem 0 .4rem;
font-size:1.25rem}h3{font-size:1rem;margin:1.2rem 0 .2rem}p,ul{margin:.4rem 0}.faint{color:var(--faint);font-size:.9rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
thead th{border-bottom:2px solid var(--line)}svg{width:100%;max-width:36rem;height:auto;display:block}
.square{max-width:17rem}.side{display:flex;flex-wrap:wrap;gap:1rem}.grid{stroke:var(--line)}.frame{fill:none;
stroke:var(--line)}.tick{fill:var(--faint);font-size:12px;text-anchor:middle}.name{fill:var(--ink);font-size:13px;
text-anchor:end}.bar{stroke-width:3;fill:none}
"""


def page(results: Results) -> str:
    """The whole page."""
    title = f"Evaluation: {results.suite}"
    colours = "".join(
        f".bar.c{n}{{stroke:var(--c{n})}}.dot.c{n}{{fill:var(--c{n})}}.key.c{n}{{color:var(--c{n})}}"
        for n in range(COLOURS)
    )
    tasks = (part for name, task in results.tasks.items() for part in _task(results, name, task))
    return document(title, [f"<h1>{escape(title)}</h1>", *_head(results), *tasks], style=f"{_STYLE}{colours}")


def _head(results: Results) -> Iterator[str]:
    if results.about:
        yield f"<p>{escape(results.about)}</p>"
    yield "<ul>"
    for number, (name, about) in enumerate(results.subjects.items()):
        yield f'<li><b class="key c{number % COLOURS}">{escape(name)}</b>: {escape(about.what)}</li>'
    yield "</ul>"
    certain = [(name, one) for name, task in results.tasks.items() for one in task.compared if is_certain(one)]
    if certain:
        yield "<h2>Differences that are certain</h2><ul>"
        yield from (f"<li>{escape(name)}: {escape(compared(one))}</li>" for name, one in certain)
        yield "</ul>"
    elif len(results.subjects) > 1:
        yield "<p>No difference between the subjects is certain on these items.</p>"
    yield '<p class="faint">Brackets hold 95 % confidence intervals by bootstrap; differences are of the same '
    yield "resamples of the items (Koehn, 2004). An item without an answer counts as a wrong one. "
    yield f"Seed {results.seed}, {escape(results.created)}.</p>"


def _task(results: Results, name: str, task: TaskResult) -> Iterator[str]:
    yield f"<h2>{escape(name)}</h2>"
    yield f'<p class="faint">{escape(task.kind)}, {task.items:,} items</p>'
    yield '<div class="scroll"><table><thead><tr><th></th>'
    yield "".join(f"<th>{escape(subject)}</th>" for subject in task.scores)
    yield "</tr></thead><tbody>"
    for title, cells in rows(task):
        yield f"<tr><td>{escape(title)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    yield "</tbody></table></div>"
    colours = {subject: number for number, subject in enumerate(results.subjects)}
    for metric in dict.fromkeys(metric for each in task.scores.values() for metric in each.metrics):
        estimates = {subject: each.metrics[metric] for subject, each in task.scores.items() if metric in each.metrics}
        yield f"<h3>{escape(label(metric))}</h3>{intervals(estimates, colours)}"
    drawn = [(s, each.reliability) for s, each in task.scores.items() if any(b.count for b in each.reliability)]
    if drawn:
        yield '<h3>Reliability of the probabilities</h3><div class="side">'
        yield from (diagram(subject, bins, colours[subject]) for subject, bins in drawn)
        yield "</div>"
    yield from _confusions(task)
    remarks = list(notes(task))
    if remarks:
        yield f"<ul>{''.join(f'<li>{escape(remark)}</li>' for remark in remarks)}</ul>"


def _confusions(task: TaskResult) -> Iterator[str]:
    if not 2 <= len(task.labels) <= 12:
        return
    for subject, each in task.scores.items():
        if not each.confusion:
            continue
        yield f'<h3>{escape(subject)}: labels that hold, and those answered</h3><div class="scroll"><table><thead><tr>'
        yield "".join(f"<th>{escape(name)}</th>" for name in ("", *task.labels, "none of them"))
        yield "</tr></thead><tbody>"
        for name, counts in zip(task.labels, each.confusion, strict=True):
            yield f"<tr><td>{escape(name)}</td>{''.join(f'<td>{count:,}</td>' for count in counts)}</tr>"
        yield "</tbody></table></div>"

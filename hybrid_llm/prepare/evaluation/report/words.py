"""Figures in words: names of metrics, numbers with their intervals, and what a comparison shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

from hybrid_llm.prepare.evaluation.metrics.bootstrap import Estimate
from hybrid_llm.prepare.evaluation.metrics.metric import METRICS
from hybrid_llm.prepare.evaluation.results import Compared, Latency, Results, Scores, TaskResult

LABELS: Final[Mapping[str, str]] = {
    "accuracy": "accuracy",
    "accuracy_by_length": "accuracy by length",
    "bits_per_byte": "bits per byte",
    "bleu": "BLEU",
    "calibration_error": "calibration error",
    "chrf": "chrF",
    "exact_match": "exact match",
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "json_equal": "equal JSON",
    "json_valid": "valid JSON",
    "perplexity": "perplexity",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougel": "ROUGE-L",
    "token_f1": "F1 of words",
    "verbatim": "verbatim",
}
_SIGNIFICANT: Final = 0.05


def label(metric: str) -> str:
    """The metric as the field writes it."""
    return LABELS.get(metric, metric)


def direction(metric: str) -> str:
    """An arrow to where it is better."""
    return "↑" if METRICS.get(metric).higher else "↓"


def number(value: float) -> str:
    """Three significant places behind the point, fewer for large numbers."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def estimate(found: Estimate) -> str:
    """The figure with its interval."""
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def compared(one: Compared) -> str:
    """What a comparison shows, in a sentence."""
    gap, better = one.difference, METRICS.get(one.metric).higher
    if not math.isfinite(gap.value):
        return f"{label(one.metric)}: {one.first} and {one.second} have no figures to compare"
    interval = f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
    if gap.low <= 0 <= gap.high:
        return f"{label(one.metric)}: {one.second} and {one.first} do not differ for certain, {interval}"
    word = "better" if (gap.value > 0) == better else "worse"
    test = "" if one.mcnemar is None else f", McNemar p {p_value(one.mcnemar)}"
    return f"{label(one.metric)}: {one.second} is {word} than {one.first}, {interval}{test}"


def is_certain(one: Compared) -> bool:
    """Whether the interval of the difference is on one side of 0."""
    return one.difference.low > 0 or one.difference.high < 0


def p_value(p: float) -> str:
    """A p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def times(found: Latency | None) -> str:
    """Median and 95th percentile of the first token and the end."""
    if found is None:
        return "-"
    return f"{found.total_ms_p50:,.0f} / {found.total_ms_p95:,.0f} ms"


def first_token(found: Latency | None) -> str:
    """Median and 95th percentile of the first token."""
    return "-" if found is None else f"{found.ttft_ms_p50:,.0f} / {found.ttft_ms_p95:,.0f} ms"


def rate(found: Latency | None) -> str:
    """Tokens a second."""
    if found is None or found.tokens_per_s_p50 is None:
        return "-"
    return f"{found.tokens_per_s_p50:,.1f}"


def energy(scores: Scores) -> str:
    """Joules for an item, and whether that is an estimate."""
    if scores.energy is None:
        return "-"
    about = "" if scores.energy.how == "measured" else "about "
    return f"{about}{number(scores.energy.joules_per_item)} J"


def routes(scores: Scores) -> str:
    """Which backends answered how many items."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(scores.routes.items(), key=lambda pair: -pair[1]))


def errors(scores: Scores) -> str:
    """Which errors how many items ended in."""
    return ", ".join(f"{name} {count:,}" for name, count in scores.errors.items()) or "0"


def rows(task: TaskResult) -> Iterator[tuple[str, list[str]]]:
    """The table of a task: a label, and a cell for each subject."""
    scores = list(task.scores.values())
    for metric in dict.fromkeys(name for each in scores for name in each.metrics):
        cells = [estimate(each.metrics[metric]) if metric in each.metrics else "-" for each in scores]
        yield f"{label(metric)} {direction(metric)}", cells
    for title, cell in (
        ("first token, p50 / p95", lambda each: first_token(each.latency)),
        ("answer, p50 / p95", lambda each: times(each.latency)),
        ("tokens/s", lambda each: rate(each.latency)),
        ("energy for an item", energy),
        ("answered by", routes),
        ("left the device", lambda each: "" if each.skipped else f"{each.cloud:,}"),
        ("errors", lambda each: "" if each.skipped else errors(each)),
    ):
        cells = [cell(each) for each in scores]
        if any(each not in ("", "-", "0") for each in cells):
            yield title, cells


def notes(task: TaskResult) -> Iterator[str]:
    """What a reader must know of a task: who could not do it, and which differences are certain."""
    for name, each in task.scores.items():
        if each.skipped:
            yield f"not measured for {name}: {each.skipped}"
    yield from map(compared, task.compared)


def terminal_lines(results: Results) -> Iterator[str]:
    """The whole as text."""
    for name, task in results.tasks.items():
        yield f"{name}: {task.kind}, {task.items:,} items"
        table = [("", list(task.scores)), *rows(task)]
        widths = [max(len(cells[column]) for _, cells in table) for column in range(len(task.scores))]
        first = max(len(title) for title, _ in table)
        for title, cells in table:
            padded = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            yield f"  {title.ljust(first)}  {padded}".rstrip()
        yield from (f"  {note}" for note in notes(task))
        yield ""

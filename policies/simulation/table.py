"""The figures of a comparison as a table for terminals: a column for each policy. It counts nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hybrid_llm.policies.simulation.summary import Summary

__all__ = ["Row", "rows", "table"]

Cell = Callable[[Summary], str]


@dataclass(frozen=True, slots=True)
class Row:
    """One line: its label, and a cell of each policy. A row without cells is a heading."""

    label: str
    cells: tuple[str, ...] = ()


def _share(count: int, of: int) -> str:
    return f"{count} ({100.0 * count / of:.1f} %)" if of else str(count)


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
    yield "refused: nobody eligible", _all("refused")
    yield "failed: all who were asked", _all("failed")
    yield "late: the deadline was over", _all("late")
    yield "off: the battery was empty", _all("off")
    yield "Time of the answered", None
    for group, label in (("ttft_ms", "first token"), ("latency_ms", "whole answer")):
        for name in ("p50", "p95", "p99"):
            yield f"{label}, {name}", _quantile(group, name)
    yield "Service level", None
    yield f"first token after {goal}", _all("slow")
    yield "missed: slow or unanswered", _all("missed")
    yield "Cost and energy", None
    yield f"cost, {currency}", lambda one: f"{one.cost:.4f}"
    yield "device, all, Wh", lambda one: f"{one.energy_wh:.1f}"
    yield "device, for answers, Wh", lambda one: f"{one.model_energy_wh:.2f}"
    yield "battery, at the end", lambda one: _level(one.battery)
    yield "battery, least", lambda one: _level(one.least_battery)
    yield "hottest, C", lambda one: f"{one.peak_c:.0f}"
    yield "Privacy", None
    yield "may not go to the cloud", lambda one: str(one.bound)
    yield "  answered on the device", lambda one: _share(one.bound_answered, one.bound)
    yield "  no answer", lambda one: _share(one.bound - one.bound_answered, one.bound)
    yield "  left the device", lambda one: str(one.bound_left)
    yield "  would have, without tags", lambda one: _share(one.would_leave, one.bound)
    yield "sent under pseudonyms", lambda one: str(one.pseudonymised)


def rows(summaries: Sequence[Summary], *, currency: str, goal_ms: float | None) -> list[Row]:
    """The lines, headings between them. *goal_ms* is the goal of the first token."""
    goal = "its goal (none set)" if goal_ms is None else f"{goal_ms:g} ms"
    return [
        Row(label) if cell is None else Row(label, tuple(cell(one) for one in summaries))
        for label, cell in _lines(currency, goal)
    ]


def table(summaries: Sequence[Summary], *, currency: str, goal_ms: float | None) -> str:
    """The table as text."""
    found = [Row("", tuple(one.policy for one in summaries)), *rows(summaries, currency=currency, goal_ms=goal_ms)]
    label = max(len(row.label) for row in found) + 2
    widths = [max(len(row.cells[n]) for row in found if row.cells) for n in range(len(summaries))]
    lines = []
    for row in found:
        cells = "".join(f"  {cell:>{width}}" for cell, width in zip(row.cells, widths, strict=False))
        lines.append(f"{'  ' if row.cells else ''}{row.label:<{label}}{cells}".rstrip())
    return "\n".join(lines)

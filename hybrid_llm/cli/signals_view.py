"""How signals are shown: as JSON, as one line each, and as the live view, with the units of the policy language."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.terminal import printable, record
from hybrid_llm.core.decision import UNKNOWN_WINDOW
from hybrid_llm.core.signals import EndpointHealth, EndpointState, Signals
from hybrid_llm.policies.language.schema import Objectives, Schema

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

_SCHEMA: Final = Schema({}, Objectives())
# Every backend has the fields of `edge`; a node has some of them, and its time to first token.
_UNITS: Final = {
    name: spec.type.unit
    for root in ("device", "network", "budget", "edge")
    for name, spec in _SCHEMA.fields(root).items()
} | {"ttft_ms": "ms"}
_UNKNOWN: Final = (0, UNKNOWN_WINDOW)
_SUFFIXES: Final = {"_c": " C", "_j": " J"}
_FORMATS: Final = {"share": "{:.1%}", "percent": "{:.1f}%", "ms": "{:,.1f} ms", "mb": "{:,.0f} MiB"}
_FULL: Final = {"share": 1.0, "percent": 100.0}
_BAD: Final = {"online": False, "ready": False, "throttled": True, "breaker": "open"}
_DOUBTFUL: Final = {"breaker": "half_open", "metered": True}
_DOUBTFUL_SHARE, _BAD_SHARE = 0.6, 0.85
_GOOD_STYLE, _DOUBTFUL_STYLE, _BAD_STYLE, _UNKNOWN_STYLE = "green", "yellow", "red", "dim"
_NAME_WIDTH: Final = 24
_CELL_WIDTH: Final = 39


def document(signals: Signals, at: datetime) -> dict[str, object]:
    """The signals as JSON; what is absent or unknown is null, because JSON has no NaN."""
    shown = {owner: _finite(group) for owner, group in _groups(signals).items()}
    for name, state in signals.backends.items():
        shown[name]["members"] = [_finite(record(node)) for node in state.members]
        if state.context_window in _UNKNOWN:
            shown[name]["context_window"] = None
    return {"time": at.isoformat(timespec="milliseconds"), **shown}


def lines(signals: Signals) -> list[str]:
    """One line for each signal, and one for each node of a backend with several."""
    found = [
        f"{owner + '.' + name:<38}{_text(name, value)}"
        for owner, group in _groups(signals).items()
        for name, value in group.items()
    ]
    for owner, node in _nodes(signals):
        values = ", ".join(f"{name} {text}" for name, (text, _) in _node_cells(node).items())
        found.append(f"{f'{printable(owner)} node {node.address}':<38}{values}")
    return found


def _groups(signals: Signals) -> dict[str, dict[str, object]]:
    """Owner -> name -> value, with the names that policies use."""
    owners: dict[str, object] = {"device": signals.device, "network": signals.network, "budget": signals.budget}
    groups = {name: record(owner) for name, owner in (owners | dict(signals.backends)).items()}
    for name in signals.backends:
        del groups[name]["members"]
    return groups


def _nodes(signals: Signals) -> list[tuple[str, EndpointState]]:
    return [(name, node) for name, state in signals.backends.items() for node in state.members]


def _finite(group: Mapping[str, object]) -> dict[str, object]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in group.items()
    }


def _text(name: str, value: object) -> str:
    """*value* with its unit, as in a policy where possible."""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        suffix = _SUFFIXES.get(name[-2:])
        form = _FORMATS.get(_UNITS.get(name, ""), "{:,.1f}" + suffix if suffix else "{:.6g}")
        return "unknown" if math.isnan(value) else form.format(value)
    if isinstance(value, int):
        return "unknown" if name == "context_window" and value in _UNKNOWN else f"{value:,}"
    return printable(" ".join(str(value).split()))


def _style(name: str, value: object, group: Mapping[str, object]) -> str:
    """Whether a value is good, doubtful, bad or unknown; plain if the signal has no such meaning."""
    if value is None or value != value:  # NaN
        return _UNKNOWN_STYLE
    if isinstance(value, EndpointHealth):
        return _GOOD_STYLE if value.is_usable else _BAD_STYLE
    if (used := _used(name, value, group)) is not None:
        return _BAD_STYLE if used >= _BAD_SHARE else _DOUBTFUL_STYLE if used >= _DOUBTFUL_SHARE else _GOOD_STYLE
    if value == _BAD.get(name):
        return _BAD_STYLE
    if value == _DOUBTFUL.get(name):
        return _DOUBTFUL_STYLE
    return _GOOD_STYLE if name in _BAD else ""


def _used(name: str, value: object, group: Mapping[str, object]) -> float | None:
    """The share in use, if *value* is a share or an amount with a total."""
    full = _FULL.get(_UNITS.get(name, ""))
    total = group.get(name.replace("_available_", "_total_"))
    if not isinstance(value, float):
        return None
    if full is not None:
        return 1.0 - value / full if name == "battery" else value / full
    return 1.0 - value / total if "_available_" in name and isinstance(total, float) and total > 0 else None


def _node_cells(node: EndpointState) -> dict[str, tuple[str, str]]:
    """Name -> text and style."""
    group = record(node)
    reason = f" ({node.reason})" if node.reason else ""
    cells = {
        name: ("-" if value is None else _text(name, value), _style(name, value, group))
        for name, value in group.items()
        if name not in {"address", "reason"}
    }
    return cells | {"health": (f"{node.health}{reason}", cells["health"][1])}


class View:
    """The live view, a rich renderable that fits the width of the console and is cropped to its height."""

    def __init__(self, signals: Signals, title: str, errors: Iterable[str]) -> None:
        self._signals = signals
        self._title = title
        self._errors = [printable(error) for error in errors]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.console import Group
        from rich.segment import Segment

        width, height = max(1, options.max_width - 1), console.height
        sized = options.update(width=width, height=None)
        found = console.render_lines(Group(*self._parts(width)), sized, pad=False)
        if len(found) > height:
            hidden = _one_line((f"{len(found) - height + 1} more lines: make the window higher", _UNKNOWN_STYLE))
            found[height - 1 :] = console.render_lines(hidden, sized, pad=False)
        for number, line in enumerate(found):
            if number:
                yield Segment.line()
            yield from line

    def _parts(self, width: int) -> Iterator[RenderableType]:
        from rich.text import Text

        yield _one_line((self._title, "bold"))
        for owner, group in _groups(self._signals).items():
            yield from _section(owner, group, width)
        if nodes := _nodes(self._signals):
            yield _node_table(nodes)
        yield from (Text(error, _BAD_STYLE, overflow="fold") for error in self._errors)


def _one_line(*parts: str | tuple[str, str]) -> Text:
    from rich.text import Text

    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _section(owner: str, group: Mapping[str, object], width: int) -> Iterator[RenderableType]:
    """The signals of one owner, in as many columns as fit, and the names of the absent ones."""
    from rich.columns import Columns
    from rich.rule import Rule

    location = group.get("location", owner)
    heading = _text("name", owner) + ("" if owner == location else f" ({location})")
    yield Rule(_one_line((heading, "bold")), align="left", style=_UNKNOWN_STYLE)
    if reason := group.get("reason"):
        yield _one_line(f"{'reason':<{_NAME_WIDTH}}", (_text("reason", reason), _BAD_STYLE))
    cells = [
        _one_line(f"{name:<{_NAME_WIDTH}}", (_text(name, value), _style(name, value, group)))
        for name, value in group.items()
        if value is not None and name not in {"name", "location", "reason"}
    ]
    yield Columns(cells, width=min(width, _CELL_WIDTH), padding=0, column_first=True)
    if absent := ", ".join(name for name, value in group.items() if value is None):
        yield _one_line((f"absent: {absent}", _UNKNOWN_STYLE))


def _node_table(nodes: Iterable[tuple[str, EndpointState]]) -> Table:
    """A row for each node of the backends with several."""
    from rich.table import Table
    from rich.text import Text

    rows = [{"each node": (printable(f"{owner} {node.address}"), ""), **_node_cells(node)} for owner, node in nodes]
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in rows[0]:
        shown.add_column(name, no_wrap=True)
    for row in rows:
        shown.add_row(*(Text(text, style) for text, style in row.values()))
    return shown

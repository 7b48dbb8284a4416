"""How signals are shown: as JSON, as one line each, and as the live view, with the units of the policy language."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.terminal import printable, record
from hybrid_llm.core.signals import BackendState, EndpointState, Signals
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
_SUFFIXES: Final = {"_c": " C", "_j": " J"}
_UNLIMITED: Final = 2**31 - 1
_FULL: Final = {"share": 1.0, "percent": 100.0}
_MEMBERS: Final = "members"
_IN_HEADING: Final = frozenset({"name", "location"})
_BAD: Final = {"online": False, "ready": False, "throttled": True, "breaker": "open", "health": "unreachable"}
_DOUBTFUL: Final = {"breaker": "half_open", "metered": True}
_HIGH_IS_GOOD: Final = frozenset({"battery"})
_DOUBTFUL_SHARE, _BAD_SHARE = 0.6, 0.85
_GOOD_STYLE, _DOUBTFUL_STYLE, _BAD_STYLE, _UNKNOWN_STYLE = "green", "yellow", "red", "dim"
_NAME_WIDTH: Final = 24
_CELL_WIDTH: Final = 39
_BAR_WIDTH, _MIN_BAR_WIDTH = 12, 4
_MIN_BACKEND_WIDTH, _MAX_BACKEND_WIDTH = 12, 30
_ROOMY_WIDTH: Final = 22
"""Columns from which a backend shows bars and the errors of its predictions."""


def document(signals: Signals, at: datetime) -> dict[str, object]:
    """The signals as JSON; what is absent or unknown is null, because JSON has no NaN."""
    shown = {owner: _finite(group) for owner, group in _groups(signals).items()}
    for name, state in signals.backends.items():
        shown[name][_MEMBERS] = [_finite(record(node)) for node in state.members]
    return {"time": at.isoformat(timespec="milliseconds"), **shown}


def lines(signals: Signals) -> list[str]:
    """One line for each signal, and one for each node of a backend with several."""
    found = [
        f"{owner + '.' + name:<38}{_text(name, value)}"
        for owner, group in _groups(signals).items()
        for name, value in group.items()
        if name != _MEMBERS
    ]
    for owner, state in signals.backends.items():
        for node in state.members:
            values = ", ".join(f"{item.name} {item.value}" for item in _node_items(node))
            found.append(f"{f'{printable(owner)} node {node.address}':<38}{values}")
    return found


def _groups(signals: Signals) -> dict[str, dict[str, object]]:
    """Owner -> name -> value, with the names that policies use."""
    owners = {"device": record(signals.device), "network": record(signals.network), "budget": record(signals.budget)}
    return owners | {name: record(state) for name, state in signals.backends.items()}


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
        return _number(value, _UNITS.get(name, ""), _SUFFIXES.get(name[-2:], ""))
    if isinstance(value, int):
        return "no known limit" if value == _UNLIMITED else f"{value:,}"
    return printable(" ".join(str(value).split()))


def _number(value: float, unit: str, suffix: str) -> str:
    if math.isnan(value):
        return "unknown"
    if unit in _FULL:
        return f"{value * 100 / _FULL[unit]:.1f}%"
    if unit == "ms":
        return f"{value:,.1f} ms"
    if unit == "mb":
        return f"{value:,.0f} MiB"
    return f"{value:,.1f}{suffix}" if suffix else f"{value:.6g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One signal in the live view; *more* is shown if there is room, and a bar for a *share*."""

    name: str
    value: str
    more: str = ""
    share: float | None = None
    style: str = ""
    absent: bool = False

    def fitted(self, width: int) -> str:
        """The value with its bar or *more*, as far as they fit."""
        bar = min(_BAR_WIDTH, width - 7)
        if self.share is not None and bar >= _MIN_BAR_WIDTH:
            filled = round(max(0.0, min(1.0, self.share)) * bar)
            return f"{self.value:>6} {'#' * filled}{'.' * (bar - filled)}"
        return self.value + self.more if len(self.value + self.more) <= width else self.value


def _items(group: Mapping[str, object]) -> Iterator[_Item]:
    """The signals of one owner; an amount and its total, or a prediction and its error, are one item."""
    for name, value in group.items():
        stem, _, unit = name.rpartition("_")
        total = group.get(f"{stem.removesuffix('_available')}_total_{unit}") if stem.endswith("_available") else None
        error = group.get(f"{stem}_error_{unit}")
        if name == _MEMBERS or _is_part_of_another(name, group):
            continue
        if isinstance(value, float) and isinstance(total, float) and math.isfinite(value) and total > 0:
            yield _Item(name=name, value=f"{value:.0f}/{total:.0f} MiB", style=_share_style(1.0 - value / total))
        elif isinstance(value, float) and isinstance(error, float):
            yield _Item(name=name, value=_text(name, value), more=f" +/- {error:,.1f}")
        else:
            yield _item(name, value)


def _is_part_of_another(name: str, group: Mapping[str, object]) -> bool:
    available, prediction = name.replace("_total_", "_available_"), name.replace("_error_", "_")
    return (available != name and group.get(available) is not None) or (prediction != name and prediction in group)


def _item(name: str, value: object) -> _Item:
    share, unit = None, _UNITS.get(name, "")
    if isinstance(value, float) and math.isfinite(value) and unit in _FULL:
        share = value / _FULL[unit]
        style = _share_style(1.0 - share if name in _HIGH_IS_GOOD else share)
    else:
        style = _value_style(name, value)
    shown = "-" if value is None else _text(name, value)
    return _Item(name=name, value=shown, share=share, style=style, absent=value is None)


def _node_items(node: EndpointState) -> Iterator[_Item]:
    for name, value in record(node).items():
        if name == "health":
            reason = f" ({node.reason})" if node.reason else ""
            style = _GOOD_STYLE if node.health.is_usable else _value_style(name, value)
            yield _Item(name=name, value=f"{value}{reason}", style=style)
        elif name not in {"address", "reason"}:
            yield _item(name, value)


def _value_style(name: str, value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _UNKNOWN_STYLE
    if name in _BAD and value == _BAD[name]:
        return _BAD_STYLE
    if name in _DOUBTFUL and value == _DOUBTFUL[name]:
        return _DOUBTFUL_STYLE
    return _GOOD_STYLE if name in _BAD else ""


def _share_style(used: float) -> str:
    return _BAD_STYLE if used >= _BAD_SHARE else _DOUBTFUL_STYLE if used >= _DOUBTFUL_SHARE else _GOOD_STYLE


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
        blocks = [console.render_lines(Group(*part), sized, pad=False) for part in self._parts(width) if part]
        # Blank lines between the blocks only if everything fits with them.
        gap: list[list[Segment]] = [[]] if sum(map(len, blocks)) + len(blocks) - 1 <= height else []
        found = [line for block in blocks for line in (*(gap if block is not blocks[0] else []), *block)]
        if len(found) > height:
            hidden = _one_line(f"{len(found) - height + 1} more lines: make the window higher", _UNKNOWN_STYLE)
            found = [*found[: height - 1], *console.render_lines(hidden, sized, pad=False)]
        for number, line in enumerate(found):
            if number:
                yield Segment.line()
            yield from line

    def _parts(self, width: int) -> Iterator[Sequence[RenderableType]]:
        from rich.text import Text

        yield [_one_line(self._title, "bold")]
        for owner in ("device", "network", "budget"):
            yield list(_section(owner, list(_items(record(getattr(self._signals, owner)))), width))
        yield [_backend_table(self._signals.backends, width)] if self._signals.backends else []
        yield list(_node_rows(self._signals.backends))
        yield [Text(error, _BAD_STYLE, overflow="fold") for error in self._errors]


def _one_line(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _section(owner: str, items: Sequence[_Item], width: int) -> Iterator[RenderableType]:
    """The signals of one owner, in as many columns as fit, and the names of the absent ones."""
    from rich.columns import Columns
    from rich.text import Text

    size = min(width, _CELL_WIDTH)
    cells = [
        Text.assemble(
            f"{item.name:<{_NAME_WIDTH}}",
            (item.fitted(size - _NAME_WIDTH - 1), item.style),
            no_wrap=True,
            overflow="crop",
        )
        for item in items
        if not item.absent
    ]
    yield _one_line(owner, "bold")
    yield Columns(cells, width=size, padding=0, column_first=True)
    if absent := ", ".join(item.name for item in items if item.absent):
        yield _one_line(f"absent: {absent}", _UNKNOWN_STYLE)


def _backend_table(backends: Mapping[str, BackendState], width: int) -> Table:
    """A column for each backend, as many as fit; `reason` only if a backend has one."""
    from rich.table import Table
    from rich.text import Text

    states = list(backends.values())[: max(1, (width - _NAME_WIDTH) // _MIN_BACKEND_WIDTH)]
    size = max(_MIN_BACKEND_WIDTH, min(_MAX_BACKEND_WIDTH, (width - _NAME_WIDTH) // len(states))) - 1
    hidden = len(backends) - len(states)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_NAME_WIDTH - 1, no_wrap=True, overflow="crop")
    for _ in states:
        grid.add_column(width=size, no_wrap=True, overflow="crop")
    grid.add_row(
        *(_one_line(text, "bold") for text in (f"{hidden} more" if hidden else "backends", *map(_title, states)))
    )
    for row in zip(*(_items(record(state)) for state in states), strict=True):
        if row[0].name not in _IN_HEADING and any(item.value for item in row):
            values = (item.fitted(size) if size >= _ROOMY_WIDTH else item.value for item in row)
            grid.add_row(row[0].name, *(Text(value, item.style) for value, item in zip(values, row, strict=True)))
    return grid


def _title(state: BackendState) -> str:
    name = _text("name", state.name)
    return name if name == state.location else f"{name} ({state.location})"


def _node_rows(backends: Mapping[str, BackendState]) -> Iterator[Text]:
    """A line for each node of the backends with several."""
    from rich.text import Text

    rows = [
        [_Item(name="each node", value=printable(f"{state.name} {node.address}")), *_node_items(node)]
        for state in backends.values()
        for node in state.members
    ]
    columns = list(zip(*rows, strict=True))
    sizes = [max(len(text) for item in column for text in (item.name, item.value)) for column in columns]
    heading = [_Item(name=column[0].name, value=column[0].name, style="bold") for column in columns]
    for row in (heading, *rows) if rows else ():
        cells = ((f"{item.value:<{size}}  ", item.style) for item, size in zip(row, sizes, strict=True))
        yield Text.assemble(*cells, no_wrap=True, overflow="crop")

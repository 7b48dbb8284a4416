"""How one signal looks: its number with the unit that the policy language has for it, a bar for a share, a colour.

Every field of the records is shown by itself; a pair such as `gpu_memory_available_mb` and `gpu_memory_total_mb`, or
`predicted_ttft_ms` and `predicted_ttft_error_ms`, can be shown as one.

The frame of the live view of signals: what stands where in a window of any size. It reads and draws nothing.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import zip_longest
from typing import Final

from hybrid_llm.cli.terminal import bar, printable, record
from hybrid_llm.core.signals import BackendState, EndpointState, Signals
from hybrid_llm.policies.language.schema import Objectives, Schema

_SCHEMA: Final = Schema({}, Objectives())
_UNITS: Final = {
    name: spec.type.unit
    for root in ("device", "network", "budget", "edge")
    for name, spec in _SCHEMA.fields(root).items()
} | {"ttft_ms": "ms"}
"""Every backend has the fields of `edge`; a node has some of them, and its usual time to a first token."""
_BY_NAME: Final = {"_c": " C", "_j": " J"}
_NO_LIMIT: Final = 2**31 - 1
_WHOLE: Final = {"share": 1.0, "percent": 100.0}
_BAD: Final = {"online": False, "ready": False, "throttled": True, "breaker": "open", "health": "unreachable"}
_MEMBERS: Final = "members"
_DOUBTFUL: Final = {"breaker": "half_open", "metered": True}
_HIGH_IS_GOOD: Final = frozenset({"battery"})
_DOUBTFUL_SHARE, _BAD_SHARE = 0.6, 0.85


class Mood(Enum):
    """How good a value is, and what else has a colour; the value is the code of ECMA-48 (SGR)."""

    PLAIN = ""
    GOOD = "32"
    DOUBTFUL = "33"
    BAD = "31"
    HEAD = "1"
    DIM = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One signal as a person sees it; *more* follows the value where there is room, and a bar where it is a share."""

    name: str
    value: str
    more: str = ""
    share: float | None = None
    mood: Mood = Mood.PLAIN
    absent: bool = False


def groups(signals: Signals) -> dict[str, dict[str, object]]:
    """Owner -> name -> value, as policies name them."""
    first = {"device": record(signals.device), "network": record(signals.network), "budget": record(signals.budget)}
    return {**first, **{name: record(state) for name, state in signals.backends.items()}}


def document(signals: Signals, at: datetime) -> dict[str, object]:
    """The signals for programs; what is absent or unknown is null, since JSON has no NaN."""
    shown: dict[str, dict[str, object]] = {owner: _finite(group) for owner, group in groups(signals).items()}
    for name, state in signals.backends.items():
        shown[name][_MEMBERS] = [_finite(record(node)) for node in state.members]
    return {"time": at.isoformat(timespec="milliseconds"), **shown}


def lines(signals: Signals) -> list[str]:
    """One line for each signal, and for each node of a backend that has several."""
    found = [
        f"{owner + '.' + name:<38}{text(name, value)}"
        for owner, group in groups(signals).items()
        for name, value in group.items()
        if name != _MEMBERS
    ]
    return found + [
        f"{f'{printable(owner)} node {node.address}':<38}{', '.join(f'{one.name} {one.value}' for one in nodes(node))}"
        for owner, state in signals.backends.items()
        for node in state.members
    ]


def nodes(node: EndpointState) -> Iterator[Shown]:
    """What is known of one node; its address is for the place where it stands."""
    for name, value in record(node).items():
        if name == "health":
            reason = f" ({node.reason})" if node.reason else ""
            mood = Mood.GOOD if node.health.is_usable else _mood(name, value)
            yield Shown(name=name, value=f"{value}{reason}", mood=mood)
        elif name not in {"address", "reason"}:
            yield _single(name, value)


def text(name: str, value: object) -> str:
    """*value* with its unit, as a policy would write it where it can."""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _number(value, _UNITS.get(name, ""), _BY_NAME.get(name[-2:], ""))
    if isinstance(value, int):
        return "no limit known" if value == _NO_LIMIT else f"{value:,}"
    return printable(" ".join(str(value).split()))


def _number(value: float, unit: str, suffix: str) -> str:
    if math.isnan(value):
        return "unknown"
    if unit in {"share", "percent"}:
        return f"{value if unit == 'percent' else value * 100:.1f}%"
    if unit == "ms":
        return f"{value:,.1f} ms"
    if unit == "mb":
        return f"{value:,.0f} MiB"
    return f"{value:,.1f}{suffix}" if suffix else f"{value:.6g}"


def show(group: Mapping[str, object]) -> Iterator[Shown]:
    """The signals of one owner; an amount and its whole, and a prediction and its error, as one."""
    for name, value in group.items():
        stem, _, unit = name.rpartition("_")
        whole = group.get(f"{stem.removesuffix('_available')}_total_{unit}") if stem.endswith("_available") else None
        error = group.get(f"{stem}_error_{unit}")
        if name == _MEMBERS or _is_part(name, group):
            continue
        if isinstance(value, float) and isinstance(whole, float) and math.isfinite(value) and whole > 0:
            yield Shown(name=name, value=f"{value:.0f}/{whole:.0f} MiB", mood=_of_share(1.0 - value / whole))
        elif isinstance(value, float) and isinstance(error, float):
            yield Shown(name=name, value=text(name, value), more=f" +/- {error:,.1f}")
        else:
            yield _single(name, value)


def _is_part(name: str, group: Mapping[str, object]) -> bool:
    """Whether *name* is shown beside another one."""
    whole, error = name.replace("_total_", "_available_"), name.replace("_error_", "_")
    return (whole != name and group.get(whole) is not None) or (error != name and error in group)


def _single(name: str, value: object) -> Shown:
    share = _share(value, _UNITS.get(name, ""))
    mood = _mood(name, value) if share is None else _of_share(1.0 - share if name in _HIGH_IS_GOOD else share)
    shown = "-" if value is None else text(name, value)
    return Shown(name=name, value=shown, share=share, mood=mood, absent=value is None)


def _share(value: object, unit: str) -> float | None:
    known = isinstance(value, float) and math.isfinite(value) and unit in _WHOLE
    return value / _WHOLE[unit] if known and isinstance(value, float) else None


def _mood(name: str, value: object) -> Mood:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Mood.DIM
    if name in _BAD:
        return Mood.BAD if value == _BAD[name] else Mood.DOUBTFUL if value == _DOUBTFUL.get(name) else Mood.GOOD
    return Mood.DOUBTFUL if name in _DOUBTFUL and value == _DOUBTFUL[name] else Mood.PLAIN


def _of_share(used: float) -> Mood:
    return Mood.BAD if used >= _BAD_SHARE else Mood.DOUBTFUL if used >= _DOUBTFUL_SHARE else Mood.GOOD


def _finite(group: Mapping[str, object]) -> dict[str, object]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in group.items()
    }


_IN_HEAD: Final = frozenset({"name", "location"})
_LABEL: Final = 24
_GAP: Final = 1
_BAR, _LEAST_BAR = 12, 4
_ROOMY: Final = 22
"""Columns from which a backend shows bars, and the errors of its predictions."""
_LEAST: Final = 12
"""Columns that a backend takes at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Whether to use colours."""

    colour: bool

    def paint(self, text: str, mood: Mood) -> str:
        """*text* in the colour of *mood*."""
        return f"\x1b[{mood.value}m{text}\x1b[0m" if self.colour and mood.value and text.strip() else text


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a line, in one colour."""

    text: str
    mood: Mood = Mood.PLAIN


_Line = tuple[_Piece, ...]
_EMPTY: Final = Shown(name="", value="")


def frame(signals: Signals, title: str, faults: Iterable[str], *, columns: int, rows: int, style: Style) -> list[str]:
    """The live view, in at most *rows* lines of less than *columns* characters."""
    width = max(1, columns - 1)
    parts: list[list[_Line]] = [
        [(_Piece(title, Mood.HEAD),)],
        list(_device(signals, width)),
        list(_network_and_budget(signals, width)),
        list(_backends(signals.backends, width)),
        list(_members(signals.backends)),
        [(_Piece(line, Mood.BAD),) for fault in faults for line in textwrap.wrap(printable(fault), width)],
    ]
    blank: list[_Line] = [()] if sum(len(part) + 1 for part in parts if part) - 1 <= rows else []
    found = [line for part in parts if part for line in (*blank[: part is not parts[0]], *part)]
    if len(found) > rows:
        hidden = len(found) - max(0, rows - 1)
        found = [*found[: max(0, rows - 1)], (_Piece(f"{hidden} more lines: make the window higher", Mood.DIM),)]
    return [_painted(line, width, style) for line in found[:rows]]


def _painted(line: _Line, width: int, style: Style) -> str:
    """The line, cut to *width* before it has colours."""
    left, shown = width, ""
    for piece in line:
        shown += style.paint(piece.text[:left], piece.mood)
        left -= min(left, len(piece.text))
    return shown


def _device(signals: Signals, width: int) -> Iterator[_Line]:
    found = list(show(record(signals.device)))
    yield (_Piece("device", Mood.HEAD),)
    yield from _in_columns([item for item in found if not item.absent], width)
    lacks = ", ".join(item.name for item in found if item.absent)
    if lacks:
        line = f"absent: {lacks}"
        yield (_Piece(line if len(line) <= width else line[: max(0, width - 4)] + " ...", Mood.DIM),)


def _in_columns(items: Sequence[Shown], width: int) -> Iterator[_Line]:
    """In as many columns as fit, read downwards."""
    count = max(1, (width + _GAP) // (_cell_width(width) + _GAP))
    height = -(-len(items) // count)
    columns = [items[start : start + height] for start in range(0, len(items), max(1, height))]
    for row in zip_longest(*columns, fillvalue=_EMPTY):
        yield _row(row, width)


def _cell_width(width: int) -> int:
    """Columns of a name with its value and bar: half of 80, or what there is."""
    return min(width, 39)


def _row(row: Iterable[Shown], width: int) -> _Line:
    size = _cell_width(width)
    return tuple(piece for item in row for piece in (*_cell(item, size), _Piece(" " * _GAP)))


def _cell(item: Shown, size: int) -> _Line:
    value = _fitting(item, size - _LABEL)
    return (_Piece(f"{item.name:<{_LABEL}}"), _Piece(f"{value:<{max(0, size - _LABEL)}}", item.mood))


def _fitting(item: Shown, size: int) -> str:
    """The value, and what follows it where that fits too: a bar behind a number of six places, or an error."""
    places = min(_BAR, size - 7)
    if item.share is not None and places >= _LEAST_BAR:
        return f"{item.value:>6} {bar(item.share, places)}"
    return item.value + item.more if len(item.value + item.more) <= size else item.value


def _network_and_budget(signals: Signals, width: int) -> Iterator[_Line]:
    """Side by side where there is room."""
    network, budget = list(show(record(signals.network))), list(show(record(signals.budget)))
    if width < 2 * _cell_width(width) + _GAP:
        yield (_Piece("network", Mood.HEAD),)
        yield from (_row([item], width) for item in network)
        yield (_Piece("budget", Mood.HEAD),)
        yield from (_row([item], width) for item in budget)
        return
    head = Shown(name="network", value=""), Shown(name="budget", value="")
    yield tuple(_Piece(f"{item.name:<{_cell_width(width) + _GAP}}", Mood.HEAD) for item in head)
    yield from (_row(pair, width) for pair in zip_longest(network, budget, fillvalue=_EMPTY))


def _backends(backends: Mapping[str, BackendState], width: int) -> Iterator[_Line]:
    """A table: a column for each backend, as many as fit; the reason only where there is one."""
    if not backends:
        return
    fits = max(1, (width - _LABEL) // _LEAST)
    states = list(backends.values())[:fits]
    size = max(_LEAST, min(30, (width - _LABEL) // len(states)))
    hidden = len(backends) - len(states)
    heads = [_Piece(f"{_head(state)[: size - 1]:<{size}}", Mood.HEAD) for state in states]
    yield (_Piece(f"{f'{hidden} more' if hidden else 'backends':<{_LABEL}}", Mood.HEAD), *heads)
    for row in zip(*(show(record(state)) for state in states), strict=True):
        name = row[0].name
        if name not in _IN_HEAD and any(item.value for item in row):
            yield (_Piece(f"{name:<{_LABEL}}"), *(_value(item, size) for item in row))


def _members(backends: Mapping[str, BackendState]) -> Iterator[_Line]:
    """A line for each node of the backends that have several."""
    found = [
        (f"{state.name} {node.address}", list(nodes(node))) for state in backends.values() for node in state.members
    ]
    if not found:
        return
    place = max(_LABEL, *(len(printable(name)) + 1 for name, _ in found))
    names = [item.name for item in found[0][1]]
    sizes = [max(len(text) for text in (name, *(row[i].value for _, row in found))) for i, name in enumerate(names)]
    columns = list(zip(names, sizes, strict=True))
    yield (_Piece(f"{'each node':<{place}}{'  '.join(f'{name:<{size}}' for name, size in columns)}", Mood.HEAD),)
    for name, row in found:
        cells = (_Piece(f"{item.value:<{size}}  ", item.mood) for item, size in zip(row, sizes, strict=True))
        yield (_Piece(f"{printable(name):<{place}}"), *cells)


def _head(state: BackendState) -> str:
    name = text("name", state.name)
    return name if name == state.location else f"{name} ({state.location})"


def _value(item: Shown, size: int) -> _Piece:
    room = size - 1
    shown = _fitting(item, room) if size >= _ROOMY else item.value
    return _Piece(f"{shown[:room]:<{size}}", item.mood)

"""The frame of the live view of signals: what stands where in a window of any size. It reads and draws nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from hybrid_llm.cli.output import printable, record
from hybrid_llm.cli.progress import bar
from hybrid_llm.cli.signals_text import Mood, Shown, nodes, show, text
from hybrid_llm.router.signals import BackendState, Signals

__all__ = ["Style", "frame"]

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

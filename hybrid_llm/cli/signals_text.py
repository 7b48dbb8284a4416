"""How one signal looks: its number with the unit that the policy language has for it, a bar for a share, a colour.

Every field of the records is shown by itself; a pair such as `gpu_memory_available_mb` and `gpu_memory_total_mb`, or
`predicted_ttft_ms` and `predicted_ttft_error_ms`, can be shown as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from hybrid_llm.cli.output import printable, record
from hybrid_llm.policies.schema import Objectives, Schema
from hybrid_llm.router.signals import NodeState, Signals

__all__ = ["Mood", "Shown", "document", "groups", "lines", "nodes", "show", "text"]

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


def nodes(node: NodeState) -> Iterator[Shown]:
    """What is known of one node; its address is for the place where it stands."""
    for name, value in record(node).items():
        if name == "health":
            reason = f" ({node.reason})" if node.reason else ""
            mood = Mood.GOOD if node.health.can_be_asked else _mood(name, value)
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

"""The names that an expression can read, derived from the records of a request and its signals."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import NoneType, UnionType

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.fields import Amount, duration, key
from hybrid_llm.core.limits import DEADLINE_S
from hybrid_llm.core.protocols import DETECTOR_NAMES
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import DISPLAY_ONLY, BackendState, BudgetSignals, DeviceSignals, NetworkSignals
from hybrid_llm.policies.language.types import BOOL, INT, STRING, Field, Type

KNOWN_DETECTORS = frozenset(DETECTOR_NAMES)
"""The detectors that a tag may name unless the caller passes others."""

_SHARES = frozenset({"cpu_load", "gpu_load", "battery", "load", "quality"})
_WHOLES = _SHARES - {"load"}
"""Shares that never exceed 1."""
_PERCENTS = frozenset({"memory_pressure", "cpu_pressure", "io_pressure"})
_MONEY = frozenset({"spent", "left", "cost", "budget", "cost_per_1k_tokens"})
_OBJECTIVES = ("ttft_ms", "tpot_ms", "deadline_ms", "cost", "budget")
_REQUEST = {
    "prompt_tokens": INT,
    "max_tokens": INT,
    "task": STRING,
    "tenant": STRING,
    "deadline_ms": Type("double", "ms"),
    "tags": Type("list", item=STRING),
    "message_count": INT,
    "tools": INT,
    "has_tools": BOOL,
    "has_schema": BOOL,
}
"""What rules read of `RequestMetadata`; only the tenant may be absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives(Checked):
    """What the policy aims at; conditions read it under `objectives.`."""

    ttft_ms: float | None = key(
        duration("ms"), "Time to the first token.", name="ttft", default=None, examples=("400ms", "2s")
    )
    tpot_ms: float | None = key(
        duration("ms"), "Time for each further token.", name="tpot", default=None, examples=("50ms",)
    )
    deadline_s: float | None = key(
        duration("s", DEADLINE_S.least, DEADLINE_S.most),
        "Time for the whole answer: the default deadline of a request.",
        name="deadline",
        default=None,
        examples=("10s",),
    )
    cost: float | None = key(Amount(), "Maximum cost of one request.", default=None, examples=("0.02 USD",))
    budget: float | None = key(
        Amount(per_day=True), "Maximum that one tenant may spend in a day (UTC).", default=None, examples=("5 USD/day",)
    )
    currency: str | None = None
    """The currency of *cost* and *budget*, as written; that of the backends' prices is taken to be the same."""

    def value(self, name: str) -> float | None:
        """The value of `objectives.<name>` in an expression."""
        if name == "deadline_ms":
            return None if self.deadline_s is None else self.deadline_s * 1000.0
        value: float | None = getattr(self, name)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSpec:
    """One name. *root* is request, objectives, backend or a record of the signals; *owner* is the backend's name."""

    root: str
    attribute: str
    type: Type
    optional: bool = False
    owner: str = ""
    values: frozenset[str] = frozenset()
    """Every value that a text field can have; empty if any is possible."""
    constant: float | None = None
    """The value of an objective."""
    least: float = -math.inf
    """The smallest possible value."""
    most: float = math.inf
    """The largest possible value."""

    @property
    def key(self) -> str:
        """The canonical name: a backend under its own name and under its location is the same."""
        return f"{self.owner or self.root}.{self.attribute}"


class Schema:
    """Resolves names such as `device.battery` for one policy and its backends."""

    def __init__(self, backends: Mapping[str, Location], objectives: Objectives) -> None:
        self._roots = {
            "request": _by_name(_request_fields()),
            "device": _by_name(_record_fields(DeviceSignals, "device")),
            "network": _by_name(_record_fields(NetworkSignals, "network")),
            "budget": _by_name(_record_fields(BudgetSignals, "budget")),
            "objectives": _by_name(_objective_fields(objectives)),
        }
        for name, owner in _backend_roots(backends).items():
            self._roots.setdefault(name, _by_name(_record_fields(BackendState, "backend", owner)))

    @property
    def roots(self) -> tuple[str, ...]:
        """The first parts of all names."""
        return tuple(self._roots)

    def fields(self, root: str) -> Mapping[str, FieldSpec]:
        """The fields under *root*; empty if there is no such root."""
        return self._roots.get(root, {})

    def spec(self, field: Field) -> FieldSpec:
        """What is known about a field that the checker has resolved."""
        return self.fields(field.path[0])[field.path[1]]


def _by_name(specs: Iterable[FieldSpec]) -> dict[str, FieldSpec]:
    return {spec.attribute: spec for spec in specs}


def _backend_roots(backends: Mapping[str, Location]) -> dict[str, str]:
    """Every backend, and every location: for its first backend, or for itself if it has none."""
    roots = {name: name for name in backends}
    for location in Location:
        here = [name for name, where in backends.items() if where is location]
        roots.setdefault(location.value, here[0] if here else location.value)
    return roots


def _request_fields() -> Iterator[FieldSpec]:
    for name, kind in _REQUEST.items():
        least, most = _range(name, kind)
        yield FieldSpec(root="request", attribute=name, type=kind, optional=name == "tenant", least=least, most=most)


def _objective_fields(objectives: Objectives) -> Iterator[FieldSpec]:
    for name in _OBJECTIVES:
        kind, value = Type("double", _unit(name)), objectives.value(name)
        yield FieldSpec(root="objectives", attribute=name, type=kind, optional=value is None, constant=value)


def _record_fields(record: type, root: str, owner: str = "") -> Iterator[FieldSpec]:
    hints = typing.get_type_hints(record)
    for field in fields(record):
        if field.name in DISPLAY_ONLY:
            continue
        bare, optional = _without_none(hints[field.name])
        kind = _type_of(field.name, bare)
        least, most = _range(field.name, kind)
        yield FieldSpec(
            root=root,
            attribute=field.name,
            type=kind,
            optional=optional,
            owner=owner,
            values=frozenset(map(str, bare)) if issubclass(bare, StrEnum) else frozenset(),
            least=least,
            most=most,
        )


def _without_none(hint: type | UnionType) -> tuple[type, bool]:
    if not isinstance(hint, UnionType):
        return hint, False
    bare: list[type] = [part for part in hint.__args__ if part is not NoneType]
    return bare[0], True


def _type_of(name: str, bare: type) -> Type:
    if bare is bool:
        return BOOL
    if bare is int:
        return INT
    if issubclass(bare, str):
        return STRING
    return Type("double", _unit(name))


def _range(name: str, kind: Type) -> tuple[float, float]:
    """The smallest and largest possible value: counts and values with one of these units are never negative."""
    if kind != INT and not kind.unit and not name.endswith("_j"):
        return -math.inf, math.inf
    most = 100.0 if name in _PERCENTS else 1.0 if name in _WHOLES else math.inf
    return 0.0, most


def _unit(name: str) -> str:
    if name in _SHARES:
        return "share"
    if name in _PERCENTS:
        return "percent"
    if name in _MONEY:
        return "money"
    return next((unit for unit in ("ms", "mb") if name.endswith(f"_{unit}")), "")

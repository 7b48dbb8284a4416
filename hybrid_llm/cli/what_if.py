"""Signals that a person gives in place of live ones: `--signal device.battery=0.1`. It decides nothing itself."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any

from hybrid_llm.policies.source import did_you_mean
from hybrid_llm.router.errors import InvalidRequest
from hybrid_llm.router.pipeline import Pipeline
from hybrid_llm.router.signals import BackendState, BudgetSignals, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.router.types import Location, Request

__all__ = ["Override", "WhatIf", "amend", "parse_overrides"]

_WORDS = {"true": True, "yes": True, "false": False, "no": False}
_ABSENT = frozenset({"none", "null", ""})
_FIXED = frozenset({"name", "location"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One signal as given: *owner* is `device`, `network`, `budget` or a backend's name."""

    owner: str
    field: str
    value: object


class WhatIf(Pipeline):
    """The way of a request up to its decision, with some signals given instead of read."""

    overrides: tuple[Override, ...] = ()

    def snapshot(self, request: Request) -> Signals:
        """What is known now, and what was given."""
        return amend(super().snapshot(request), self.overrides)


def amend(signals: Signals, overrides: Iterable[Override]) -> Signals:
    """*signals* with the given values in place."""
    for override in overrides:
        change: dict[str, Any] = {override.field: override.value}
        if override.owner == "device":
            signals = replace(signals, device=replace(signals.device, **change))
        elif override.owner == "network":
            signals = replace(signals, network=replace(signals.network, **change))
        elif override.owner == "budget":
            signals = replace(signals, budget=replace(signals.budget, **change))
        else:
            states = dict(signals.backends)
            states[override.owner] = replace(states[override.owner], **change)
            signals = replace(signals, backends=states)
    return signals


def parse_overrides(texts: Iterable[str], backends: Mapping[str, Location]) -> tuple[Override, ...]:
    """Read `OWNER.FIELD=VALUE`; a location stands for its first backend, as it does in a policy.

    Raises:
        InvalidRequest: an unknown name, with the nearest known one, or a value of the wrong type.
    """
    return tuple(_parse(text, backends) for text in texts)


def _parse(text: str, backends: Mapping[str, Location]) -> Override:
    path, equals, value = text.partition("=")
    owner, dot, name = path.strip().rpartition(".")
    if not equals or not dot:
        raise _wrong(f"{text!r} is not NAME.FIELD=VALUE, such as device.battery=0.1")
    owner, record = _owner(owner, backends)
    known = {field.name: field for field in fields(record) if field.name not in _FIXED}
    if name not in known:
        raise _wrong(f"`{owner}` has no signal `{name}`: {did_you_mean(name, known)}")
    hint = typing.get_type_hints(record)[name]
    return Override(owner=owner, field=name, value=_value(value.strip(), hint, f"{owner}.{name}"))


def _owner(owner: str, backends: Mapping[str, Location]) -> tuple[str, type]:
    records: dict[str, type] = {"device": DeviceSignals, "network": NetworkSignals, "budget": BudgetSignals}
    if owner in records:
        return owner, records[owner]
    if owner in backends:
        return owner, BackendState
    here = [name for name, place in backends.items() if place.value == owner]
    if here:
        return here[0], BackendState
    raise _wrong(f"there is nothing named `{owner}`: {did_you_mean(owner, [*records, *backends])}")


def _value(text: str, hint: Any, name: str) -> object:
    if isinstance(hint, UnionType):
        if text.lower() in _ABSENT and NoneType in hint.__args__:
            return None
        hint = next(part for part in hint.__args__ if part is not NoneType)
    try:
        return _bool(text) if hint is bool else hint(text)
    except (ValueError, KeyError):
        raise _wrong(f"{name}: {text!r} is not {_says(hint)}") from None


def _bool(text: str) -> bool:
    return _WORDS[text.lower()]


def _says(hint: Any) -> str:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return "one of " + ", ".join(hint)
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "usable")


def _wrong(message: str) -> InvalidRequest:
    return InvalidRequest(f"--signal: {message}", field="signal")

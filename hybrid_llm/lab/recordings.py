"""Reads recorded decisions, which `router.observability.recorder` writes, one line of JSON each.

A missing field has its default, so that lines of an older library can be read; an unknown field, or one of another
type, is an error.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Final, TypeVar

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.signals import BackendState, BudgetSignals, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.observability.recorder import REQUEST_KEYS, VERSION, Decided, Outcome, Recording, keys_of

_NOT_FINITE: Final = ("nan", "inf", "-inf")
_HINT: Final = "`record: {path: decisions.jsonl}` in hybrid.yaml records decisions"
_MAX_COUNT: Final = 1_000_000
_TYPES: Final = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_GROUPS: Final[Mapping[str, type]] = {"device": DeviceSignals, "network": NetworkSignals, "budget": BudgetSignals}
_T = TypeVar("_T")
_hints = cache(typing.get_type_hints)


class _Malformed(Exception):
    """A line is malformed; the message has the reason."""


def read_recordings(path: Path) -> Iterator[Recording]:
    """Yield the recordings in the file at *path*.

    Raises:
        ConfigError: the file cannot be read, or a line is malformed; the message names the line and the fault.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                yield _parse(line, f"{path}:{number}", path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; {_HINT}", path=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it is not UTF-8 text", path=str(path)) from None


def _parse(text: str, position: str, path: Path) -> Recording:
    try:
        return _recording(json.loads(text), position)
    except (ValueError, RecursionError):
        cut = "" if text.endswith("\n") else "; its end is missing"
        raise ConfigError(f"{position}: this is not a line of JSON{cut}", path=str(path)) from None
    except _Malformed as error:
        raise ConfigError(f"{position}: {error}", path=str(path)) from None


def _recording(parts: Any, position: str) -> Recording:
    line = _object(parts, "the line", ("v", "at", "request", "signals", "decision", "outcome"))
    if line.get("v") != VERSION:
        raise _Malformed(f"this version reads recordings of version {VERSION}, not {line.get('v')!r}")
    request, tags = _without(line.get("request"), "request", "tags")
    decision, order = _without(line.get("decision", {}), "decision", "order")
    metadata = replace(_read(RequestMetadata, request, "request", REQUEST_KEYS), privacy=frozenset(tags), created=0.0)
    if not 0 <= metadata.message_count <= _MAX_COUNT or not 0 <= metadata.tool_count <= _MAX_COUNT:
        raise _Malformed("request: messages and tools are counts")
    return Recording(
        at=_value(line.get("at"), float, "at"),
        metadata=metadata,
        signals=_signals(_object(line.get("signals"), "signals", ("device", "network", "budget", "backends"))),
        order=order,
        decided=_read(Decided, decision, "decision"),
        outcome=_read(Outcome, line.get("outcome", {}), "outcome"),
        position=position,
    )


def _without(value: Any, name: str, key: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The object *value* without *key*, and the texts under that."""
    rest = dict(_object(value, name))
    texts = rest.pop(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _Malformed(f"`{name}.{key}` is not a list of texts")
    return rest, tuple(texts)


def _signals(parts: Mapping[str, Any]) -> Signals:
    listed = parts.get("backends", [])
    if not isinstance(listed, list):
        raise _Malformed("signals.backends is not a list")
    states = [_read(BackendState, part, f"signals.backends[{index}]") for index, part in enumerate(listed)]
    groups: dict[str, Any] = {
        name: _read(kind, parts.get(name, {}), f"signals.{name}") for name, kind in _GROUPS.items()
    }
    return Signals(backends={state.name: state for state in states}, **groups)


def _object(value: Any, name: str, known: Iterable[str] = ()) -> Mapping[str, Any]:
    """*value*, which must be an object, with no other keys than those *known*, if any."""
    if not isinstance(value, dict):
        raise _Malformed(f"`{name}` is missing" if value is None else f"`{name}` is not an object")
    unknown = [key for key in value if known and key not in known]
    if unknown:
        raise _Malformed(f"{name} has no field `{unknown[0]}`: {did_you_mean(unknown[0], known)}")
    return value


def _read(record: type[_T], value: Any, name: str, keys: Mapping[str, str] | None = None) -> _T:
    """A flat record from the keys of *value*, each of the type that the record declares for its field."""
    keys = keys or keys_of(record)  # type: ignore[arg-type]  # every class is hashable
    found = _object(value, name, keys)
    for one in fields(record):  # type: ignore[arg-type]  # a dataclass
        if one.default is MISSING and one.default_factory is MISSING and one.name not in found:
            raise _Malformed(f"`{name}.{one.name}` is missing")
    hints = _hints(record)  # type: ignore[arg-type]  # as above
    return record(**{keys[key]: _value(part, hints[keys[key]], f"{name}.{key}") for key, part in found.items()})


def _value(value: Any, hint: Any, name: str) -> Any:
    if isinstance(hint, UnionType):
        if value is None:
            return None
        hint = hint.__args__[0]  # `float | None`
    with suppress(ValueError, OverflowError):
        if issubclass(hint, StrEnum):
            return hint(value)
        if hint is float and type(value) in {int, float}:  # not a bool, which is an int
            return float(value)
        if hint is float and value in _NOT_FINITE:
            return float(value)
        if type(value) is hint:
            return value
    kind = _TYPES.get(hint) or f"one of {', '.join(hint)}"
    raise _Malformed(f"`{name}` is not {kind}")

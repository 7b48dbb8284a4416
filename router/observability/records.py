"""Writes and reads one recorded decision as a line of JSON: metadata and signals, never a text of a request.

A line of version 1 is an object with `v`, `at`, `request`, `signals`, `decision` and `outcome`. A missing field has its
default, so that lines of an older library can be read; an unknown field, or one of another type, is an error.
"""

from __future__ import annotations

import json
import math
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, TypeVar

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.signals import FOR_PEOPLE, BackendState, BudgetSignals, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.observability.hooks import RequestEvent

VERSION: Final = 1
_REQUEST: Final = {
    "id": "request_id",
    "task": "task",
    "tenant": "tenant",
    "prompt_tokens": "prompt_tokens",
    "max_tokens": "max_tokens",
    "deadline": "deadline",
    "messages": "message_count",
    "tools": "tool_count",
    "schema": "has_schema",
}
"""The keys of `request`, and the fields of `RequestMetadata` that they hold; `tags` is its `privacy`."""
_NOT_FINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_MAX_COUNT: Final = 1_000_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The policy that decided, and its rule."""

    policy: str = ""
    digest: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the request ended. *error* is the name of an error class, empty if the answer is complete."""

    backend: str = ""
    error: str = ""
    completion_tokens: int = 0
    ttft_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A finished request. *at* is the Unix time of its start, seconds; *position* is `path:line` if it was read."""

    at: float
    metadata: RequestMetadata
    signals: Signals
    order: tuple[str, ...] = ()
    decided: Decided = field(default_factory=Decided)
    outcome: Outcome = field(default_factory=Outcome)
    position: str = ""


def recording_of(event: RequestEvent) -> Recording:
    """The recording of *event*."""
    decision, timings = event.decision, event.timings
    return Recording(
        at=time.time() - (time.monotonic() - event.metadata.created),
        metadata=event.metadata,
        signals=event.signals,
        order=decision.order,
        decided=Decided(policy=decision.policy, digest=decision.digest, rule=decision.rule),
        outcome=Outcome(
            backend=event.backend,
            error=event.error,
            completion_tokens=event.usage.completion_tokens,
            ttft_ms=timings.ttft_ms,
            total_ms=timings.total_ms,
        ),
    )


def dump(recording: Recording) -> str:
    """*recording* as one line, without its newline."""
    metadata, signals = recording.metadata, recording.signals
    line = {
        "v": VERSION,
        "at": round(recording.at, 3),
        "request": {**_plain(metadata, _REQUEST), "tags": sorted(metadata.privacy)},
        "signals": {
            "device": _plain(signals.device),
            "network": _plain(signals.network),
            "budget": _plain(signals.budget),
            "backends": [_plain(state) for state in signals.backends.values()],
        },
        "decision": {**_plain(recording.decided), "order": recording.order},
        "outcome": _plain(recording.outcome),
    }
    return json.dumps(line, separators=(",", ":"))


def _plain(record: object, names: Mapping[str, str] | None = None) -> dict[str, object]:
    """The fields of a record by their keys in JSON, without those that are None; NaN and infinity become texts."""
    found = {}
    for key, name in (names or _names(type(record))).items():  # type: ignore[arg-type]  # every class is hashable
        value = getattr(record, name)
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)
        if value is not None:
            found[key] = value
    return found


@cache
def _names(record: type) -> Mapping[str, str]:
    return {f.name: f.name for f in fields(record) if f.name not in FOR_PEOPLE}


class _Bad(Exception):
    """A line is malformed; the message says how."""


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
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", path=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it is not UTF-8 text", path=str(path)) from None


def _parse(text: str, position: str, path: Path) -> Recording:
    try:
        return _recording(json.loads(text), position)
    except (ValueError, RecursionError):
        cut = "" if text.endswith("\n") else "; its end is missing"
        raise ConfigError(f"{position}: this is not a line of JSON{cut}", path=str(path)) from None
    except _Bad as bad:
        raise ConfigError(f"{position}: {bad}", path=str(path)) from None


def _recording(parts: Any, position: str) -> Recording:
    known = ("v", "at", "request", "signals", "decision", "outcome")
    line = _object(parts, "the line", known)
    if line.get("v") != VERSION:
        raise _Bad(f"this version reads recordings of version {VERSION}, not {line.get('v')!r}")
    decision = dict(_object(line.get("decision", {}), "decision"))
    order = _strings(decision.pop("order", []), "decision.order")
    signals = _signals(_object(line.get("signals"), "signals", ("device", "network", "budget", "backends")))
    return Recording(
        at=_value(line.get("at"), float, "at"),
        metadata=_metadata(dict(_object(line.get("request"), "request"))),
        signals=signals,
        order=order,
        decided=_read(Decided, decision, "decision"),
        outcome=_read(Outcome, line.get("outcome", {}), "outcome"),
        position=position,
    )


def _metadata(parts: dict[str, Any]) -> RequestMetadata:
    tags = frozenset(_strings(parts.pop("tags", []), "request.tags"))
    found = replace(_read(RequestMetadata, parts, "request", _REQUEST), privacy=tags, created=0.0)
    if not 0 <= found.message_count <= _MAX_COUNT or not 0 <= found.tool_count <= _MAX_COUNT:
        raise _Bad("request: messages and tools are counts")
    return found


def _signals(parts: Mapping[str, Any]) -> Signals:
    listed = parts.get("backends", [])
    if not isinstance(listed, list):
        raise _Bad("signals.backends is not a list")
    states = [_read(BackendState, part, f"signals.backends[{index}]") for index, part in enumerate(listed)]
    return Signals(
        device=_read(DeviceSignals, parts.get("device", {}), "signals.device"),
        network=_read(NetworkSignals, parts.get("network", {}), "signals.network"),
        budget=_read(BudgetSignals, parts.get("budget", {}), "signals.budget"),
        backends={state.name: state for state in states},
    )


def _object(value: Any, name: str, known: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _Bad(f"`{name}` is missing" if value is None else f"`{name}` is not an object")
    unknown = [key for key in value if known and key not in known]
    if unknown:
        raise _Bad(f"{name} has no field `{unknown[0]}`: {did_you_mean(unknown[0], known)}")
    return value


def _read(record: type[T], value: Any, name: str, names: Mapping[str, str] | None = None) -> T:
    """A flat record from the keys of *value*, each of the type that the record declares for its field."""
    hints, required = _types(record)  # type: ignore[arg-type]  # every class is hashable
    names = names or _names(record)  # type: ignore[arg-type]  # as above
    found = _object(value, name, tuple(names))
    missing = [key for key in required if key not in found]
    if missing:
        raise _Bad(f"`{name}.{missing[0]}` is missing")
    return record(**{names[key]: _value(part, hints[names[key]], f"{name}.{key}") for key, part in found.items()})


@cache
def _types(record: type) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The type of each field, and the fields without a default."""
    required = [f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING]
    return typing.get_type_hints(record), tuple(required)


def _value(value: Any, hint: Any, name: str) -> Any:
    if isinstance(hint, UnionType):
        if value is None:
            return None
        hint = next(part for part in hint.__args__ if part is not NoneType)
    reader = _READERS.get(hint) or _READERS[StrEnum]
    try:
        return reader(value, hint)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise _Bad(f"`{name}` is not {_kind(hint)}") from None


def _kind(hint: Any) -> str:
    if issubclass(hint, StrEnum):
        return f"one of {', '.join(hint)}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[hint]


def _float(value: Any, _: Any) -> float:
    if isinstance(value, str):
        return _NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _exactly(value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


_READERS: Final[Mapping[Any, Callable[[Any, Any], Any]]] = {
    float: _float,
    int: _exactly,
    bool: _exactly,
    str: _exactly,
    StrEnum: lambda value, kind: kind(_exactly(value, str)),
}


def _strings(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Bad(f"`{name}` is not a list of texts")
    return tuple(value)

"""One recorded decision as a line of JSON, and back: metadata and signals; never a text of a request.

A line of version 1 is an object with `v`, `at`, `request`, `signals`, `decision` and `outcome`. Fields that are absent
have their default, so that lines of an older library can be read; one that is unknown, or of another type, is told.
"""

from __future__ import annotations

import json
import math
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
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
_NO_NUMBERS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The metadata of a request, as they are written. *deadline* is in seconds."""

    id: str = ""
    task: str = "chat"
    tenant: str | None = None
    prompt_tokens: int = 0
    max_tokens: int = 256
    deadline: float = 60.0
    messages: int = 1
    tools: int = 0
    schema: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What the policy in force said then."""

    policy: str = ""
    digest: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. *error* is the name of an error's class, empty when the answer was complete."""

    backend: str = ""
    error: str = ""
    completion_tokens: int = 0
    ttft_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One request, over. *at* is when it began, Unix time in seconds; *place* is `path:line` of one that was read."""

    at: float
    metadata: RequestMetadata
    signals: Signals
    order: tuple[str, ...] = ()
    decided: Decided = field(default_factory=Decided)
    outcome: Outcome = field(default_factory=Outcome)
    place: str = ""


def recording_of(event: RequestEvent) -> Recording:
    """What is kept of *event*."""
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
    """*recording* as one line, without its end."""
    metadata, signals = recording.metadata, recording.signals
    asked = Asked(
        id=metadata.request_id,
        task=metadata.task,
        tenant=metadata.tenant,
        prompt_tokens=metadata.prompt_tokens,
        max_tokens=metadata.max_tokens,
        deadline=metadata.deadline,
        messages=metadata.message_count,
        tools=metadata.tool_count,
        schema=metadata.has_schema,
    )
    line = {
        "v": VERSION,
        "at": round(recording.at, 3),
        "request": {**_plain(asked), "tags": sorted(metadata.privacy)},
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


def _plain(record: object) -> dict[str, object]:
    """The fields of a record, without those that are absent or are only for people; no number is left out of JSON."""
    found = {}
    for name in _names(type(record)):  # type: ignore[arg-type]  # every class can be hashed
        value = getattr(record, name)
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)
        if value is not None:
            found[name] = value
    return found


@cache
def _names(record: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(record) if f.name not in FOR_PEOPLE)


class _Bad(Exception):
    """What is wrong with a line."""


def read_recordings(path: Path) -> Iterator[Recording]:
    """The recordings in the file at *path*, one after the other.

    Raises:
        ConfigError: the file cannot be read, or a line is wrong; the message says which and why.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                yield _line(line, f"{path}:{number}")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", path=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it is not UTF-8 text", path=str(path)) from None
    except _Bad as bad:
        raise ConfigError(str(bad), path=str(path)) from None


def _line(text: str, place: str) -> Recording:
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError):
        cut = "" if text.endswith("\n") else "; its end is missing"
        raise _Bad(f"{place}: this is not a line of JSON{cut}") from None
    try:
        return _recording(parts, place)
    except _Bad as bad:
        raise _Bad(f"{place}: {bad}") from None


def _recording(parts: Any, place: str) -> Recording:
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
        place=place,
    )


def _metadata(parts: dict[str, Any]) -> RequestMetadata:
    tags = frozenset(_strings(parts.pop("tags", []), "request.tags"))
    asked = _read(Asked, parts, "request")
    if not 0 <= asked.messages <= 1_000_000 or not 0 <= asked.tools <= 1_000_000:
        raise _Bad("request: messages and tools are counts")
    return RequestMetadata(
        message_count=asked.messages,
        task=asked.task,
        privacy=tags,
        max_tokens=asked.max_tokens,
        deadline=asked.deadline,
        created=0.0,
        has_schema=asked.schema,
        tool_count=asked.tools,
        tenant=asked.tenant,
        request_id=asked.id,
        prompt_tokens=asked.prompt_tokens,
    )


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


def _read(record: type[T], value: Any, name: str) -> T:
    """A flat record of *value*'s fields, each of the type that the record declares."""
    hints, needed = _shape(record)  # type: ignore[arg-type]  # every class can be hashed
    found = _object(value, name, tuple(hints))
    absent = [key for key in needed if key not in found]
    if absent:
        raise _Bad(f"`{name}.{absent[0]}` is missing")
    return record(**{key: _value(part, hints[key], f"{name}.{key}") for key, part in found.items()})


@cache
def _shape(record: type) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The type of each field, and the fields that have no default."""
    hints = typing.get_type_hints(record)
    declared = [f for f in fields(record) if f.name not in FOR_PEOPLE]
    needed = [f.name for f in declared if f.default is MISSING and f.default_factory is MISSING]
    return {f.name: hints[f.name] for f in declared}, tuple(needed)


def _value(value: Any, hint: Any, name: str) -> Any:
    if isinstance(hint, UnionType):
        if value is None:
            return None
        hint = next(part for part in hint.__args__ if part is not NoneType)
    reader = _READERS.get(hint) or _READERS[StrEnum]
    try:
        return reader(value, hint)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise _Bad(f"`{name}` is not {_says(hint)}") from None


def _says(hint: Any) -> str:
    if issubclass(hint, StrEnum):
        return f"one of {', '.join(hint)}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[hint]


def _double(value: Any, _: Any) -> float:
    if isinstance(value, str):
        return _NO_NUMBERS[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _exactly(value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


_READERS: Final[Mapping[Any, Callable[[Any, Any], Any]]] = {
    float: _double,
    int: _exactly,
    bool: _exactly,
    str: _exactly,
    StrEnum: lambda value, kind: kind(_exactly(value, str)),
}


def _strings(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Bad(f"`{name}` is not a list of texts")
    return tuple(value)

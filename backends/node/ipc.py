"""The messages between the supervisor and the engine's process, as frames of JSON over a pair of pipes. No I/O here.

The supervisor sends `Start`, then `EngineRequest` and `Abort`. The worker sends `Progress` while it loads, `Ready` or
`Refused`, then a `Step` for each step with outputs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from hybrid_llm.backends.node.engine import (
    EngineConfig,
    EngineFault,
    EngineInfo,
    EngineLoad,
    EngineOutput,
    EngineRequest,
)
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling

HEADER = struct.Struct(">I")
"""Precedes each frame: the length of its body in bytes."""


@dataclass(frozen=True, slots=True)
class Start:
    """Load this model."""

    config: EngineConfig


@dataclass(frozen=True, slots=True)
class Abort:
    """Abort this request."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The phase of loading that has begun."""

    phase: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine accepts requests."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class Refused:
    """The engine cannot start: message and path of the `ConfigError`."""

    message: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """The outputs of one step."""

    outputs: tuple[EngineOutput, ...]
    load: EngineLoad


ToEngine = Start | EngineRequest | Abort
FromEngine = Progress | Ready | Refused | Step
Message = ToEngine | FromEngine


def encode(message: Message) -> bytes:
    """Return the frame of *message*, header included.

    Raises:
        TypeError, ValueError: a field of the message cannot be written as JSON.
    """
    fields = _WRITERS[type(message)](message)
    body = json.dumps([type(message).__name__, *fields], separators=(",", ":"), check_circular=False).encode()
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """Return the message in the *body* of a frame."""
    kind, *fields = json.loads(body)
    return _READERS[kind](fields)


def _write_start(message: Start) -> list[Any]:
    return [{**asdict(message.config), "model": str(message.config.model)}]


def _read_start(fields: list[Any]) -> Start:
    return Start(EngineConfig(**{**fields[0], "model": Path(fields[0]["model"])}))


def _write_request(message: EngineRequest) -> list[Any]:
    values = {name: getattr(message, name) for name in EngineRequest.__dataclass_fields__}
    sampling = {**asdict(message.sampling), "stop": ()}  # the servicer applies stop texts; they stay with it
    return [{**values, "sampling": sampling, "eos_ids": list(message.eos_ids)}]


def _read_request(fields: list[Any]) -> EngineRequest:
    values = fields[0]
    values |= {"prompt_ids": tuple(values["prompt_ids"]), "eos_ids": frozenset(values["eos_ids"])}
    return EngineRequest(**values | {"sampling": Sampling(**values["sampling"] | {"stop": ()})})


def _write_step(message: Step) -> list[Any]:
    return [[_output_fields(output) for output in message.outputs], astuple(message.load)]


def _output_fields(output: EngineOutput) -> list[Any]:
    error = None if output.error is None else [output.error.code, output.error.message]
    queue_ms = round(output.queue_ms, 3)
    return [output.request_id, output.token_ids, output.finish_reason, queue_ms, output.cached_tokens, error]


def _read_step(fields: list[Any]) -> Step:
    outputs, load = fields
    return Step(tuple(map(_read_output, outputs)), EngineLoad(**dict(zip(_LOAD, load, strict=True))))


def _read_output(fields: list[Any]) -> EngineOutput:
    request_id, token_ids, finish_reason, queue_ms, cached_tokens, error = fields
    return EngineOutput(
        request_id=request_id,
        token_ids=tuple(token_ids),
        finish_reason=None if finish_reason is None else FinishReason(finish_reason),
        queue_ms=queue_ms,
        cached_tokens=cached_tokens,
        error=None if error is None else EngineFault(code=error[0], message=error[1]),
    )


_LOAD = tuple(EngineLoad.__dataclass_fields__)
_WRITERS: dict[type, Callable[[Any], list[Any]]] = {
    Start: _write_start,
    EngineRequest: _write_request,
    Abort: lambda message: [message.request_id],
    Progress: lambda message: [message.phase],
    Ready: lambda message: [asdict(message.info)],
    Refused: lambda message: [message.message, message.path],
    Step: _write_step,
}
_READERS: dict[str, Callable[[list[Any]], Message]] = {
    "Start": _read_start,
    "EngineRequest": _read_request,
    "Abort": lambda fields: Abort(*fields),
    "Progress": lambda fields: Progress(*fields),
    "Ready": lambda fields: Ready(EngineInfo(**fields[0])),
    "Refused": lambda fields: Refused(*fields),
    "Step": _read_step,
}

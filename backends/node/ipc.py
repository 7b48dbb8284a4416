"""How front and engine process talk: frames of JSON over a pair of pipes. Records to bytes and back; no I/O, no state.

Front to engine: a `Start`, then `EngineRequest` and `Abort`. Engine to front: `Progress` while it loads, `Ready` or
`Refused`, then one `Step` for each step that has news.

Where the outputs of one request wait for their reader, joined to one, so that a slow reader costs no memory.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

from hybrid_llm.backends.node.engine import (
    EngineConfig,
    EngineDied,
    EngineFault,
    EngineInfo,
    EngineLoad,
    EngineOutput,
    EngineRequest,
)
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling

HEADER = struct.Struct(">I")
"""Comes before each frame: its length in bytes."""


@dataclass(frozen=True, slots=True)
class Start:
    """Load this."""

    config: EngineConfig


@dataclass(frozen=True, slots=True)
class Abort:
    """Give this request up."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What the engine is loading now."""

    phase: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine takes requests."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class Refused:
    """The engine cannot start: the message and path of a `ConfigError`."""

    message: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one step."""

    outputs: tuple[EngineOutput, ...]
    load: EngineLoad


ToEngine = Start | EngineRequest | Abort
FromEngine = Progress | Ready | Refused | Step
Message = ToEngine | FromEngine


def encode(message: Message) -> bytes:
    """A frame with its header.

    Raises:
        TypeError, ValueError: a field of the message has no form in JSON.
    """
    fields = _WRITERS[type(message)](message)
    body = json.dumps([type(message).__name__, *fields], separators=(",", ":"), check_circular=False).encode()
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """The message of a frame without its header."""
    kind, *fields = json.loads(body)
    return _READERS[kind](fields)


def _write_start(message: Start) -> list[Any]:
    return [{**asdict(message.config), "model": str(message.config.model)}]


def _read_start(fields: list[Any]) -> Start:
    return Start(EngineConfig(**{**fields[0], "model": Path(fields[0]["model"])}))


def _write_request(message: EngineRequest) -> list[Any]:
    sampling = {**asdict(message.sampling), "stop": ()}
    return [
        message.request_id,
        message.prompt_ids,
        message.max_tokens,
        sampling,
        list(message.eos_ids),
        message.expires,
        message.output_schema,
        message.answer_prefix,
        message.salt,
    ]


def _read_request(fields: list[Any]) -> EngineRequest:
    request_id, prompt_ids, max_tokens, sampling, eos_ids, expires, output_schema, answer_prefix, salt = fields
    return EngineRequest(
        request_id=request_id,
        prompt_ids=tuple(prompt_ids),
        max_tokens=max_tokens,
        sampling=Sampling(**{**sampling, "stop": ()}),
        eos_ids=frozenset(eos_ids),
        expires=expires,
        output_schema=output_schema,
        answer_prefix=answer_prefix,
        salt=salt,
    )


def _write_step(message: Step) -> list[Any]:
    return [[_output_fields(output) for output in message.outputs], astuple(message.load)]


def _output_fields(output: EngineOutput) -> list[Any]:
    error = None if output.error is None else [output.error.code, output.error.message]
    queue_ms = round(output.queue_ms, 3)
    return [output.request_id, output.token_ids, output.finish_reason, queue_ms, output.cached_tokens, error]


def _read_step(fields: list[Any]) -> Step:
    outputs, load = fields
    return Step(tuple(_read_output(*output) for output in outputs), EngineLoad(**dict(zip(_LOAD, load, strict=True))))


def _read_output(
    request_id: str,
    token_ids: list[int],
    finish_reason: str | None,
    queue_ms: float,
    cached_tokens: int,
    error: list[Any] | None,
) -> EngineOutput:
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


class Outlet:
    """One reader, one writer, one event loop. What was put is read before a failure is raised."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._output: EngineOutput | None = None
        self._failure: EngineDied | None = None
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._on_expiry: Callable[[], None] = lambda: None
        self.finished = False
        """The engine has said its last word on this request."""

    def expire_at(self, instant: float, on_expiry: Callable[[], None]) -> None:
        """End with a deadline fault at *instant* of `time.monotonic()`, should the engine stay silent till then.

        *on_expiry* is called when that happens.
        """
        self._on_expiry = on_expiry
        if math.isfinite(instant):
            delay = max(0.0, instant - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def put(self, output: EngineOutput) -> None:
        """Add what the engine says. Nothing counts after the last output."""
        if self.finished:
            return
        self.finished = output.last
        self._add(output)

    def fail(self, failure: EngineDied) -> None:
        """The engine went away: raise *failure* once all outputs are read."""
        if not self.finished:
            self.finished = True
            self._failure = failure
            self._news.set()

    async def take(self) -> EngineOutput:
        """All that came since the last call, as one output; waits for it.

        Raises:
            EngineDied: the engine went away.
        """
        await self._news.wait()
        output, self._output = self._output, None
        if output is not None:
            if self._failure is None:
                self._news.clear()
            return output
        assert self._failure is not None
        raise self._failure

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _add(self, output: EngineOutput) -> None:
        token_ids = output.token_ids if self._output is None else self._output.token_ids + output.token_ids
        self._output = replace(output, request_id=self._request_id, token_ids=token_ids)
        self._news.set()

    def _expire(self) -> None:
        if not self.finished:
            fault = EngineFault(code="deadline", message="the deadline passed, and the engine did not answer")
            self._add(EngineOutput(request_id=self._request_id, error=fault))
            self._on_expiry()

"""The messages between the supervisor and the engine's process, as frames of JSON over a pair of pipes. No I/O here.

The supervisor sends `Start`, then `EngineRequest` and `Abort`. The worker sends `Progress` while it loads, `Ready` or
`Refused`, then a `Step` for each step with outputs; and a `Pulse` each second, from a thread of its own.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Self

from hybrid_llm.backends.node.engine import (
    EngineConfig,
    EngineFault,
    EngineInfo,
    EngineLoad,
    EngineOutput,
    EngineRequest,
)
from hybrid_llm.backends.node.liveness import Pulse, StallLimits
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.backends.token_names import TokenScores
from hybrid_llm.core.errors import ConfigError, UntrustedModel
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
    """The engine cannot start: message and path of the `ConfigError`; with a *reason*, of the `UntrustedModel`."""

    message: str
    path: str | None
    reason: str = ""

    @classmethod
    def of(cls, error: ConfigError | UntrustedModel) -> Self:
        """What reports *error*."""
        if isinstance(error, UntrustedModel):
            return cls(str(error), error.model, error.reason)
        return cls(str(error), error.path)

    @property
    def error(self) -> ConfigError | UntrustedModel:
        """The error again."""
        if self.reason:
            return UntrustedModel(self.message, model=self.path or "", reason=self.reason)
        return ConfigError(self.message, path=self.path)


@dataclass(frozen=True, slots=True)
class Step:
    """The outputs of one step."""

    outputs: tuple[EngineOutput, ...]
    load: EngineLoad


ToEngine = Start | EngineRequest | Abort
FromEngine = Progress | Ready | Refused | Step | Pulse
Message = ToEngine | FromEngine


def encode(message: Message) -> bytes:
    """Return the frame of *message*, header included.

    Raises:
        TypeError, ValueError: a field of the message cannot be written as JSON.
    """
    pair = [type(message).__name__, message]
    body = json.dumps(pair, default=_plain, separators=(",", ":"), check_circular=False).encode()
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """Return the message in the *body* of a frame."""
    kind, fields = json.loads(body)
    return _READERS[kind](**fields)


def _plain(value: Any) -> Any:
    """What JSON has for a value that it does not know."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if not is_dataclass(value):
        raise TypeError(f"a {type(value).__name__} cannot be sent")
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _read_config(
    model: str,
    python: str | None,
    adapters: dict[str, str],
    limits: dict[str, float],
    trust: dict[str, str | None] | None,
    **fields: Any,
) -> EngineConfig:
    return EngineConfig(
        model=Path(model),
        python=None if python is None else Path(python),
        adapters={name: Path(folder) for name, folder in adapters.items()},
        limits=StallLimits(**limits),
        trust=None if trust is None else _read_trust(**trust),
        **fields,
    )


def _read_trust(ca: str | None, identity: str | None, key: str | None) -> Trust:
    return Trust(ca=None if ca is None else Path(ca), identity=identity, key=None if key is None else Path(key))


def _read_request(
    prompt_ids: list[int],
    sampling: dict[str, Any],
    eos_ids: list[int],
    grammar_prefix: list[str | int],
    **fields: Any,
) -> EngineRequest:
    return EngineRequest(
        prompt_ids=tuple(prompt_ids),
        grammar_prefix=tuple(grammar_prefix),
        sampling=Sampling(**sampling | {"stop": (), "explicit": ()}),
        eos_ids=frozenset(eos_ids),
        **fields,
    )


def _read_output(
    token_ids: list[int],
    scores: list[tuple[float, list[tuple[int, float]]]],
    finish_reason: str | None,
    error: dict[str, Any] | None,
    **fields: Any,
) -> EngineOutput:
    return EngineOutput(
        token_ids=tuple(token_ids),
        scores=tuple([TokenScores(logprob, tuple([(id_, each) for id_, each in top])) for logprob, top in scores]),
        finish_reason=None if finish_reason is None else FinishReason(finish_reason),
        error=None if error is None else EngineFault(**error),
        **fields,
    )


def _read_load(load: dict[str, Any]) -> EngineLoad:
    return EngineLoad(**_tuples(load, "running_adapters", "waiting_adapters"))


def _tuples(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """*fields*, in which JSON has made lists of the tuples *names*."""
    return fields | {name: tuple(fields[name]) for name in names}


_READERS: dict[str, Callable[..., Message]] = {
    "Start": lambda config: Start(_read_config(**config)),
    "EngineRequest": _read_request,
    "Abort": Abort,
    "Progress": Progress,
    "Ready": lambda info: Ready(EngineInfo(**_tuples(info, "adapters"))),
    "Refused": Refused,
    "Pulse": Pulse,
    "Step": lambda outputs, load: Step(tuple(_read_output(**each) for each in outputs), _read_load(load)),
}

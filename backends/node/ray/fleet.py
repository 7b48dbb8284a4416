"""What a front knows of its replicas: which there are, what they run and how busy they are. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, cast

from hybrid_llm.backends.node.engine import EngineInfo, EngineLoad
from hybrid_llm.backends.node.ray import messages
from hybrid_llm.protos import engine_pb2 as pb

_LOADS: Final = fields(EngineLoad)
_FLAGS: Final = [each.name for each in fields(EngineInfo) if isinstance(each.default, bool)]
FORGET_S: Final = 10.0
"""Seconds after which a replica that is not heard of is taken as gone."""
_FAILURES: Final = 3
"""Questions in a row that nobody answers, after which all replicas are taken as gone."""


@dataclass(frozen=True, slots=True)
class _Replica:
    heard: float
    ready: bool
    load: EngineLoad
    info: EngineInfo | None


class Fleet:
    """The replicas whose tokenizer has the digest *tokenizer*; times are in seconds, of one monotonic clock."""

    def __init__(self, tokenizer: str) -> None:
        self._tokenizer = tokenizer
        self._replicas: dict[str, _Replica] = {}
        self._failures = 0
        self._info: EngineInfo | None = None
        self.strangers = False
        """Whether the last replica that was heard of has another tokenizer."""

    def heard(self, state: pb.ReplicaState, now: float) -> None:
        """Take what a replica says of itself."""
        self._failures = 0
        self.strangers = state.tokenizer != self._tokenizer
        if self.strangers:
            self._replicas.pop(state.replica, None)
            return
        info = messages.info_from_wire(state) if state.HasField("info") else None
        self._replicas[state.replica] = _Replica(now, state.ready, messages.load_from_wire(state), info)

    def full(self) -> None:
        """A replica answered that it takes no more: it is there."""
        self._failures = 0

    def unanswered(self) -> None:
        """Nobody answered."""
        self._failures += 1
        if self._failures >= _FAILURES:
            self._replicas.clear()

    def forget(self, now: float) -> None:
        """Drop the replicas that have been silent for too long."""
        self._replicas = {name: each for name, each in self._replicas.items() if now - each.heard < FORGET_S}

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def ready(self) -> int:
        """How many can take a request."""
        return sum(each.ready for each in self._replicas.values())

    @property
    def info(self) -> EngineInfo | None:
        """What they run, with the slots of all; the last that was known while there are none.

        Where an update has left some with another model, it says what all of them can do.
        """
        infos = [each.info for each in self._replicas.values() if each.info is not None]
        if infos:
            self._info = _common(infos)
        return self._info

    def load(self) -> EngineLoad:
        """How busy they are, all together."""
        loads = [each.load for each in self._replicas.values()] or [EngineLoad()]
        return EngineLoad(**{each.name: _joined([getattr(load, each.name) for load in loads]) for each in _LOADS})


def _joined(values: Sequence[int] | Sequence[tuple[str, ...]]) -> Any:
    """The sum of numbers, or the names that are in any of the tuples."""
    if values and isinstance(values[0], tuple):
        return tuple(sorted({name for names in values for name in cast(tuple[str, ...], names)}))
    return sum(cast(Sequence[int], values))


def _common(infos: Sequence[EngineInfo]) -> EngineInfo:
    """The latest of *infos*, with what all of them can do and the slots of all."""
    latest = infos[-1]
    flags: dict[str, Any] = {name: all(getattr(each, name) for each in infos) for name in _FLAGS}
    return replace(
        latest,
        vocab_size=min(each.vocab_size for each in infos),
        context_window=min(each.context_window for each in infos),
        slots=sum(each.slots for each in infos),
        adapters=tuple([name for name in latest.adapters if all(name in each.adapters for each in infos)]),
        **flags,
    )

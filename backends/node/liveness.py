"""Whether the engine's process makes progress, judged from its pulses alone and never from calls. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.fields import Number, key

PULSE_S: Final = 1.0
"""Seconds between two pulses of the worker."""
_SUSPECTED_S: Final = 5.0
_LOADING_FACTOR: Final = 4.0
"""While a model is loaded, imports may hold Python's lock for many seconds, so pulses may be late by this factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StallLimits(Checked):
    """When an engine that does not move is taken as hung."""

    stall: float = key(
        Number(1.0, 3600.0),
        "Seconds without progress after which the engine's process is killed and restarted; after 5 s, or half of it "
        "if that is less, health reports NOT_SERVING until there is progress again. Each layer of the model that is "
        "computed is progress: raise it only for a model of which a single layer takes as long.",
        default=15.0,
    )
    load: float = key(
        Number(1.0, 86_400.0), "Seconds that loading the model may take before it is started again.", default=1800.0
    )


class Liveness(Enum):
    """What the supervisor makes of the time without progress."""

    ALIVE = "alive"
    SUSPECTED = "suspected"
    """New requests go elsewhere, and so do those without an answer so far; those that have begun wait."""
    HUNG = "hung"
    """The process is to be killed."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the worker's own thread reports each second, whatever its engine does."""

    beats: int
    """Grows with every command, step and layer of the model that the engine computes."""
    busy: bool
    """Whether the engine works, and does not wait for a command."""


class ProgressMonitor:
    """Adds up the time without progress of one process.

    Progress is a pulse whose beats have grown, or one of an engine that has nothing to do. A pulse alone is none: its
    thread lives on when the engine has stopped in a deadlock.
    """

    def __init__(self, limits: StallLimits) -> None:
        self._limits = limits
        self._loading = True
        self._beats = -1
        self._owes = False
        self._stalled_s = self._loading_s = 0.0

    def loaded(self) -> None:
        """The model is loaded: from now on the engine owes progress."""
        self._loading = False
        self._stalled_s = 0.0

    def pulse(self, pulse: Pulse, *, wanted: bool) -> None:
        """Take a pulse; *wanted* is whether requests are unanswered."""
        moved = pulse.beats != self._beats
        self._owes = self._owes and not moved
        if self._loading or moved or not (pulse.busy or wanted or self._owes):
            self._stalled_s = 0.0
        self._beats = pulse.beats

    def returned(self) -> None:
        """Requests were taken from the engine since it does not move: to have nothing to do is no progress now."""
        self._owes = True

    def elapse(self, seconds: float) -> Liveness:
        """Judge after *seconds* more, during which the supervisor would have taken a pulse that came."""
        self._stalled_s += seconds
        if self._loading:
            self._loading_s += seconds
            late = self._stalled_s >= _LOADING_FACTOR * self._limits.stall or self._loading_s >= self._limits.load
            return Liveness.HUNG if late else Liveness.ALIVE
        if self._stalled_s >= self._limits.stall:
            return Liveness.HUNG
        suspected = self._stalled_s >= min(_SUSPECTED_S, self._limits.stall / 2)
        return Liveness.SUSPECTED if suspected else Liveness.ALIVE

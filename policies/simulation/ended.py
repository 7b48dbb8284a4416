"""How one simulated request ended, and how a whole run went: records only; who counts them is in `summary`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hybrid_llm.policies.simulation.arrivals import Arrival
from hybrid_llm.router.types import Location

__all__ = ["Ended", "How", "Run", "Sample"]


class How(StrEnum):
    """Every request ends in exactly one of these ways."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """The policy or the state of the world left nobody: `NoEligibleBackend`."""
    FAILED = "failed"
    """Everyone who was asked failed, or a stream broke off: `AllBackendsFailed`, `StreamInterrupted`."""
    LATE = "late"
    """The deadline was over: `DeadlineExceeded`."""
    OFF = "off"
    """The device had no energy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One request, over."""

    arrival: Arrival
    how: How
    at_s: float
    location: Location | None = None
    """Where the answer came from, or was coming from."""
    ttft_ms: float = 0.0
    """From the request to the first token; 0 without one."""
    total_ms: float = 0.0
    cost: float = 0.0
    bound: bool = False
    """Its tags do not allow the cloud."""
    left: bool = False
    """It was sent to the cloud although it is *bound*: never, or something is wrong."""
    would_leave: bool = False
    """It is *bound*; without its tags the same policy would have sent it to the cloud."""
    pseudonymised: bool = False
    """It was sent to the cloud in that form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The device at one instant of the run."""

    at_s: float
    battery: float | None
    temperature_c: float
    cost: float
    """Spent since the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One policy over one trace. Energy is the device's alone, joules."""

    policy: str
    digest: str
    ended: tuple[Ended, ...]
    samples: tuple[Sample, ...]
    energy_j: float
    model_energy_j: float
    """The part of *energy_j* that answering took: the model and the radio."""
    on_s: float
    peak_c: float
    battery: float | None
    """At the end, 0 to 1; None without a battery."""

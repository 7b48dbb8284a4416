"""The outcome of each simulated request, the record of a run, and the figures per policy that are made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hybrid_llm.core.request import Location
from hybrid_llm.lab.simulate.trace import Arrival


class Status(StrEnum):
    """How a request ended: exactly one of these."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """No backend was eligible: `NoEligibleBackend`."""
    FAILED = "failed"
    """All backends failed, or a stream broke off: `AllBackendsFailed`, `StreamInterrupted`."""
    LATE = "late"
    """The deadline passed: `DeadlineExceeded`."""
    OFF = "off"
    """The device had no energy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One request that has ended."""

    arrival: Arrival
    status: Status
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
    outcomes: tuple[Outcome, ...]
    samples: tuple[Sample, ...]
    energy_j: float
    model_energy_j: float
    """The part of *energy_j* that answers took: the model and the radio."""
    on_s: float
    peak_c: float
    battery: float | None
    """At the end, 0 to 1; None without a battery."""


_J_PER_WH = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """The service level that all policies of a comparison are measured by; None is not measured."""

    ttft_ms: float | None = None
    """The longest time to first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of the answered requests, ms, by nearest rank; None where nothing was answered."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The figures of one policy over one trace. The first six counts add up to *requests*."""

    policy: str
    digest: str
    requests: int
    edge: int
    cloud: int
    refused: int
    failed: int
    late: int
    off: int
    ttft_ms: Percentiles
    latency_ms: Percentiles
    slow: int
    """Answered, with the first token after the goal."""
    missed: int
    """Slow, late or not answered at all: every request that missed its service level."""
    cost: float
    energy_wh: float
    """All that the device drew."""
    model_energy_wh: float
    """The part that answers took."""
    battery: float | None
    """At the end."""
    least_battery: float | None
    peak_c: float
    bound: int
    """Requests whose tags do not allow the cloud."""
    bound_answered: int
    """... answered on the device."""
    bound_left: int
    """... sent to the cloud: 0, or something is wrong."""
    would_leave: int
    """... that the same policy would have sent to the cloud, had they no tags."""
    pseudonymised: int


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that *share* of all values do not exceed (nearest rank); *ordered* is sorted."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _percentiles(values: Sequence[float]) -> Percentiles:
    ordered = sorted(values)
    return Percentiles(p50=percentile(ordered, 0.5), p95=percentile(ordered, 0.95), p99=percentile(ordered, 0.99))


def summarise(run: Run, goals: Goals) -> Summary:
    """The figures of *run*."""
    answered = [one for one in run.outcomes if one.status is Status.ANSWERED]
    bound = [one for one in run.outcomes if one.bound]
    slow = sum(one.ttft_ms > goals.ttft_ms for one in answered) if goals.ttft_ms is not None else 0
    levels = [sample.battery for sample in run.samples if sample.battery is not None]
    return Summary(
        policy=run.policy,
        digest=run.digest,
        requests=len(run.outcomes),
        edge=sum(one.location is Location.EDGE for one in answered),
        cloud=sum(one.location is Location.CLOUD for one in answered),
        refused=_count(run, Status.REFUSED),
        failed=_count(run, Status.FAILED),
        late=_count(run, Status.LATE),
        off=_count(run, Status.OFF),
        ttft_ms=_percentiles([one.ttft_ms for one in answered]),
        latency_ms=_percentiles([one.total_ms for one in answered]),
        slow=slow,
        missed=slow + len(run.outcomes) - len(answered),
        cost=math.fsum(one.cost for one in run.outcomes),
        energy_wh=run.energy_j / _J_PER_WH,
        model_energy_wh=run.model_energy_j / _J_PER_WH,
        battery=run.battery,
        least_battery=min(levels, default=None),
        peak_c=run.peak_c,
        bound=len(bound),
        bound_answered=sum(one.status is Status.ANSWERED for one in bound),
        bound_left=_true(bound, "left"),
        would_leave=_true(bound, "would_leave"),
        pseudonymised=_true(run.outcomes, "pseudonymised"),
    )


def _count(run: Run, status: Status) -> int:
    return sum(one.status is status for one in run.outcomes)


def _true(outcomes: Sequence[Outcome], name: str) -> int:
    return sum(bool(getattr(one, name)) for one in outcomes)

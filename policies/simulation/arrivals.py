"""The requests of a trace, as apps would send them: the noun, the tags that a seed draws, and a made-up trace.

Where a file is read: `policies.simulation.traces`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hybrid_llm.policies.simulation.spans import DAY_S

__all__ = ["TASKS", "Arrival", "Trace", "at_rate", "made_up", "with_tags"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request. What a trace does not say is None, and taken from the world."""

    at_s: float
    """Seconds since the start of the trace."""
    prompt_tokens: int
    output_tokens: int
    """Tokens that the answer would have, if nothing cuts it."""
    max_tokens: int | None = None
    deadline_s: float | None = None
    task: str = "chat"
    tags: frozenset[str] = frozenset()
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests in the order of time, and where they come from, for people."""

    arrivals: tuple[Arrival, ...]
    source: str

    @property
    def span_s(self) -> float:
        """From the first request to the last."""
        return self.arrivals[-1].at_s - self.arrivals[0].at_s if self.arrivals else 0.0

    @property
    def per_hour(self) -> float:
        """Mean rate; infinite where all come at once."""
        gaps = len(self.arrivals) - 1
        return 3600.0 * gaps / self.span_s if self.span_s > 0.0 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A kind of request of the made-up trace: its share, and two lognormal distributions of tokens."""

    name: str
    share: float
    prompt_median: float
    prompt_sigma: float
    output_median: float
    output_sigma: float


TASKS: Final = (
    Task(name="chat", share=0.6, prompt_median=150.0, prompt_sigma=0.9, output_median=90.0, output_sigma=0.7),
    Task(name="summarise", share=0.25, prompt_median=900.0, prompt_sigma=0.7, output_median=120.0, output_sigma=0.5),
    Task(name="extract", share=0.15, prompt_median=400.0, prompt_sigma=0.6, output_median=40.0, output_sigma=0.5),
)
"""What the made-up trace is made of; docs/simulation.md has the table. exp(sigma) is the spread around the median."""

_SWING: Final = 0.8
_BUSIEST_S: Final = 15.0 * 3600.0


def made_up(count: int, *, per_hour: float, seed: int, day_starts_s: float) -> Trace:
    """*count* requests of an inhomogeneous Poisson process, busiest at 15:00, made by thinning.

    Rate at time of day c: per_hour * (1 + 0.8 cos(2 pi (c - 15 h) / 24 h)) (Lewis and Shedler, 1979).
    """
    rng = random.Random(f"{seed}/trace")  # noqa: S311  a simulation, no secret
    most = per_hour * (1.0 + _SWING) / 3600.0
    arrivals: list[Arrival] = []
    now = 0.0
    while len(arrivals) < count:
        now += rng.expovariate(most)
        phase = 2.0 * math.pi * (now + day_starts_s - _BUSIEST_S) / DAY_S
        if rng.random() * (1.0 + _SWING) < 1.0 + _SWING * math.cos(phase):
            arrivals.append(_draw(rng, now))
    return Trace(arrivals=tuple(arrivals), source=f"made up: {count} requests, {per_hour:g} an hour, seed {seed}")


def _draw(rng: random.Random, now: float) -> Arrival:
    task = rng.choices(TASKS, weights=[task.share for task in TASKS])[0]
    prompt = rng.lognormvariate(math.log(task.prompt_median), task.prompt_sigma)
    output = rng.lognormvariate(math.log(task.output_median), task.output_sigma)
    return Arrival(at_s=now, prompt_tokens=max(1, round(prompt)), output_tokens=max(1, round(output)), task=task.name)


def with_tags(trace: Trace, shares: Mapping[str, float], *, seed: int) -> Trace:
    """The trace, each request with each tag by chance: *shares* says how often, tags are independent of each other."""
    drawn = [set[str]() for _ in trace.arrivals]
    for tag, share in shares.items():
        rng = random.Random(f"{seed}/tag/{tag}")  # noqa: S311
        for tags in drawn:
            if rng.random() < share:
                tags.add(tag)
    arrivals = [replace(one, tags=one.tags | tags) for one, tags in zip(trace.arrivals, drawn, strict=True)]
    return replace(trace, arrivals=tuple(arrivals))


def at_rate(trace: Trace, per_hour: float) -> Trace:
    """The same requests with all gaps stretched by one factor, so that the mean rate is *per_hour*."""
    if trace.span_s <= 0.0:
        return trace
    factor = trace.per_hour / per_hour
    first = trace.arrivals[0].at_s
    return replace(
        trace,
        arrivals=_moved(trace.arrivals, first, factor),
        source=f"{trace.source}, stretched to {per_hour:g} an hour",
    )


def _moved(arrivals: Sequence[Arrival] | Iterable[Arrival], first: float, factor: float) -> tuple[Arrival, ...]:
    return tuple(replace(one, at_s=(one.at_s - first) * factor) for one in arrivals)

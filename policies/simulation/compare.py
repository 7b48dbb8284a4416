"""Runs several policies over the same trace in the same world, and keeps what table and report show of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hybrid_llm.policies.policy import Policy
from hybrid_llm.policies.simulation.arrivals import Trace
from hybrid_llm.policies.simulation.ended import Run
from hybrid_llm.policies.simulation.engine import Simulation
from hybrid_llm.policies.simulation.parts import Parts
from hybrid_llm.policies.simulation.rivals import require_tags
from hybrid_llm.policies.simulation.service import Setting
from hybrid_llm.policies.simulation.summary import Goals, Summary, summarise

__all__ = ["Comparison", "Contestant", "compare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A policy and the text that it was read from."""

    policy: Policy
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The first of *contestants* is the policy in question, the others are its rivals; runs in the same order."""

    contestants: tuple[Contestant, ...]
    trace: Trace
    setting: Setting
    goals: Goals
    currency: str
    runs: tuple[Run, ...]
    summaries: tuple[Summary, ...]


def compare(
    contestants: Iterable[Contestant], trace: Trace, setting: Setting, parts: Parts, goals: Goals
) -> Comparison:
    """Play *trace* under each of *contestants*.

    Raises:
        ConfigError: one does not declare a tag that the trace has.
    """
    listed = tuple(contestants)
    tags = frozenset[str]().union(*(one.tags for one in trace.arrivals))
    for one in listed:
        require_tags(one.policy, tags)
    runs = tuple(Simulation(one.policy, trace, setting, parts).run() for one in listed)
    return Comparison(
        contestants=listed,
        trace=trace,
        setting=setting,
        goals=goals,
        currency=next((one.policy.objectives.currency for one in listed if one.policy.objectives.currency), "USD"),
        runs=runs,
        summaries=tuple(summarise(run, goals) for run in runs),
    )

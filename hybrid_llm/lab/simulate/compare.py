"""Runs several policies over the same trace in the same world; the baselines `always-edge` and `always-cloud`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location
from hybrid_llm.lab.simulate.engine import Simulation
from hybrid_llm.lab.simulate.summary import Goals, Run, Summary, summarise
from hybrid_llm.lab.simulate.trace import Trace
from hybrid_llm.lab.simulate.world import Setting
from hybrid_llm.policies.document import TagRule
from hybrid_llm.policies.load import parse_policy
from hybrid_llm.policies.policy import Policy
from hybrid_llm.policies.reader.source import did_you_mean


def always(location: Location, policy: Policy) -> Policy:
    """The baseline that uses only *location*, with the tags and objectives of *policy*."""
    detectors = frozenset(name for rule in policy.tags.values() for name in rule.detect)
    text = always_text(location, policy)
    return parse_policy(text, path=f"always-{location}", backends=policy.backends, detectors=detectors)


def always_text(location: Location, policy: Policy) -> str:
    """The text of `always`, in the policy language."""
    other = Location.CLOUD if location is Location.EDGE else Location.EDGE
    return "\n".join(
        [
            "version: 1",
            f"name: always-{location}",
            *_tags(policy),
            *_objectives(policy),
            "rules:",
            f"  - exclude: {other}",
            f"    because: this baseline never uses the {other}",
            "",
        ]
    )


def _tags(policy: Policy) -> Iterator[str]:
    if policy.tags:
        yield "tags:"
    for name, rule in policy.tags.items():
        yield f"  {json.dumps(name, ensure_ascii=False)}: {{{', '.join(_tag(rule))}}}"


def _tag(rule: TagRule) -> Iterator[str]:
    yield f"allow: [{', '.join(sorted(rule.allow))}]"
    if rule.pseudonymise:
        yield "to_cloud: pseudonymise"
    if rule.detect:
        yield f"detect: {json.dumps(list(rule.detect))}"


def _objectives(policy: Policy) -> Iterator[str]:
    goals = policy.objectives
    found = []
    if goals.ttft_ms is not None:
        found.append(f"ttft: {goals.ttft_ms:.3f}ms")
    if goals.deadline_s is not None:
        found.append(f"deadline: {goals.deadline_s:.6f}s")
    if found:
        yield f"objectives: {{{', '.join(found)}}}"


def require_tags(policy: Policy, tags: Iterable[str]) -> None:
    """Check that *policy* declares each of *tags*.

    Raises:
        ConfigError: it does not; in production each such request would be an error.
    """
    for tag in sorted(tags):
        if tag not in policy.tags:
            hint = did_you_mean(tag, policy.tags)
            raise ConfigError(
                f"policy {policy.name} does not declare the tag `{tag}` that requests of the trace have: {hint}; "
                "declare it, or choose the tags with --tag"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A policy and the text that it was read from."""

    policy: Policy
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The first of *contestants* is the policy in question, the others are its baselines; runs have the same order."""

    contestants: tuple[Contestant, ...]
    trace: Trace
    setting: Setting
    goals: Goals
    currency: str
    runs: tuple[Run, ...]
    summaries: tuple[Summary, ...]


def compare(contestants: Iterable[Contestant], trace: Trace, setting: Setting, goals: Goals) -> Comparison:
    """Run *trace* under each of *contestants*.

    Raises:
        ConfigError: one does not declare a tag that the trace has.
    """
    listed = tuple(contestants)
    tags = frozenset[str]().union(*(one.tags for one in trace.arrivals))
    for one in listed:
        require_tags(one.policy, tags)
    runs = tuple(Simulation(one.policy, trace, setting).run() for one in listed)
    return Comparison(
        contestants=listed,
        trace=trace,
        setting=setting,
        goals=goals,
        currency=next((one.policy.objectives.currency for one in listed if one.policy.objectives.currency), "USD"),
        runs=runs,
        summaries=tuple(summarise(run, goals) for run in runs),
    )

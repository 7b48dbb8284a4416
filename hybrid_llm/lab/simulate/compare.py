"""Runs several policies over one trace in one world, baselines among them, and sums up each run."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location
from hybrid_llm.lab.simulate.engine import Run, Simulation, Status
from hybrid_llm.lab.simulate.trace import Trace
from hybrid_llm.lab.simulate.world import Setting
from hybrid_llm.policies.document import TagRule
from hybrid_llm.policies.load import parse_policy
from hybrid_llm.policies.policy import Policy
from hybrid_llm.policies.reader.source import did_you_mean

_J_PER_WH: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A policy and the text that it was read from."""

    policy: Policy
    text: str


def always(location: Location, policy: Policy) -> Contestant:
    """The baseline that uses only *location*, with the tags and objectives of *policy*."""
    other = Location.CLOUD if location is Location.EDGE else Location.EDGE
    text = "\n".join(
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
    detectors = frozenset(name for rule in policy.tags.values() for name in rule.detect)
    parsed = parse_policy(text, path=f"always-{location}", backends=policy.backends, detectors=detectors)
    return Contestant(policy=parsed, text=text)


def _tags(policy: Policy) -> Iterator[str]:
    if policy.tags:
        yield "tags:"
    for name, rule in policy.tags.items():
        yield f"  {json.dumps(name, ensure_ascii=False)}: {{{', '.join(_tag(rule))}}}"


def _tag(rule: TagRule) -> Iterator[str]:
    yield f"allow: [{', '.join(sorted(rule.allow))}]"
    if rule.to_cloud:
        yield f"to_cloud: [{', '.join(sorted(rule.to_cloud))}]"
    if rule.accept_undetected_names:
        yield "accept_undetected_names: true"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of the answered requests, ms, by nearest rank; None where nothing was answered."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCount:
    """How many decisions one rule ordered, or in how many a backend was excluded for one reason."""

    rule: str
    because: str
    decisions: int


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
    rules: tuple[RuleCount, ...]
    """How often each rule decided, in the order of the policy."""


def _rule_counts(run: Run) -> Iterator[RuleCount]:
    """The rules that order, each also where it never did, then what excluded backends."""
    for rule in run.policy.rules:
        if rule.kind != "exclude":
            yield RuleCount(rule=rule.label, because=rule.because, decisions=run.rules.get(rule.label, 0))
    if run.rules.get("default"):
        yield RuleCount(rule="default", because="no rule matched", decisions=run.rules["default"])
    for (backend, reason), count in sorted(run.exclusions.items(), key=lambda item: -item[1]):
        yield RuleCount(rule=f"excluded {backend}", because=reason, decisions=count)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that *share* of all values do not exceed (nearest rank); *ordered* is sorted."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _percentiles(values: Sequence[float]) -> Percentiles:
    ordered = sorted(values)
    return Percentiles(p50=percentile(ordered, 0.5), p95=percentile(ordered, 0.95), p99=percentile(ordered, 0.99))


def summarise(run: Run, goal_ms: float | None = None) -> Summary:
    """The figures of *run*; *goal_ms* is the longest time to first token that is not slow."""
    answered = [one for one in run.outcomes if one.status is Status.ANSWERED]
    bound = [one for one in run.outcomes if one.bound]
    slow = sum(one.ttft_ms > goal_ms for one in answered) if goal_ms is not None else 0
    ended = Counter(one.status for one in run.outcomes)
    levels = [sample.battery for sample in run.samples if sample.battery is not None]
    return Summary(
        policy=run.policy.name,
        digest=run.policy.digest,
        requests=len(run.outcomes),
        edge=sum(one.location is Location.EDGE for one in answered),
        cloud=sum(one.location is Location.CLOUD for one in answered),
        refused=ended[Status.REFUSED],
        failed=ended[Status.FAILED],
        late=ended[Status.LATE],
        off=ended[Status.OFF],
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
        bound_left=sum(one.left for one in bound),
        would_leave=sum(one.would_leave for one in bound),
        pseudonymised=sum(one.pseudonymised for one in run.outcomes),
        rules=tuple(_rule_counts(run)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The first of *contestants* is the policy in question, the others are its baselines; runs have the same order."""

    contestants: tuple[Contestant, ...]
    trace: Trace
    setting: Setting
    goal_ms: float | None
    """The longest time to first token, by which all policies are measured; None is not measured."""
    currency: str
    runs: tuple[Run, ...]
    summaries: tuple[Summary, ...]


def compare(
    contestants: Iterable[Contestant],
    trace: Trace,
    setting: Setting,
    goal_ms: float | None = None,
    on_progress: Callable[[str, float], object] = lambda _, __: None,
) -> Comparison:
    """Run *trace* under each of *contestants*; *on_progress* gets the policy that runs and the share of all.

    Raises:
        ConfigError: one does not declare a tag that the trace has; in production each such request would be an error.
    """
    listed = tuple(contestants)
    tags = sorted({tag for one in trace.arrivals for tag in one.tags | one.found})
    for policy, tag in product([one.policy for one in listed], tags):
        if tag not in policy.tags:
            hint = did_you_mean(tag, policy.tags)
            raise ConfigError(
                f"policy {policy.name} does not declare the tag `{tag}` that requests of the trace have: {hint}; "
                "declare it, or choose the tags with --tag and --found"
            )

    def run(number: int, policy: Policy) -> Run:
        return Simulation(policy, trace, setting).run(
            lambda share: on_progress(policy.name, (number + share) / len(listed))
        )

    runs = tuple(run(number, one.policy) for number, one in enumerate(listed))
    return Comparison(
        contestants=listed,
        trace=trace,
        setting=setting,
        goal_ms=goal_ms,
        currency=next((one.policy.objectives.currency for one in listed if one.policy.objectives.currency), "USD"),
        runs=runs,
        summaries=tuple(summarise(run, goal_ms) for run in runs),
    )

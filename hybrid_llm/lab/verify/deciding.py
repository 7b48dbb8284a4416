"""The first two stages of a verification: what the guard clears, and what the policy decides.

The guard judges every set of tags and findings. For each kind of judgement the policy decides under every outcome of
its conditions and every state of its backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, permutations, product
from typing import Final, cast

from hybrid_llm.core.clearance import Purpose
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.limits import Defaults
from hybrid_llm.core.request import Location, Request, RequestMetadata
from hybrid_llm.core.signals import DeviceSignals, Signals
from hybrid_llm.lab.verify.report import CLEARED, DECIDED, Results, Verdict, judge, mark
from hybrid_llm.lab.verify.world import Abstract, Fitness, Held, MarkerDetector, Outcomes, Position, Switches, World
from hybrid_llm.policies import Policy
from hybrid_llm.router.execution.attempts import Attempts
from hybrid_llm.router.fleet import without
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.privacy.detectors import Detector
from hybrid_llm.router.request import make_request

_MOST_JUDGEMENTS: Final = 4_000
_MOST_TAGS: Final = 6
_MOST_BACKENDS: Final = 4
_MOST_DECISIONS: Final = 100_000
"""Roughly: the outcomes of conditions are reduced to fit."""
_OTHER_STATES: Final = (Fitness.OPEN, Fitness.FAILING, Fitness.HALF_OPEN, Fitness.ABSENT, Fitness.MOVED)

States = Mapping[str, Fitness]
"""Backend -> its state; READY for backends that are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The code under verification. Tests replace it by code with mistakes, which must be found."""

    guard: Callable[[Iterable[Detector]], PrivacyGuard] = PrivacyGuard
    attempts: type[Attempts] = Attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One kind of judgement, and the simplest *world* that leads to it."""

    world: World
    verdict: Verdict
    request: Request
    blocked: frozenset[Location]
    pseudonymised: bool
    """The form for the cloud differs."""


def detectors_of(policy: Policy, world: World) -> list[Detector]:
    """Every detector that the policy names, as in the world."""
    names = sorted({name for rule in policy.tags.values() for name in rule.detect})
    return [MarkerDetector(name, name in world.fails) for name in names]


def judge_all(policy: Policy, parts: Parts, results: Results) -> tuple[list[Judged], dict[str, str]]:
    """Every kind of judgement, the simplest first; and a description of the cases."""
    sets, tags_covered = subsets(tuple(policy.tags))
    findings, covered = _findings(policy, len(sets))
    kinds: dict[object, Judged] = {}
    for declared, (finds, fails) in sorted(product(sets, findings), key=_size):
        for where in Position if len(finds) == 1 and not fails else (Position.MESSAGE,):
            world = World(declared=declared, finds=finds, fails=fails, where=where)
            judged = _judge(policy, world, parts, results)
            kinds.setdefault((judged.request.privacy, judged.blocked, judged.pseudonymised), judged)
    return list(kinds.values()), {"tags": tags_covered, "detectors": covered}


def _size(case: tuple[frozenset[str], tuple[frozenset[str], frozenset[str]]]) -> int:
    declared, (finds, fails) = case
    return len(declared) + len(finds) + len(fails)


def subsets(names: Sequence[str]) -> tuple[list[frozenset[str]], str]:
    """Every set of *names*; of many names, those of at most two, and all of them."""
    whole = len(names) <= _MOST_TAGS
    sizes = range(len(names) + 1) if whole else (0, 1, 2, len(names))
    found = [frozenset(part) for size in sizes for part in combinations(names, size)]
    if whole:
        return found, f"all {len(found)} sets of the {len(names)} declared tags"
    return found, f"no tag, each one, each two, and all of the {len(names)} declared tags"


def _findings(policy: Policy, times: int) -> tuple[list[tuple[frozenset[str], frozenset[str]]], str]:
    """Which detectors find something, and which fail."""
    names = tuple(dict.fromkeys(name for rule in policy.tags.values() for name in rule.detect))
    if 3 ** len(names) * times <= _MOST_JUDGEMENTS:
        found = [_split(names, combination) for combination in product((0, 1, 2), repeat=len(names))]
        return found, f"all {len(found)} combinations of {len(names)} detectors finding something, nothing, or failing"
    pairs = chain.from_iterable(combinations(names, size) for size in (0, 1, 2))
    found = [_split(some, combination) for some in pairs for combination in product((1, 2), repeat=len(some))]
    found += [(frozenset(names), frozenset()), (frozenset(), frozenset(names))]
    return found, f"every one and two of {len(names)} detectors find something or fail, and all of them"


def _split(names: Sequence[str], combination: Sequence[int]) -> tuple[frozenset[str], frozenset[str]]:
    pairs = list(zip(names, combination, strict=True))
    return frozenset(name for name, is_ in pairs if is_ == 1), frozenset(name for name, is_ in pairs if is_ == 2)


def _judge(policy: Policy, world: World, parts: Parts, results: Results) -> Judged:
    results.judgements += 1
    guard = parts.guard(detectors_of(policy, world))
    assessment = guard.assess(make_request(world.prompt(), world.options(), Defaults()), policy)
    verdict = judge(policy.tags, world.declared, world.finds, world.fails)
    for location, purpose in product(Location, Purpose):
        fault = _fault(guard, assessment, location, purpose, verdict)
        if fault:
            results.violate(verdict.tags, CLEARED, lambda fault=fault: (*world.steps(policy), *fault))  # type: ignore[misc]
    guard.release(assessment)
    if assessment.request.privacy != verdict.tags:
        wrong = f"the guard tags it {_names(assessment.request.privacy)} instead of {_names(verdict.tags)}"
        results.violate(verdict.tags, CLEARED, lambda: (*world.steps(policy), wrong))
    return Judged(
        world=world,
        verdict=verdict,
        request=assessment.request,
        blocked=frozenset(assessment.blocked),
        pseudonymised=assessment.request_for(Location.CLOUD) is not assessment.request,
    )


def _fault(
    guard: PrivacyGuard, assessment: Assessment, location: Location, purpose: Purpose, verdict: Verdict
) -> tuple[str, ...]:
    """What is wrong with the clearance that the guard gives, as steps; empty if nothing is."""
    try:
        cleared = guard.clear(assessment, location, purpose)
    except PrivacyViolation:
        return ()
    allowed = verdict.allowed if purpose is Purpose.ANSWER else verdict.cacheable
    use = " to cache an answer" if purpose is Purpose.CACHE else ""
    if location not in allowed:
        return f"the guard clears it for {location}{use}", f"but {verdict.why or 'its answer may not be cached there'}"
    text = "\n".join(cleared.request.visible_text()) if location is Location.CLOUD else ""
    left = [name for name in sorted(verdict.pseudonymised) if mark(name) in text]
    if left:
        return f"the guard clears it for {location}{use}", f"but what {left[0]} finds is still in the text"
    return ()


def _names(tags: frozenset[str]) -> str:
    return ", ".join(sorted(tags)) or "untagged"


def decide_all(
    abstract: Abstract, kinds: Sequence[Judged], results: Results
) -> tuple[list[tuple[tuple[str, ...], World]], dict[str, str]]:
    """Every order for each kind of judgement, with the simplest world that leads to it; a description of the cases."""
    policy = abstract.policy
    names = tuple(policy.backends)
    rankings = list(permutations(names)) if len(names) <= _MOST_BACKENDS else [names, names[::-1]]
    situations, states_covered = _situations(names)
    seen = {(judged.request.privacy, judged.blocked): judged for judged in reversed(kinds)}
    whole = sum(not judged.blocked for judged in seen.values()) * sum(not alone for _, alone in situations)
    outcomes, rules_covered = abstract.outcomes(most=_MOST_DECISIONS // max(1, whole))
    few = [outcome for outcome in outcomes if len(outcome) <= 1]
    found: list[tuple[tuple[str, ...], World]] = []
    for judged in sorted(seen.values(), key=lambda one: len(list(one.world.steps(policy)))):
        deciding = _Deciding(abstract, judged, rankings, results)
        for states, alone in situations:
            deciding.all(states, few if alone or judged.blocked else outcomes)
        found += deciding.found.items()
    return found, {"conditions": rules_covered, "backends": states_covered}


def _situations(names: Sequence[str]) -> tuple[list[tuple[States, bool]], str]:
    """Every backend ready or not; and alone, with few outcomes of the conditions only, each in each other state."""
    many = len(names) > _MOST_BACKENDS
    found: list[tuple[States, bool]] = [
        ({name: Fitness.UNREADY for name, ready in zip(names, one, strict=True) if not ready}, False)
        for one in product((True, False), repeat=len(names))
        if not many or one.count(False) in {0, 1, len(names)}
    ]
    found += [({name: fitness}, True) for name in names for fitness in _OTHER_STATES]
    covered = "each ready or not" if not many else f"one, all or none of {len(names)} not ready"
    listed = ", ".join(fitness.value for fitness in _OTHER_STATES)
    return (
        sorted(found, key=lambda one: len(_unfit(one[0]))),
        f"{covered}, in every combination; and each one that {listed}",
    )


def _unfit(states: States) -> set[str]:
    """The backends that must not be called, whatever else is left."""
    return {name for name, fitness in states.items() if fitness not in {Fitness.HALF_OPEN, Fitness.FAILING}}


class _Deciding:
    """All decisions for one kind of judgement."""

    def __init__(
        self, abstract: Abstract, judged: Judged, rankings: Sequence[tuple[str, ...]], results: Results
    ) -> None:
        self._policy, self._judged, self._results = abstract.policy, judged, results
        self._free, self._rankings = abstract.free, rankings
        self.found: dict[tuple[str, ...], World] = {}
        self._metadata = RequestMetadata.of(judged.request)
        self._ranks = {rule.label for rule in abstract.policy.rules if rule.kind == "rank"}
        self._hard = {rule.index: frozenset(rule.targets) for rule in abstract.free if rule.kind == "exclude"}
        self._excluded = frozenset(
            name
            for name, location in abstract.policy.backends.items()
            if location not in judged.verdict.allowed or location in judged.blocked
        )

    def all(self, states: States, outcomes: Sequence[Outcomes]) -> None:
        """Decide under each of *outcomes*; if a `rank` rule decides, under every ranking."""
        blocked = dict.fromkeys(self._judged.blocked, "blocked")
        worlds = [replace(self._judged.world, states=states, ranking=ranking) for ranking in self._rankings]
        backends = [without(blocked, world.signals(self._policy, ())).backends for world in worlds]
        excluded = self._excluded | _unfit(states)
        for outcome in outcomes:
            device = cast(DeviceSignals, Switches(self._free, outcome))
            out = excluded.union(*(self._hard.get(index, ()) for index in outcome))
            for world, known in zip(worlds, backends, strict=True):
                decision = self._policy.decide(self._metadata, Signals(device=device, backends=known))
                self._record(world, outcome, decision, out)
                if decision.rule not in self._ranks:
                    break

    def _record(self, world: World, outcome: Outcomes, decision: Decision, out: frozenset[str]) -> None:
        """Note a decision that is new, and one that contradicts tags, states or hard rules."""
        self._results.decisions += 1
        order = decision.order
        failing = {name for name in order if world.states.get(name) is Fitness.FAILING}
        if len(failing) < len(order):  # another one is left
            out |= failing
        wrong = [name for name in order if name in out]
        if wrong or order not in self.found or len({*order}) != len(order):
            world = replace(world, rules={index: how for index, how in outcome.items() if how is not Held.NO})
            self.found.setdefault(order, world)
            if wrong or len({*order}) != len(order):
                self._violated(world, decision, wrong)

    def _violated(self, world: World, decision: Decision, wrong: Sequence[str]) -> None:
        verdict = self._judged.verdict
        why = verdict.why if self._excluded.intersection(wrong) else "it is not ready, or a hard rule excludes it"
        last = f"but {wrong[0]} is in the order, and {why}" if wrong else "but one backend is named twice"
        order = " > ".join(decision.order)
        self._results.violate(
            verdict.tags, DECIDED, lambda: (*world.steps(self._policy), f"the policy decides: {order}", last)
        )

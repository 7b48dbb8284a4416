"""The first stage of a verification: what the guard makes of every set of tags and findings, and what it would clear.

The second stage of a verification: what the policy decides for every outcome of conditions and state of backends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, permutations, product
from typing import Final, cast

from hybrid_llm.core.clearance import Cleared, Purpose
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.limits import Defaults
from hybrid_llm.core.request import Location, Request, RequestMetadata
from hybrid_llm.core.signals import DeviceSignals, Signals
from hybrid_llm.lab.verify.report import CLEARED, DECIDED, Ledger, Verdict, judge, mark
from hybrid_llm.lab.verify.rules import Abstract, Held, Outcomes, Switches
from hybrid_llm.lab.verify.runs import Parts, detectors_of
from hybrid_llm.lab.verify.world import Fitness, Hidden, World
from hybrid_llm.policies import Policy
from hybrid_llm.router.pipeline import without
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.request import make_request

_MOST: Final = 4_000
_MOST_TAGS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One kind of judgement, and the simplest *world* that leads to it."""

    world: World
    verdict: Verdict
    request: Request
    barred: frozenset[Location]
    hidden: bool
    """The form for the cloud differs."""


def judge_all(policy: Policy, parts: Parts, ledger: Ledger) -> tuple[list[Judged], dict[str, str]]:
    """Every kind of judgement, the simplest first; and in words what was looked at."""
    sets, tags_covered = subsets(tuple(policy.tags))
    findings, covered = _findings(policy, len(sets))
    kinds: dict[object, Judged] = {}
    for declared, (finds, fails) in sorted(product(sets, findings), key=_size):
        for where in Hidden if len(finds) == 1 and not fails else (Hidden.MESSAGE,):
            world = World(declared=declared, finds=finds, fails=fails, where=where)
            judged = _judge(policy, world, parts, ledger)
            kinds.setdefault((judged.request.privacy, judged.barred, judged.hidden), judged)
    return list(kinds.values()), {"tags": tags_covered, "detectors": covered}


def _size(case: tuple[frozenset[str], tuple[frozenset[str], frozenset[str]]]) -> int:
    declared, (finds, fails) = case
    return len(declared) + len(finds) + len(fails)


def subsets(names: Sequence[str]) -> tuple[list[frozenset[str]], str]:
    """Every set of *names*; of many, those of one and two and the whole."""
    whole = len(names) <= _MOST_TAGS
    sizes = range(len(names) + 1) if whole else (0, 1, 2, len(names))
    found = [frozenset(part) for size in sizes for part in combinations(names, size)]
    if whole:
        return found, f"all {len(found)} sets of the {len(names)} declared tags"
    return found, f"no tag, each one, each two, and all of the {len(names)} declared tags"


def _findings(policy: Policy, times: int) -> tuple[list[tuple[frozenset[str], frozenset[str]]], str]:
    """Which detectors find something, and which fail."""
    names = tuple(dict.fromkeys(name for rule in policy.tags.values() for name in rule.detect))
    if 3 ** len(names) * times <= _MOST:
        found = [_split(names, way) for way in product((0, 1, 2), repeat=len(names))]
        return found, f"all {len(found)} ways in which {len(names)} detectors find something, nothing, or fail"
    pairs = chain.from_iterable(combinations(names, size) for size in (0, 1, 2))
    found = [_split(some, way) for some in pairs for way in product((1, 2), repeat=len(some))]
    found += [(frozenset(names), frozenset()), (frozenset(), frozenset(names))]
    return found, f"every one and two of {len(names)} detectors find something or fail, and all of them"


def _split(names: Sequence[str], way: Sequence[int]) -> tuple[frozenset[str], frozenset[str]]:
    pairs = list(zip(names, way, strict=True))
    return frozenset(name for name, is_ in pairs if is_ == 1), frozenset(name for name, is_ in pairs if is_ == 2)


def _judge(policy: Policy, world: World, parts: Parts, ledger: Ledger) -> Judged:
    ledger.judgements += 1
    guard = parts.guard(detectors_of(policy, world))
    assessment = guard.assess(make_request(world.prompt(), world.options(), Defaults()), policy)
    verdict = judge(policy.tags, world.declared, world.finds, world.fails)
    for place, purpose in product(Location, Purpose):
        fault = _fault(_cleared(guard, assessment, place, purpose), place, purpose, verdict)
        if fault:
            ledger.violate(verdict.tags, CLEARED, lambda fault=fault: (*world.steps(policy), *fault))  # type: ignore[misc]
    guard.release(assessment)
    if assessment.request.privacy != verdict.tags:
        told = f"the guard makes it {_names(assessment.request.privacy)}, and it is {_names(verdict.tags)}"
        ledger.violate(verdict.tags, CLEARED, lambda: (*world.steps(policy), told))
    return Judged(
        world=world,
        verdict=verdict,
        request=assessment.request,
        barred=frozenset(assessment.blocked),
        hidden=assessment.request_for(Location.CLOUD) is not assessment.request,
    )


def _cleared(guard: PrivacyGuard, assessment: Assessment, place: Location, purpose: Purpose) -> Cleared | None:
    try:
        return guard.clear(assessment, place, purpose)
    except PrivacyViolation:
        return None


def _fault(cleared: Cleared | None, place: Location, purpose: Purpose, verdict: Verdict) -> tuple[str, ...]:
    """What is wrong with what was cleared, in steps; empty where nothing is."""
    if cleared is None:
        return ()
    allowed = verdict.allowed if purpose is Purpose.ANSWER else verdict.cacheable
    kept = " to keep an answer" if purpose is Purpose.CACHE else ""
    if place not in allowed:
        return f"the guard clears it for {place}{kept}", f"but {verdict.why or 'its answer may not be kept there'}"
    if place is Location.CLOUD:
        left = [name for name in sorted(verdict.hidden) if any(mark(name) in t for t in cleared.request.visible_text())]
        if left:
            return f"the guard clears it for {place}{kept}", f"but what {left[0]} finds is still in the text"
    return ()


def _names(tags: frozenset[str]) -> str:
    return ", ".join(sorted(tags)) or "untagged"


_FIT: Final = frozenset({Fitness.READY, Fitness.HALF_OPEN})
_TOLD: Final = (Fitness.OPEN, Fitness.HALF_OPEN, Fitness.ABSENT, Fitness.MOVED)
_MOST_BACKENDS: Final = 4
_BUDGET: Final = 100_000
"""About how many decisions there may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """One decision, and the simplest *world* that leads to it."""

    judged: Judged
    world: World
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class _Situation:
    """States of backends; *unfit* are those that may not be asked."""

    states: Mapping[str, Fitness]
    unfit: frozenset[str]
    alone: bool
    """To be seen with few outcomes of the conditions only."""


def decide_all(abstract: Abstract, kinds: Sequence[Judged], ledger: Ledger) -> tuple[list[Decided], dict[str, str]]:
    """Every decision of each kind of judgement, the simplest first; and in words what was looked at."""
    policy = abstract.policy
    names = tuple(policy.backends)
    rankings = list(permutations(names)) if len(names) <= _MOST_BACKENDS else [names, names[::-1]]
    situations, states_covered = _situations(names)
    seen = {(judged.request.privacy, judged.barred): judged for judged in reversed(kinds)}
    whole = sum(not judged.barred for judged in seen.values()) * sum(not situation.alone for situation in situations)
    share = _BUDGET // max(1, whole)
    outcomes, rules_covered = abstract.outcomes(most=share)
    few = [outcome for outcome in outcomes if len(outcome) <= 1]
    found: list[Decided] = []
    for judged in sorted(seen.values(), key=lambda one: len(list(one.world.steps(policy)))):
        deciding = _Deciding(abstract, judged, rankings, ledger)
        for situation in situations:
            deciding.all(situation, few if situation.alone or judged.barred else outcomes)
        found += deciding.found.values()
    return found, {"conditions": rules_covered, "backends": states_covered}


def _situations(names: Sequence[str]) -> tuple[list[_Situation], str]:
    """Every backend ready or not; and one at a time in every other state."""
    many = len(names) > _MOST_BACKENDS
    ways = product((Fitness.READY, Fitness.UNREADY), repeat=len(names))
    both = [way for way in ways if not many or way.count(Fitness.UNREADY) in {0, 1, len(names)}]
    found = [_situation(dict(zip(names, way, strict=True)), alone=False) for way in both]
    found += [_situation({name: fitness}, alone=True) for name in names for fitness in _TOLD]
    covered = "each ready or not" if not many else f"one, all or none of {len(names)} not ready"
    listed = ", ".join(fitness.value for fitness in _TOLD)
    return sorted(found, key=lambda one: len(one.unfit)), f"{covered}, in every combination; and each one that {listed}"


def _situation(states: Mapping[str, Fitness], *, alone: bool) -> _Situation:
    unfit = frozenset(name for name, fitness in states.items() if fitness not in _FIT)
    told = {name: fitness for name, fitness in states.items() if fitness is not Fitness.READY}
    return _Situation(states=told, unfit=unfit, alone=alone)


class _Deciding:
    """All decisions on one kind of judgement."""

    def __init__(self, abstract: Abstract, judged: Judged, rankings: Sequence[tuple[str, ...]], ledger: Ledger) -> None:
        self._policy, self._judged, self._ledger = abstract.policy, judged, ledger
        self._free, self._rankings = abstract.free, rankings
        self._device = DeviceSignals()
        self.found: dict[tuple[str, ...], Decided] = {}
        """Every order that was decided, and the simplest world that leads to it."""
        self._metadata = RequestMetadata.of(judged.request)
        self._ranks = {rule.label for rule in abstract.policy.rules if rule.kind == "rank"}
        self._hard = {rule.index: frozenset(rule.targets) for rule in abstract.free if rule.kind == "exclude"}
        self._shut = frozenset(
            name
            for name, place in abstract.policy.backends.items()
            if place not in judged.verdict.allowed or place in judged.barred
        )

    def all(self, situation: _Situation, outcomes: Sequence[Outcomes]) -> None:
        """Decide under every one of *outcomes*; where a `rank` decides, under every ranking."""
        states = {ranking: self._states(situation, ranking) for ranking in self._rankings}
        for outcome in outcomes:
            self._device = cast(DeviceSignals, Switches(self._free, outcome))
            decision = self._decide(situation, outcome, self._rankings[0], states)
            for ranking in self._rankings[1:] if decision.rule in self._ranks else ():
                self._decide(situation, outcome, ranking, states)

    def _states(self, situation: _Situation, ranking: tuple[str, ...]) -> Signals:
        world = World(states=situation.states, ranking=ranking)
        return without(dict.fromkeys(self._judged.barred, "barred"), world.signals(self._policy, ()))

    def _decide(
        self,
        situation: _Situation,
        outcome: Outcomes,
        ranking: tuple[str, ...],
        states: Mapping[tuple[str, ...], Signals],
    ) -> Decision:
        self._ledger.decisions += 1
        signals = Signals(device=self._device, backends=states[ranking].backends)
        decision = self._policy.decide(self._metadata, signals)
        out = self._shut | situation.unfit
        for index in outcome:
            out |= self._hard.get(index, frozenset())
        if not out.isdisjoint(decision.order) or len({*decision.order}) != len(decision.order):
            self._broke(situation, outcome, ranking, decision, out)
        if decision.order not in self.found:
            world = self._world(situation, outcome, ranking)
            self.found[decision.order] = Decided(judged=self._judged, world=world, decision=decision)
        return decision

    def _broke(
        self,
        situation: _Situation,
        outcome: Outcomes,
        ranking: tuple[str, ...],
        decision: Decision,
        out: frozenset[str],
    ) -> None:
        world = self._world(situation, outcome, ranking)
        wrong = [name for name in decision.order if name in out]
        why = self._judged.verdict.why if set(wrong) & self._shut else "it is not fit, or a hard rule takes it out"
        steps = (*world.steps(self._policy), f"the policy decides: {' > '.join(decision.order)}")
        said = f"but {wrong[0]} is among them, and {why}" if wrong else "but one is named twice"
        self._ledger.violate(self._judged.verdict.tags, DECIDED, lambda: (*steps, said))

    def _world(self, situation: _Situation, outcome: Outcomes, ranking: tuple[str, ...]) -> World:
        held = {index: how for index, how in outcome.items() if how is not Held.NO}
        return replace(self._judged.world, rules=held, states=situation.states, ranking=ranking)

"""The second stage of a proof: what the policy decides for every outcome of conditions and state of backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Final, cast

from hybrid_llm.router.pipeline import without
from hybrid_llm.router.proof.judging import Judged
from hybrid_llm.router.proof.ledger import DECIDED, Ledger
from hybrid_llm.router.proof.rules import Abstract, Held, Outcomes, Switches
from hybrid_llm.router.proof.world import Fitness, World
from hybrid_llm.router.signals import DeviceSignals, Signals
from hybrid_llm.router.types import Decision, Facts

__all__ = ["Decided", "decide_all"]

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
        self._facts = Facts.of(judged.request)
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
        decision = self._policy.decide(self._facts, signals)
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
        self._ledger.broke(self._judged.verdict.tags, DECIDED, lambda: (*steps, said))

    def _world(self, situation: _Situation, outcome: Outcomes, ranking: tuple[str, ...]) -> World:
        held = {index: how for index, how in outcome.items() if how is not Held.NO}
        return replace(self._judged.world, rules=held, states=situation.states, ranking=ranking)

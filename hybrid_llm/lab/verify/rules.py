"""A policy whose conditions answer what they are told: the same rules and the same code, every outcome within reach.

A condition that reads nothing but tags and objectives stays as it is: its outcome is known. Every other one is replaced
by the reading of one signal, which holds, does not hold, or cannot be evaluated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from hybrid_llm.core.request import Location
from hybrid_llm.policies.language.schema import FieldSpec, Objectives, Schema
from hybrid_llm.policies.language.types import BOOL, Field, fields_of
from hybrid_llm.policies.policy import Policy
from hybrid_llm.policies.rules import Rule

Outcomes = Mapping[int, "Held"]
"""Index of a rule -> what its condition comes to; those that are not there do not hold."""


class Held(StrEnum):
    """What a condition can come to."""

    NO = "does not hold"
    YES = "holds"
    UNKNOWN = "cannot be evaluated"


class Switches:
    """Stands in the place of the device's signals: `rule_3` is what the condition of `rules[3]` comes to.

    What cannot be evaluated is not there at all, as with a sensor that is gone: reading it raises.
    """

    def __init__(self, free: Iterable[Rule], outcomes: Outcomes) -> None:
        for rule in free:
            held = outcomes.get(rule.index, Held.NO)
            if held is not Held.UNKNOWN:
                setattr(self, f"rule_{rule.index}", held is Held.YES)


class _Schema(Schema):
    """The names of a policy, and one more of the device for each rule that is told its outcome."""

    def __init__(self, backends: Mapping[str, Location], objectives: Objectives, rules: Sequence[Rule]) -> None:
        super().__init__(backends, objectives)
        names = [f"rule_{rule.index}" for rule in rules]
        self._switches = {name: FieldSpec(root="device", attribute=name, type=BOOL) for name in names}

    def fields(self, root: str) -> Mapping[str, FieldSpec]:
        """As those of a policy."""
        known = super().fields(root)
        return {**known, **self._switches} if root == "device" else known


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstract:
    """*policy* is of the same class as the one it was made of; *free* are the rules whose outcome is told."""

    policy: Policy
    free: tuple[Rule, ...]

    def outcomes(self, *, most: int) -> tuple[list[Outcomes], str]:
        """The combinations of outcomes, the fewest deviations first, and in words what they cover.

        All of them where they are not more than *most*; else those in which few conditions do not simply not hold.
        """
        hard = [rule for rule in self.free if rule.kind == "exclude"]
        soft = [rule for rule in self.free if rule.kind != "exclude"]
        size = 3 ** len(hard) * (2 ** (len(soft) + 1) - 1)
        if size <= most:
            pairs = itertools.product(_hard(hard), _soft(soft))
            found: list[Outcomes] = sorted(({**one, **other} for one, other in pairs), key=len)
            return found, f"all {size} outcomes of {len(self.free)} conditions: held, not held, cannot be evaluated"
        found, deepest = _few(self.free, most)
        few = f"up to {deepest} of {len(self.free)} conditions hold or cannot be evaluated"
        return found, f"every combination in which {few}, and all of them: {len(found)}"


def abstract(policy: Policy) -> Abstract:
    """*policy* with conditions that are told their outcome."""
    free = tuple(rule for rule in policy.rules if rule.condition is not None and not _known(rule))
    indices = {rule.index for rule in free}
    rules = tuple(_switched(rule) if rule.index in indices else rule for rule in policy.rules)
    schema = _Schema(policy.backends, policy.objectives, free)
    return Abstract(policy=replace(policy, rules=rules, schema=schema), free=free)


def _known(rule: Rule) -> bool:
    """Whether the outcome follows from the tags of the request alone."""
    assert rule.condition is not None
    fields = fields_of(rule.condition)
    return all(field.path[0] == "objectives" or field.path == ("request", "tags") for field in fields)


def _switched(rule: Rule) -> Rule:
    name = f"rule_{rule.index}"
    node = Field(start=0, end=len(name), type=BOOL, path=("device", name), key=f"device.{name}")
    return replace(rule, condition=node, text=name)


def _hard(rules: Sequence[Rule]) -> Iterator[Outcomes]:
    for combination in itertools.product(Held, repeat=len(rules)):
        yield _deviations(rules, combination)


def _soft(rules: Sequence[Rule]) -> Iterator[Outcomes]:
    """Which rule is the first that holds, and why those before it do not; what follows it is never looked at."""
    for first in range(len(rules) + 1):
        last = {rules[first].index: Held.YES} if first < len(rules) else {}
        for way in itertools.product((Held.NO, Held.UNKNOWN), repeat=first):
            yield {**_deviations(rules[:first], way), **last}


def _few(rules: Sequence[Rule], most: int) -> tuple[list[Outcomes], int]:
    """Those with the fewest deviations, whole numbers of them, at least one; and how many those are at most."""
    found: list[Outcomes] = [dict.fromkeys((rule.index for rule in rules), held) for held in (Held.YES, Held.UNKNOWN)]
    deepest = 0
    while deepest < len(rules):
        size = math.comb(len(rules), deepest + 1) * 2 ** (deepest + 1)
        if deepest and len(found) + size > most:
            break
        deepest += 1
        for some in itertools.combinations(rules, deepest):
            ways = itertools.product((Held.YES, Held.UNKNOWN), repeat=deepest)
            found += [_deviations(some, way) for way in ways]
    return sorted([{}, *found], key=len), deepest


def _deviations(rules: Sequence[Rule], combination: Sequence[Held]) -> dict[int, Held]:
    return {rule.index: held for rule, held in zip(rules, combination, strict=True) if held is not Held.NO}

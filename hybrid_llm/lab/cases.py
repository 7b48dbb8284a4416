"""Runs the cases that stand beside a policy: requests, signals, and what must come of them. It reads no files.

A case decides on the tags that it gives. Where it has a text instead, the caller says what the privacy guard finds in
it: detectors are no part of a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.request import Request, RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.policies.policy import Policy, Rule

Judge = Callable[[Request, Signals], tuple[Request, Signals]]
"""Gives a request its effective tags, and takes out the backends that its text bars, as the privacy guard does."""
NOBODY = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a case expects; None and empty expect nothing."""

    order: tuple[str, ...] | None = None
    """Exactly these backends, in this order."""
    first: tuple[str, ...] = ()
    """One of these is asked first."""
    never: tuple[str, ...] = ()
    """None of these may be asked at all."""
    excluded: Mapping[str, str] = field(default_factory=dict)
    """These are out, each for a reason that holds this text."""
    rule: str = ""
    """The rule that orders, as `rules[3]` or `default`."""
    tags: frozenset[str] | None = None
    """Exactly these effective tags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request in one situation. *place* is `path:line:column`."""

    name: str
    place: str
    request: Request
    signals: Signals
    expected: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The cases of one file, checked against *policy*."""

    policy: Policy
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One expectation that did not come true, in words."""

    what: str
    expected: str
    came: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a case; it passed when there are no *mismatches*."""

    case: Case
    decision: Decision
    mismatches: tuple[Mismatch, ...]
    matched: frozenset[int]
    """The rules that held or ordered."""

    @property
    def passed(self) -> bool:
        """Everything came as expected."""
        return not self.mismatches


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of all cases of a policy."""

    policy: Policy
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Every case passed."""
        return all(outcome.passed for outcome in self.outcomes)

    @property
    def unmatched(self) -> tuple[Rule, ...]:
        """The rules that no case ever matched."""
        seen = {index for outcome in self.outcomes for index in outcome.matched}
        return tuple(rule for rule in self.policy.rules if rule.index not in seen)

    @property
    def untried(self) -> tuple[str, ...]:
        """The tags that no case ever had."""
        seen = {tag for outcome in self.outcomes for tag in outcome.decision.tags}
        return tuple(tag for tag in self.policy.tags if tag not in seen)

    @property
    def covered(self) -> bool:
        """Every rule was matched and every tag was there."""
        return not self.unmatched and not self.untried


def run_suite(policy: Policy, cases: Iterable[Case], judge: Judge) -> Report:
    """Decide every case. *judge* is asked about those that have a text."""
    return Report(policy=policy, outcomes=tuple(_run(policy, case, judge) for case in cases))


def _run(policy: Policy, case: Case, judge: Judge) -> Outcome:
    request, signals = case.request, case.signals
    if any(request.visible_text()):
        request, signals = judge(request, signals)
    decision = policy.decide(RequestMetadata.of(request), signals)
    labels = {f"{rule.label} {rule.kind}": rule.index for rule in policy.rules}
    return Outcome(
        case=case,
        decision=decision,
        mismatches=tuple(_mismatches(case.expected, decision)),
        matched=frozenset(labels[entry.rule] for entry in decision.trace if entry.matched),
    )


def _mismatches(expected: Expected, decision: Decision) -> Iterator[Mismatch]:
    came = " > ".join(decision.order) or NOBODY
    if expected.order is not None and expected.order != decision.order:
        yield Mismatch(what="order", expected=" > ".join(expected.order) or NOBODY, came=came)
    if expected.first and decision.order[:1] not in {(name,) for name in expected.first}:
        yield Mismatch(what="first", expected=" or ".join(expected.first), came=came)
    asked = [name for name in expected.never if name in decision.order]
    if asked:
        yield Mismatch(what="never", expected=f"not {' nor '.join(asked)}", came=came)
    if expected.rule and expected.rule != decision.rule:
        yield Mismatch(what="rule", expected=expected.rule, came=f"{decision.rule}: {decision.because}")
    if expected.tags is not None and expected.tags != decision.tags:
        yield Mismatch(what="tags", expected=_names(expected.tags), came=_names(decision.tags))
    yield from _reasons(expected.excluded, decision.excluded)


def _reasons(expected: Mapping[str, str], excluded: Mapping[str, str]) -> Iterator[Mismatch]:
    for name, part in expected.items():
        came = excluded.get(name)
        if came is None:
            yield Mismatch(what="excluded", expected=f"{name} is out", came=f"{name} may be asked")
        elif part not in came:
            yield Mismatch(what="excluded", expected=f"{name}: ...{part}...", came=f"{name}: {came}")


def _names(tags: Iterable[str]) -> str:
    return ", ".join(sorted(tags)) or "none"

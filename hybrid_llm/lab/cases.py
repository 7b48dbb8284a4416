"""Runs the test cases of a policy: a request, signals, and the expected decision. It reads no files.

A case gives tags, or a text in which the privacy guard detects them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.protocols import Detector
from hybrid_llm.core.request import RequestMetadata, estimate_tokens
from hybrid_llm.lab.casefile import Case, Expected
from hybrid_llm.policies.policy import Policy, Rule
from hybrid_llm.router.fleet import without
from hybrid_llm.router.privacy import PrivacyGuard

NO_BACKEND = "no backend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One expectation that failed, as text."""

    what: str
    expected: str
    actual: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one case."""

    case: Case
    decision: Decision
    mismatches: tuple[Mismatch, ...]
    matched: frozenset[int]
    """Indices of the rules that held or ordered."""

    @property
    def passed(self) -> bool:
        """Whether there is no mismatch."""
        return not self.mismatches


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The results of all cases of a policy."""

    policy: Policy
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return all(outcome.passed for outcome in self.outcomes)

    @property
    def unmatched(self) -> tuple[Rule, ...]:
        """The rules that no case matched."""
        seen = {index for outcome in self.outcomes for index in outcome.matched}
        return tuple(rule for rule in self.policy.rules if rule.index not in seen)

    @property
    def untried(self) -> tuple[str, ...]:
        """The tags that no case had."""
        seen = {tag for outcome in self.outcomes for tag in outcome.decision.tags}
        return tuple(tag for tag in self.policy.tags if tag not in seen)

    @property
    def covered(self) -> bool:
        """Whether every rule was matched and every tag occurred."""
        return not self.unmatched and not self.untried

    def to_dict(self) -> dict[str, Any]:
        """The results as plain data, for JSON."""
        return {
            "policy": self.policy.name,
            "digest": self.policy.digest,
            "passed": self.passed,
            "cases": [
                {
                    "name": outcome.case.name,
                    "position": outcome.case.position,
                    "passed": outcome.passed,
                    "mismatches": jsonable(outcome.mismatches),
                    "decision": outcome.decision.to_dict(),
                }
                for outcome in self.outcomes
            ],
            "rules_not_covered": [rule.label for rule in self.unmatched],
            "tags_not_covered": list(self.untried),
        }


def run_suite(policy: Policy, cases: Iterable[Case], detectors: Iterable[Detector] = ()) -> Report:
    """Decide every case; one that has a text is assessed by the privacy guard, as a real request is.

    *detectors* are those that the policy names beside the built-in ones.
    """
    guard = PrivacyGuard(detectors)
    return Report(policy=policy, outcomes=tuple(_run(policy, case, guard) for case in cases))


def _run(policy: Policy, case: Case, guard: PrivacyGuard) -> Outcome:
    request, signals = case.request, case.signals
    if any(request.visible_text()):
        counted = replace(request, prompt_tokens=request.prompt_tokens or estimate_tokens(request))
        assessment = guard.assess(counted, policy)
        guard.release(assessment)
        request, signals = assessment.request, without(assessment.blocked, signals)
    decision = policy.decide(RequestMetadata.of(request), signals)
    labels = {f"{rule.label} {rule.kind}": rule.index for rule in policy.rules}
    return Outcome(
        case=case,
        decision=decision,
        mismatches=tuple(_mismatches(case.expected, decision)),
        matched=frozenset(labels[entry.rule] for entry in decision.trace if entry.matched),
    )


def _mismatches(expected: Expected, decision: Decision) -> Iterator[Mismatch]:
    actual = " > ".join(decision.order) or NO_BACKEND
    if expected.order is not None and expected.order != decision.order:
        yield Mismatch(what="order", expected=" > ".join(expected.order) or NO_BACKEND, actual=actual)
    if expected.first and decision.order[:1] not in {(name,) for name in expected.first}:
        yield Mismatch(what="first", expected=" or ".join(expected.first), actual=actual)
    ordered = [name for name in expected.never if name in decision.order]
    if ordered:
        yield Mismatch(what="never", expected=f"not {' nor '.join(ordered)}", actual=actual)
    if expected.rule and expected.rule != decision.rule:
        yield Mismatch(what="rule", expected=expected.rule, actual=f"{decision.rule}: {decision.because}")
    if expected.tags is not None and expected.tags != decision.tags:
        yield Mismatch(what="tags", expected=_names(expected.tags), actual=_names(decision.tags))
    yield from _reasons(expected.excluded, decision.excluded)


def _reasons(expected: Mapping[str, str], excluded: Mapping[str, str]) -> Iterator[Mismatch]:
    for name, part in expected.items():
        actual = excluded.get(name)
        if actual is None:
            yield Mismatch(what="excluded", expected=f"{name} is excluded", actual=f"{name} is eligible")
        elif part not in actual:
            yield Mismatch(what="excluded", expected=f"{name}: ...{part}...", actual=f"{name}: {actual}")


def _names(tags: Iterable[str]) -> str:
    return ", ".join(sorted(tags)) or "none"

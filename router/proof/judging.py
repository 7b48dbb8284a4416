"""The first stage of a proof: what the guard makes of every set of tags and findings, and what it would clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import Final

from hybrid_llm.policies import Policy
from hybrid_llm.router.clearance import Cleared, Purpose
from hybrid_llm.router.errors import PrivacyViolation
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.proof.ledger import CLEARED, Ledger
from hybrid_llm.router.proof.oracle import Verdict, judge, mark
from hybrid_llm.router.proof.runs import Parts, detectors_of
from hybrid_llm.router.proof.world import Hidden, World
from hybrid_llm.router.request import Defaults, make_request
from hybrid_llm.router.types import Location, Request

__all__ = ["Judged", "judge_all", "subsets"]

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
            ledger.broke(verdict.tags, CLEARED, lambda fault=fault: (*world.steps(policy), *fault))  # type: ignore[misc]
    guard.release(assessment)
    if assessment.request.privacy != verdict.tags:
        told = f"the guard makes it {_names(assessment.request.privacy)}, and it is {_names(verdict.tags)}"
        ledger.broke(verdict.tags, CLEARED, lambda: (*world.steps(policy), told))
    return Judged(
        world=world,
        verdict=verdict,
        request=assessment.request,
        barred=frozenset(assessment.barred),
        hidden=assessment.form(Location.CLOUD) is not assessment.request,
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
    allowed = verdict.allowed if purpose is Purpose.ANSWER else verdict.keepable
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

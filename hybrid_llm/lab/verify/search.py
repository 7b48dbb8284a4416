"""Verifies a policy by bounded search: the real guard, policy and attempts, run over every case of a bounded world.

Three stages, the simplest cases first; each passes on one case of every kind that the next one could distinguish:

1. the guard judges every set of declared tags with every finding and failure of detectors;
2. for each kind of judgement, the policy decides under every outcome of its conditions and state of its backends;
3. for each decision, the real pipeline runs a request to its end, through every failure of every call.

Each step is checked against an oracle that knows the declarations of the tags and nothing of this code. Two
barriers are verified separately: what the policy decides, and what the guard would clear if the policy were wrong.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from hybrid_llm.core.request import Location
from hybrid_llm.lab.verify.attempting import attempt_all
from hybrid_llm.lab.verify.deciding import Parts, decide_all, judge_all
from hybrid_llm.lab.verify.report import UNTAGGED, Claim, Results, Scope, Statement, Verification
from hybrid_llm.lab.verify.world import abstract
from hybrid_llm.policies import Policy


def verify(
    policy: Policy,
    *,
    claims: Sequence[Claim] = (),
    defaults: frozenset[str] = frozenset(),
    parts: Parts | None = None,
) -> Verification:
    """Verify what *policy* promises for each of its tags, and *claims* besides.

    Args:
        policy: The policy to verify.
        claims: Further promises.
        defaults: The tags that the configuration adds to every request.
        parts: The code under verification.
    """
    parts, results, free = parts or Parts(), Results(), abstract(policy)
    with _quiet():
        kinds, covers = judge_all(free.policy, parts, results)
        decided, more = decide_all(free, kinds, results)
        covers |= more | attempt_all(free, decided, parts, results)
    statements = tuple(results.statement(tag) for tag in (*policy.tags, UNTAGGED))
    return Verification(
        policy=policy.name,
        digest=policy.digest,
        backends=policy.backends,
        statements=statements,
        claims=tuple((claim, results.against(claim)) for claim in claims),
        scope=Scope(judgements=results.judgements, decisions=results.decisions, requests=results.runs, searched=covers),
        notes=tuple(_notes(policy, statements, defaults)),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Detectors fail by the thousand here, on purpose: do not log it."""
    log = logging.getLogger("hybrid_llm.privacy")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _notes(policy: Policy, statements: Sequence[Statement], defaults: frozenset[str]) -> Iterator[str]:
    """Facts that may surprise."""
    reached = {statement.tag: statement.locations() + statement.locations(pseudonyms=True) for statement in statements}
    if Location.CLOUD in reached[UNTAGGED] and not defaults:
        yield "a request without a tag, in which nothing is found, may go to the cloud; see `defaults: {privacy: ...}`"
    for tag in sorted(defaults & policy.tags.keys()):
        yield f"the configuration tags every request {tag}"
    for tag, rule in policy.tags.items():
        if not rule.detect and rule.allow != frozenset(Location):
            yield f"no detector sets the tag {tag}: it protects only what the app declares"
        if not reached[tag]:
            yield f"no request with the tag {tag} ever reaches a backend"

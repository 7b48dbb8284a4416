"""Planted faults that `policy verify` itself must find: each breaks a promise on the path to a backend or cache."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_GUARD = "hybrid_llm.router.privacy.guard"
_SCAN = "hybrid_llm.router.privacy.scan"
_CALL = "hybrid_llm.router.execution.call"
_PIPELINE = "hybrid_llm.router.pipeline"
_CACHE = "hybrid_llm.router.caching.guarded"
_ATTEMPTS = "hybrid_llm.router.execution.attempts"

MUTANTS = (
    Mutant(
        "a failed detector does not keep a request local",
        f"{_GUARD}:PrivacyGuard._replace",
        drop("if scan.failed: ..."),
    ),
    Mutant("the guard clears every location", f"{_GUARD}:PrivacyGuard.clear", never("location not in allowed")),
    Mutant("findings set no tag", f"{_SCAN}:Scan.sees", never("any(self._findings(name))")),
    Mutant(
        "the cloud gets the original request",
        f"{_GUARD}:Assessment.request_for",
        swap(
            ("self.request if location is Location.EDGE or self.pseudonymised is None else self.pseudonymised"),
            "self.request",
        ),
    ),
    Mutant(
        "what may be answered may be cached",
        f"{_GUARD}:PrivacyGuard.clear",
        swap("assessment.allowed if purpose is Purpose.ANSWER else assessment.cacheable", "assessment.allowed"),
    ),
    Mutant(
        "a tag without findings does not keep a request local",
        f"{_GUARD}:PrivacyGuard._unsure",
        never("not scan.sees(rule)"),
    ),
    Mutant("a local request may leave", f"{_GUARD}:_keep_local", swap("judged.allowed & _DEVICE", "judged.allowed")),
    Mutant(
        "the answer of a local request is cached anywhere",
        f"{_GUARD}:_keep_local",
        swap("judged.cacheable & _DEVICE", "judged.cacheable"),
    ),
    Mutant(
        "every clearance is for the device",
        f"{_CALL}:BackendCalls.stream",
        swap(
            "self.guard.clear(assessment, backend.location)",
            "self.guard.clear(assessment, type(backend.location).EDGE)",
        ),
    ),
    Mutant(
        "an answer is continued anywhere",
        f"{_CALL}:BackendCalls._assess",
        never("backend.location not in assessment.allowed"),
    ),
    Mutant(
        "the policy does not see blocked locations",
        f"{_PIPELINE}:Pipeline._decide",
        swap("without(assessment.blocked, __signals)", "__signals"),
    ),
    Mutant(
        "an answer is cached whatever it holds",
        f"{_CACHE}:GuardedCache._may_store",
        always("self._cache.location in assessment.cacheable"),
    ),
    Mutant(
        "a cache is read where nothing may be cached",
        f"{_CACHE}:GuardedCache._clear",
        drop_operand("self._cache.location not in assessment.cacheable"),
    ),
    Mutant(
        "the attempts ignore the decision",
        f"{_ATTEMPTS}:Attempts._candidates",
        swap("self.decision.order", "self.breakers"),
    ),
)

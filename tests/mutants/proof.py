"""Faults that `policy prove` itself must find: each breaks a promise of privacy on the way to a backend or cache."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS = (
    Mutant(
        "a failing detector is no reason to stay",
        "privacy/guard.py",
        "        if scan.failed:\n            return _failed(judged, scan)\n        if Location",
        "        if Location",
    ),
    Mutant("the guard clears every place", "privacy/guard.py", "if location not in allowed:", "if location in ():"),
    Mutant(
        "findings set no tag", "privacy/guard.py", "return any(self.any(name) for name in rule.detect)", "return False"
    ),
    Mutant(
        "the cloud gets the request as it is",
        "privacy/guard.py",
        "return self.request if location is Location.EDGE or self.pseudonymised is None else self.pseudonymised",
        "return self.request",
    ),
    Mutant(
        "what may be answered may be kept",
        "privacy/guard.py",
        "allowed = assessment.allowed if purpose is Purpose.ANSWER else assessment.cacheable",
        "allowed = assessment.allowed",
    ),
    Mutant(
        "nothing to replace is no reason to stay",
        "privacy/guard.py",
        "            if not scan.sees(policy.tags[tag]):\n                return",
        "            if ():\n                return",
    ),
    Mutant("who must stay may go", "privacy/guard.py", "allowed=judged.allowed & _DEVICE", "allowed=judged.allowed"),
    Mutant(
        "the answer of who must stay is kept anywhere",
        "privacy/guard.py",
        "judged.allowed & _DEVICE, cacheable=judged.cacheable & _DEVICE",
        "judged.allowed & _DEVICE, cacheable=judged.cacheable",
    ),
    Mutant(
        "every clearance is for the device",
        "pipeline.py",
        "self._guard.clear(assessment, backend.location)",
        "self._guard.clear(assessment, Location.EDGE)",
    ),
    Mutant(
        "an answer is continued anywhere",
        "pipeline.py",
        "            if backend.location not in assessment.allowed:",
        "            if backend.location in ():",
    ),
    Mutant(
        "the policy does not learn of what the guard bars",
        "pipeline.py",
        "signals = without(assessment.blocked, self.snapshot(metadata))",
        "signals = self.snapshot(metadata)",
    ),
    Mutant(
        "an answer is kept whatever it holds",
        "kept.py",
        "        return cache.location in judged.cacheable",
        "        return True",
    ),
    Mutant(
        "a cache is asked where nothing may be kept",
        "kept.py",
        " or cache.location not in assessment.cacheable:",
        ":",
    ),
    Mutant(
        "the attempts stray from the decision",
        "attempts.py",
        "able = [name for name in self.decision.order if",
        "able = [name for name in self.breakers if",
    ),
)

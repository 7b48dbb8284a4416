"""What a proof has found so far: who reached what, the shortest steps to it, and the promises that were broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hybrid_llm.router.proof.records import UNTAGGED, Broken, Claim, Reach, Statement

__all__ = ["ATTEMPTED", "CLEARED", "DECIDED", "KEPT", "REACHED", "Ledger", "Steps"]

CLEARED = "the guard clears a request only for the places, and in the forms, that its tags allow"
DECIDED = "the policy names only backends that all tags allow, that are fit, and that no hard rule takes out"
ATTEMPTED = "only backends that the policy decided for are called"
REACHED = "a request reaches only the places, and in the forms, that its tags allow"
KEPT = "an answer is kept only where the tags of its request and of itself allow"

Steps = Callable[[], Iterable[str]]
"""Makes the steps that led somewhere, when they are wanted."""


class Ledger:
    """Keeps, for each tag, the shortest way to each place, and the shortest way to break a promise."""

    def __init__(self) -> None:
        self._reached: dict[tuple[str, Reach], tuple[str, ...]] = {}
        self._broken: dict[str, Broken] = {}
        self.judgements = self.decisions = self.runs = 0

    def reach(self, tags: frozenset[str], reach: Reach, steps: Steps) -> None:
        """A request with *tags* got there."""
        for tag in tags or (UNTAGGED,):
            if (tag, reach) not in self._reached:
                self._reached[tag, reach] = tuple(steps())

    def broke(self, tags: frozenset[str], promise: str, steps: Steps) -> None:
        """A request with *tags* broke *promise*."""
        found = Broken(promise=promise, steps=tuple(steps()))
        for tag in tags or (UNTAGGED,):
            known = self._broken.get(tag)
            if known is None or len(found.steps) < len(known.steps):
                self._broken[tag] = found

    def statement(self, tag: str) -> Statement:
        """What is known of *tag*."""
        reaches = frozenset(reach for name, reach in self._reached if name == tag)
        return Statement(tag=tag, reaches=reaches, broken=self._broken.get(tag))

    def against(self, claim: Claim) -> Broken | None:
        """The shortest way to a place that *claim* rules out."""
        ways = [
            steps
            for (tag, reach), steps in self._reached.items()
            if tag == claim.tag and reach.place not in claim.places
        ]
        only = " and ".join(sorted(claim.places)) or "no place"
        promise = f"requests with {claim.tag} reach only {only}"
        if claim.tag == UNTAGGED:
            promise = f"requests without a tag reach only {only}"
        return Broken(promise=promise, steps=min(ways, key=len)) if ways else None

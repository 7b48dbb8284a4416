"""What the tags of a policy allow, worked out from their declarations alone: what the real code is held against.

It shares no code with the guard or the policy, on purpose.

The report of a verification: a statement for each tag and, where one is violated, the steps that violate it.

Collects what a search has found: what requests reach, the shortest steps to it, and violated promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from hybrid_llm.core.request import Location
from hybrid_llm.policies import TagRule

_DEVICE = frozenset({Location.EDGE})


def mark(detector: str) -> str:
    """What stands in a text for something that *detector* finds."""
    return f"<<{detector}>>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Where a request may go and an answer to it may be kept; *hidden* may not be read in the form for the cloud."""

    tags: frozenset[str]
    allowed: frozenset[Location]
    cacheable: frozenset[Location]
    hidden: frozenset[str]
    why: str
    """Why a place that is not allowed is out, for people."""


def judge(
    tags: Mapping[str, TagRule], declared: Iterable[str], finds: frozenset[str], fails: frozenset[str]
) -> Verdict:
    """The verdict on a request with *declared* tags, in which detectors *finds* find something and *fails* raise."""
    effective = {*declared, *(tag for tag, rule in tags.items() if finds.intersection(rule.detect))}
    rules = {tag: tags[tag] for tag in sorted(effective)}
    allowed, cacheable = frozenset(Location), frozenset(Location)
    for rule in rules.values():
        allowed, cacheable = allowed & rule.allow, cacheable & rule.cache
    doubt = _doubt(tags, rules, finds, fails)
    if doubt:
        allowed, cacheable = allowed & _DEVICE, cacheable & _DEVICE
    hiding = [rule for rule in rules.values() if rule.pseudonymise]
    return Verdict(
        tags=frozenset(effective),
        allowed=allowed,
        cacheable=cacheable,
        hidden=frozenset(name for rule in hiding for name in rule.detect),
        why=doubt or "; ".join(f"tag {tag} allows only {_names(rule.allow)}" for tag, rule in rules.items()),
    )


def _doubt(
    tags: Mapping[str, TagRule], rules: Mapping[str, TagRule], finds: frozenset[str], fails: frozenset[str]
) -> str:
    """Why the request must stay on the device although its tags may allow more; empty where nothing is in doubt."""
    for tag, rule in tags.items():
        failed = fails.intersection(rule.detect)
        if failed and (tag not in rules or rule.pseudonymise):
            return f"the detector {min(failed)} of tag {tag} failed"
    for tag, rule in rules.items():
        if rule.pseudonymise and not finds.intersection(rule.detect):
            return f"tag {tag} demands pseudonyms, and nothing is found to replace"
    return ""


def _names(places: frozenset[Location]) -> str:
    return " and ".join(sorted(places)) or "no place"


UNTAGGED = "no tag"
"""Stands for requests without any tag, where statements name a tag."""


NOT_SEARCHED: Final = (
    "what detectors miss in real text: each one here finds exactly its own marker",
    "backends that report a wrong location to this library",
    "requests that run at the same time, and timing beyond deadlines and slow first tokens",
    "failures, conditions and detectors beyond the combinations named above",
)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Reach:
    """A place that a request got to, and in which form."""

    place: Location
    pseudonyms: bool = False
    kept: bool = False
    """An answer was kept there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What somebody wants to be true besides: requests with *tag* get to no place but *places*."""

    tag: str
    places: frozenset[Location]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """The shortest way found that breaks a promise. *promise* says which; *steps* can be followed by a person."""

    promise: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What holds for all requests that carry *tag*, alone or with other tags."""

    tag: str
    reaches: frozenset[Reach]
    violation: Violation | None = None

    def places(self, *, pseudonyms: bool = False, kept: bool = False) -> list[Location]:
        """Where they get to, in this form."""
        wanted = [Reach(place=place, pseudonyms=pseudonyms, kept=kept) for place in Location]
        return [reach.place for reach in wanted if reach in self.reaches]

    def text(self) -> str:
        """The statement as a person reads it."""
        plain, kept = self.places(), self.places(kept=True)
        hidden = [place for place in self.places(pseudonyms=True) if place not in plain]
        if not plain and not hidden:
            return "reaches no backend"
        if plain == [Location.EDGE] and not hidden:
            said = "never leaves the device"
        else:
            said = f"reaches {' and '.join(plain)} as it is" if plain else "is never sent as it is"
        said += f"; reaches {' and '.join(hidden)} only with pseudonyms" if hidden else ""
        return said + (f"; answers are kept on {' and '.join(kept)}" if kept else "; no answer is kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a verification searched, and what it did not."""

    judgements: int
    """Requests that the guard judged."""
    decisions: int
    """Decisions of the policy."""
    requests: int
    """Requests that were run to their end."""
    searched: Mapping[str, str]
    """Each dimension of the search (tags, detectors, conditions, ...) -> which of its cases were tried."""
    not_searched: tuple[str, ...] = NOT_SEARCHED

    def lines(self) -> Iterator[str]:
        """The scope as text, to be shown above the statements."""
        yield (
            f"searched: {self.judgements} judgements of the guard, {self.decisions} decisions, "
            f"{self.requests} requests run to their end"
        )
        yield from (f"  {name:<13} {cases}" for name, cases in self.searched.items())
        yield "not searched:"
        yield from (f"  - {gap}" for gap in self.not_searched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a bounded search found about one policy and its backends."""

    policy: str
    digest: str
    backends: Mapping[str, Location]
    statements: tuple[Statement, ...]
    claims: tuple[tuple[Claim, Violation | None], ...]
    scope: Scope
    notes: tuple[str, ...]
    """What is true and may surprise, such as a tag that no detector sets."""

    @property
    def holds(self) -> bool:
        """Whether no promise and no claim is violated."""
        statements = all(statement.violation is None for statement in self.statements)
        return statements and all(violation is None for _, violation in self.claims)


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
        self._violations: dict[str, Violation] = {}
        self.judgements = self.decisions = self.runs = 0

    def reach(self, tags: frozenset[str], reach: Reach, steps: Steps) -> None:
        """A request with *tags* got there."""
        for tag in tags or (UNTAGGED,):
            if (tag, reach) not in self._reached:
                self._reached[tag, reach] = tuple(steps())

    def violate(self, tags: frozenset[str], promise: str, steps: Steps) -> None:
        """A request with *tags* broke *promise*."""
        found = Violation(promise=promise, steps=tuple(steps()))
        for tag in tags or (UNTAGGED,):
            known = self._violations.get(tag)
            if known is None or len(found.steps) < len(known.steps):
                self._violations[tag] = found

    def statement(self, tag: str) -> Statement:
        """What is known of *tag*."""
        reaches = frozenset(reach for name, reach in self._reached if name == tag)
        return Statement(tag=tag, reaches=reaches, violation=self._violations.get(tag))

    def against(self, claim: Claim) -> Violation | None:
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
        return Violation(promise=promise, steps=min(ways, key=len)) if ways else None

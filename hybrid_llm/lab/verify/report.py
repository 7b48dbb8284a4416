"""The report of a verification: what the tags allow, what the search found for each tag, and what it covered.

`judge` works out from the declarations of the tags alone what is allowed, and on purpose shares no code with the guard
or the policy: it is what they are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from hybrid_llm.core.request import Location
from hybrid_llm.policies import KNOWN_DETECTORS, TagRule

_DEVICE = frozenset({Location.EDGE})


def mark(detector: str) -> str:
    """The text that *detector* finds."""
    return f"<<{detector}>>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Where a request may go, and where its answer may be cached."""

    tags: frozenset[str]
    allowed: frozenset[Location]
    cacheable: frozenset[Location]
    pseudonymised: frozenset[str]
    """The detectors whose findings must not be in the form for the cloud."""
    why: str
    """Why the other locations are not allowed."""


def judge(
    tags: Mapping[str, TagRule], declared: Iterable[str], finds: frozenset[str], fails: frozenset[str]
) -> Verdict:
    """The verdict on a request with *declared* tags, in which detectors *finds* find something and *fails* raise."""
    declared = frozenset(declared)
    effective = {*declared, *(tag for tag, rule in tags.items() if finds.intersection(rule.detect))}
    rules = {tag: tags[tag] for tag in sorted(effective)}
    allowed, cacheable = frozenset(Location), frozenset(Location)
    for rule in rules.values():
        allowed, cacheable = allowed & rule.allow, cacheable & rule.cache
    doubt = _doubt(tags, rules, finds, fails) or _unnamed(rules, declared)
    if doubt:
        allowed, cacheable = allowed & _DEVICE, cacheable & _DEVICE
    pseudonymising = [rule for rule in rules.values() if rule.pseudonymise]
    return Verdict(
        tags=frozenset(effective),
        allowed=allowed,
        cacheable=cacheable,
        pseudonymised=frozenset(name for rule in pseudonymising for name in rule.detect),
        why=doubt or "; ".join(f"tag {tag} allows only {_names(rule.allow)}" for tag, rule in rules.items()),
    )


def _doubt(
    tags: Mapping[str, TagRule], rules: Mapping[str, TagRule], finds: frozenset[str], fails: frozenset[str]
) -> str:
    """Why the request must stay on the device although its tags may allow more; empty if nothing is in doubt."""
    for tag, rule in tags.items():
        failed = fails.intersection(rule.detect)
        if failed and (tag not in rules or rule.pseudonymise):
            return f"the detector {min(failed)} of tag {tag} failed"
    for tag, rule in rules.items():
        if rule.pseudonymise and not finds.intersection(rule.detect):
            return f"tag {tag} requires pseudonyms, and nothing is found to replace"
    return ""


def _unnamed(rules: Mapping[str, TagRule], declared: frozenset[str]) -> str:
    """Why a declared tag keeps the request on the device although its detectors find something."""
    for tag, rule in rules.items():
        if rule.pseudonymise and tag in declared and not (rule.accept_undetected_names or finds_names(rule.detect)):
            return f"tag {tag} is declared, and none of its detectors finds names"
    return ""


def finds_names(detectors: Iterable[str]) -> bool:
    """Whether one of *detectors* may find names of people: the built-in ones do not, others are assumed to."""
    return not KNOWN_DETECTORS.issuperset(detectors)


def _names(locations: frozenset[Location]) -> str:
    return " and ".join(sorted(locations)) or "no location"


UNTAGGED = "no tag"
"""The name of requests without a tag, in place of a tag."""


NOT_SEARCHED: Final = (
    "what detectors miss in real text: each one here finds exactly its own marker",
    "backends that report a wrong location to this library",
    "requests that run at the same time, and timing beyond deadlines and slow first tokens",
    "failures, conditions and detectors beyond the combinations named above",
)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Reach:
    """A location that a request reached, and in which form."""

    location: Location
    pseudonyms: bool = False
    cached: bool = False
    """An answer was cached there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A further promise to verify: requests with *tag* reach only *locations*."""

    tag: str
    locations: frozenset[Location]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise that is violated, and the shortest steps found that lead to it, as text."""

    promise: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What holds for all requests that carry *tag*, alone or with other tags."""

    tag: str
    reaches: frozenset[Reach]
    sealed: bool = False
    """The cloud is reached only through backends that seal."""
    violation: Violation | None = None

    def locations(self, *, pseudonyms: bool = False, cached: bool = False) -> list[Location]:
        """The locations that they reach in this form."""
        wanted = [Reach(location=location, pseudonyms=pseudonyms, cached=cached) for location in Location]
        return [reach.location for reach in wanted if reach in self.reaches]

    def text(self) -> str:
        """The statement as text."""
        plain, cached = self.locations(), self.locations(cached=True)
        pseudonymised = [location for location in self.locations(pseudonyms=True) if location not in plain]
        if not plain and not pseudonymised:
            return "reaches no backend"
        if plain == [Location.EDGE] and not pseudonymised:
            text = "never leaves the device"
        else:
            text = f"reaches {' and '.join(plain)} as it is" if plain else "is never sent as it is"
        text += f"; reaches {' and '.join(pseudonymised)} only with pseudonyms" if pseudonymised else ""
        text += "; only sealed" if self.sealed else ""
        return text + (f"; answers are cached on {' and '.join(cached)}" if cached else "; no answer is cached")


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
    """Facts that may surprise, such as a tag that no detector sets."""

    @property
    def holds(self) -> bool:
        """Whether no promise and no claim is violated."""
        statements = all(statement.violation is None for statement in self.statements)
        return statements and all(violation is None for _, violation in self.claims)


CLEARED = "the guard clears a request only for the locations, and in the forms, that its tags allow"
DECIDED = "the policy orders only backends that all tags allow, that are ready, and that no hard rule excludes"
ATTEMPTED = "only backends in the order of the decision are called"
REACHED = "a request reaches only the locations, and in the forms, that its tags allow"
CACHED = "an answer is cached only where the tags of its request and of its own text allow it"

Steps = Callable[[], Iterable[str]]
"""Makes the steps to a finding, if they are needed."""


class Results:
    """Collects, for each tag, the first steps to each location, and the shortest steps to a violation."""

    def __init__(self) -> None:
        self._reached: dict[tuple[str, Reach], tuple[str, ...]] = {}
        self._violations: dict[str, Violation] = {}
        self.judgements = self.decisions = self.runs = 0

    def reach(self, tags: frozenset[str], reach: Reach, steps: Steps) -> None:
        """Record what a request with *tags* reached."""
        for tag in tags or (UNTAGGED,):
            if (tag, reach) not in self._reached:
                self._reached[tag, reach] = tuple(steps())

    def violate(self, tags: frozenset[str], promise: str, steps: Steps) -> None:
        """Record that a request with *tags* violated *promise*."""
        found = Violation(promise=promise, steps=tuple(steps()))
        for tag in tags or (UNTAGGED,):
            known = self._violations.get(tag)
            if known is None or len(found.steps) < len(known.steps):
                self._violations[tag] = found

    def statement(self, tag: str, *, sealed: bool) -> Statement:
        """What was found for *tag*, which goes to the cloud only *sealed*."""
        reaches = frozenset(reach for name, reach in self._reached if name == tag)
        return Statement(tag=tag, reaches=reaches, sealed=sealed, violation=self._violations.get(tag))

    def against(self, claim: Claim) -> Violation | None:
        """The shortest steps to a location that *claim* rules out."""
        found = [
            steps
            for (tag, reach), steps in self._reached.items()
            if tag == claim.tag and reach.location not in claim.locations
        ]
        only = _names(claim.locations)
        which = "without a tag" if claim.tag == UNTAGGED else f"with {claim.tag}"
        promise = f"requests {which} reach only {only}"
        return Violation(promise=promise, steps=min(found, key=len)) if found else None

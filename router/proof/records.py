"""What a proof says: for each tag a statement, and where one is broken, the steps that break it. Records only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid_llm.router.types import Location

__all__ = ["UNTAGGED", "Bound", "Broken", "Claim", "Proof", "Reach", "Statement"]

UNTAGGED = "no tag"
"""Stands for requests without any tag, where statements name a tag."""


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
class Broken:
    """The shortest way found that breaks a promise. *promise* says which; *steps* can be followed by a person."""

    promise: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is proved of the requests that carry *tag*, alone or with others."""

    tag: str
    reaches: frozenset[Reach]
    broken: Broken | None = None

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
class Bound:
    """How much was looked at, and what the looking covers: *covers* maps each dimension to words."""

    judgements: int
    decisions: int
    runs: int
    covers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What is proved of one policy against its backends."""

    policy: str
    digest: str
    backends: Mapping[str, Location]
    statements: tuple[Statement, ...]
    claims: tuple[tuple[Claim, Broken | None], ...]
    bound: Bound
    notes: tuple[str, ...]
    """What is true and may surprise, such as a tag that no detector sets."""

    @property
    def holds(self) -> bool:
        """Nothing is broken."""
        statements = all(statement.broken is None for statement in self.statements)
        return statements and all(broken is None for _, broken in self.claims)

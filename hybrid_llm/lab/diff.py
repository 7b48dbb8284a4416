"""Compares the decisions of two policies on the same requests and signals: which requests are rerouted, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.policies.policy import Policy

NO_BACKEND = "no backend"
REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision of one policy on one request; *refused* is the error instead, such as an undeclared tag."""

    order: tuple[str, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    rule: str = ""
    because: str = ""
    refused: str = ""

    @property
    def first(self) -> str:
        """The first backend; `no backend` or `refused` without one."""
        return REFUSED if self.refused else self.order[0] if self.order else NO_BACKEND

    @property
    def route(self) -> str:
        """The order as text."""
        return " > ".join(self.order) or self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One request on which the policies differ. *exposed* are the locations that only the new policy lets it reach."""

    metadata: RequestMetadata
    old: Verdict
    new: Verdict
    exposed: tuple[Location, ...]
    why: str

    @property
    def elsewhere(self) -> bool:
        """Whether the first backend differs; else only the fallbacks do."""
        return self.old.first != self.new.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The result for all requests. *routes* counts them by the old and the new first backend."""

    total: int
    changes: tuple[Change, ...]
    routes: tuple[tuple[str, str, int], ...]

    @property
    def elsewhere(self) -> int:
        """How many requests have another first backend."""
        return sum(change.elsewhere for change in self.changes)


def compare(old: Policy, new: Policy, samples: Iterable[tuple[RequestMetadata, Signals]]) -> Difference:
    """Decide every sample twice."""
    routes: Counter[tuple[str, str]] = Counter()
    changes = []
    for metadata, signals in samples:
        before, after = _verdict(old, metadata, signals), _verdict(new, metadata, signals)
        routes[before.first, after.first] += 1
        if (before.order, before.refused) != (after.order, after.refused):
            changes.append(_change(new, metadata, before, after))
    ordered = tuple((was, now, count) for (was, now), count in routes.most_common())
    return Difference(total=routes.total(), changes=tuple(changes), routes=ordered)


def _verdict(policy: Policy, metadata: RequestMetadata, signals: Signals) -> Verdict:
    try:
        decision = policy.decide(metadata, signals)
    except InvalidRequest as error:
        return Verdict(refused=str(error))
    return Verdict(order=decision.order, excluded=decision.excluded, rule=decision.rule, because=decision.because)


def _change(new: Policy, metadata: RequestMetadata, before: Verdict, after: Verdict) -> Change:
    reached = {new.backends.get(name) for name in after.order} - {new.backends.get(name) for name in before.order}
    return Change(
        metadata=metadata,
        old=before,
        new=after,
        exposed=tuple(location for location in Location if location in reached),
        why=_why(before, after),
    )


def _why(before: Verdict, after: Verdict) -> str:
    """Why backends are excluded now; else why the new order applies."""
    gone = [f"not {name}: {after.excluded[name]}" for name in before.order if name in after.excluded]
    return after.refused or "; ".join(gone) or after.because

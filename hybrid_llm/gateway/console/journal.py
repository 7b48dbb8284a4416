"""The decisions made last, without any text, and how often each rule decided: a hook in bounded memory."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from hybrid_llm.router.observability.hooks import RequestEvent

_MOST_COUNTS: Final = 256
"""Policies and tenants that are counted; the pair that was used longest ago is dropped first."""
_RULE: Final = re.compile(r"\((rules\[\d+\])\)$")


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished request: its *number*, when it began (seconds since 1970), and the event, which has no text."""

    number: int
    at: float
    event: RequestEvent

    def is_of(self, tenant: str | None) -> bool:
        """Whether *tenant* may see it; None may see all."""
        return tenant is None or self.event.metadata.tenant == tenant


@dataclass(slots=True)
class Counts:
    """What the rules of one policy did: rule, or `tags` and `state` beside the rules -> how often."""

    requests: int = 0
    decided: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)

    def add(self, event: RequestEvent) -> None:
        """Count one request."""
        self.requests += 1
        if event.decision.order:
            self.decided[event.decision.rule] += 1
        self.excluded.update({_excluded_by(reason) for reason in event.decision.excluded.values()})


class Journal:
    """Remembers the last *capacity* requests. Thread-safe."""

    def __init__(self, capacity: int = 500) -> None:
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self._counts: OrderedDict[tuple[str | None, str], Counts] = OrderedDict()
        self._number = 0
        self._lock = threading.Lock()

    def __call__(self, event: RequestEvent) -> None:
        """Note *event*, for its tenant and among all."""
        at = time.time() - (time.monotonic() - event.metadata.created)
        with self._lock:
            self._number += 1
            self._entries.append(Entry(self._number, at, event))
            for tenant in {None, event.metadata.tenant}:
                self._counts_of(tenant, event.decision.digest).add(event)

    def _counts_of(self, tenant: str | None, digest: str) -> Counts:
        counts = self._counts.pop((tenant, digest), None) or Counts()
        self._counts[tenant, digest] = counts
        while len(self._counts) > _MOST_COUNTS:
            self._counts.popitem(last=False)
        return counts

    def latest(self, tenant: str | None, *, after: int = 0, most: int = 100) -> list[Entry]:
        """The *most* latest entries of *tenant* beyond number *after*, the latest first; those of all for None."""
        with self._lock:
            entries = list(self._entries)
        own = (entry for entry in reversed(entries) if entry.number > after and entry.is_of(tenant))
        return list(islice(own, most))

    def find(self, request_id: str, tenant: str | None) -> Entry | None:
        """The request with this id, if *tenant* may see it and it is not forgotten."""
        entries = self.latest(tenant, most=len(self._entries))
        return next((entry for entry in entries if entry.event.request_id == request_id), None)

    def counts(self, digest: str, tenant: str | None) -> Counts:
        """What the rules of the policy with this *digest* did for *tenant*; for all if None."""
        with self._lock:
            found = self._counts.get((tenant, digest), Counts())
            return Counts(found.requests, found.decided.copy(), found.excluded.copy())


def _excluded_by(reason: str) -> str:
    """The rule that gave *reason*, as `policies.policy` writes it; else `tags`, or `state` of a backend."""
    if (match := _RULE.search(reason)) is not None:
        return match[1]
    return "tags" if reason.startswith(("tag ", "no tag ")) else "state"

"""Refused calls in an audit log, bounded: a flood of them becomes a few records, so that nobody fills the disk.

Of a caller that is refused for one reason, the first calls of a while are recorded one by one, and the others as one
record with their number when the while is over.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Final

from hybrid_llm.backends.audit.entries import AuditEntry

_EVERY_S: Final = 60.0
_EACH: Final = 5
"""Calls that are recorded one by one in a while: those of one caller for one reason,"""
_MOST: Final = 60
"""and those of all."""
_SUMS: Final = 60
"""Callers and reasons that get a sum of their own in a while; beyond, a sum has a reason alone."""

_Kind = tuple[str, str, str, str]


class Refusals:
    """Passes refused calls on to *record*, at once or as sums every *every_s* seconds. Thread-safe."""

    def __init__(self, record: Callable[[AuditEntry], object], *, every_s: float = _EVERY_S) -> None:
        self._record, self._every_s = record, every_s
        self._lock = threading.Lock()
        self._single: Counter[_Kind] = Counter()
        self._sums: dict[_Kind, AuditEntry] = {}
        self._timer: threading.Timer | None = None

    def add(self, entry: AuditEntry) -> None:
        """Record *entry*, or count it."""
        kind = (entry.identity, entry.tenant, entry.address, entry.outcome)
        with self._lock:
            self._begin()
            if self._single[kind] >= _EACH or self._single.total() >= _MOST:
                self._count(kind, entry)
                return
            self._single[kind] += 1
        self._record(entry)

    def close(self) -> None:
        """Record the sums so far. Idempotent."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
        self._end()

    def _begin(self) -> None:
        """A while begins with its first call."""
        if self._timer is None:
            self._timer = threading.Timer(self._every_s, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _count(self, kind: _Kind, entry: AuditEntry) -> None:
        if kind not in self._sums and len(self._sums) >= _SUMS:
            kind = ("", "", "", entry.outcome)
        identity, tenant, address, outcome = kind
        before = self._sums.get(kind)
        self._sums[kind] = AuditEntry(
            event="refused",
            at_ms=entry.at_ms,
            identity=identity,
            tenant=tenant,
            address=address,
            outcome=outcome,
            count=1 if before is None else before.count + 1,
        )

    def _end(self) -> None:
        with self._lock:
            sums = list(self._sums.values())
            self._single.clear()
            self._sums.clear()
            self._timer = None
        for entry in sums:
            self._record(entry)

"""Keeps garbage collection and what is being published apart, on a storage that can only create, list and delete.

A publisher creates a lease on what it is about to refer to, and then looks for a collection in progress; a collection
creates its mark, and then looks for leases. Storage is consistent, so of two that overlap at least one sees the other:
the publisher waits, or the collection keeps what is leased (Dekker's principle). Both end by themselves: a lease and a
mark that were left behind by a process that died count for a limited time, by the clock of the storage.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from hybrid_llm.backends.models.registry.errors import RegistryError
from hybrid_llm.backends.models.registry.storage import Storage, Stored
from hybrid_llm.core.jsontext import parse_json

LEASE_S: Final = 7 * 86_400.0
"""How long a lease counts: no publication takes longer."""
MARK_S: Final = 1_800.0
"""How long the mark of a collection counts."""
COLLECTION_S: Final = MARK_S / 3
"""How long a collection deletes."""
_WAIT_S: Final = 120.0
_LOOK_S: Final = 0.02, 1.0
"""Seconds between two looks: the first, and the most; each doubles."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What is about to be referred to; it counts as long as it is in the storage."""

    storage: Storage
    path: str

    def require(self) -> None:
        """Raise RegistryError if the lease is gone: it took too long, and a collection went ahead."""
        if self.storage.stat(self.path) is None:
            text = "it took too long, and a garbage collection went ahead: do it again, it goes on where it ended"
            raise RegistryError(text, url=self.storage.url, retryable=True)


@contextmanager
def leased(storage: Storage, paths: Sequence[str]) -> Iterator[Lease]:
    """Hold a lease on the objects at *paths*, which may not be there yet; waits for a collection in progress.

    Raises:
        RegistryError: the collection does not end.
    """
    lease = Lease(storage, f"leases/{secrets.token_hex(16)}.json")
    storage.create(lease.path, json.dumps(sorted(paths)).encode())
    try:
        _wait(storage, lease)
        yield lease
    finally:
        with suppress(RegistryError):  # it ends by itself
            storage.delete(lease.path)


def _wait(storage: Storage, lease: Lease) -> None:
    until, (pause, longest) = time.monotonic() + _WAIT_S, _LOOK_S
    while (mark := _mark_in_force(storage, lease)) is not None:
        if time.monotonic() > until:
            text = f"a garbage collection is running in {storage.url}: try again later, or delete {mark} if it died"
            raise RegistryError(text, url=storage.url, retryable=True)
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _mark_in_force(storage: Storage, lease: Lease) -> str | None:
    """A mark that is not older than it may be, by the time of the lease."""
    marks = storage.list("collecting")
    if not marks:
        return None
    own = storage.stat(lease.path)
    now = own.modified if own is not None else max(mark.modified for mark in marks)
    return next((mark.path for mark in marks if now - mark.modified < MARK_S), None)


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection in progress: what is leased, and the storage's time when it began."""

    leased: frozenset[str]
    now: float
    until: float

    @property
    def over(self) -> bool:
        """Whether its time is up; then it must delete nothing more."""
        return time.monotonic() > self.until


@contextmanager
def collecting(storage: Storage) -> Iterator[Collection]:
    """Mark a collection, then read the leases; those that count no longer are deleted."""
    until = time.monotonic() + COLLECTION_S
    path = f"collecting/{secrets.token_hex(16)}.json"
    storage.create(path, b"{}")
    try:
        mark = storage.stat(path)
        now = mark.modified if mark is not None else time.time()
        for other in storage.list("collecting"):
            if now - other.modified > LEASE_S:
                storage.delete(other.path)  # of a collection that died
        yield Collection(_leased(storage, now), now, until)
    finally:
        with suppress(RegistryError):
            storage.delete(path)


def _leased(storage: Storage, now: float) -> frozenset[str]:
    found: set[str] = set()
    for stored in storage.list("leases"):
        if now - stored.modified > LEASE_S:
            storage.delete(stored.path)
        else:
            found.update(_paths(storage, stored))
    return frozenset(found)


def _paths(storage: Storage, stored: Stored) -> list[str]:
    data = storage.read(stored.path)
    return [] if data is None else [str(path) for path in parse_json(data)]

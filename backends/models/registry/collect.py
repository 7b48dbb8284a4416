"""Garbage collection: deletes pieces that no version refers to, and on demand versions that no alias has pointed to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hybrid_llm.backends.models.registry.leases import Collection, collecting
from hybrid_llm.backends.models.registry.records import AliasEntry
from hybrid_llm.backends.models.registry.registry import ModelRegistry
from hybrid_llm.backends.models.registry.storage import Stored

GRACE_S: Final = 86_400.0
"""Age from which on a piece that no version refers to is deleted, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was deleted, or would be: pieces, their bytes, and versions.

    *complete*: nothing was left for lack of time.
    """

    blobs: int
    bytes: int
    versions: tuple[str, ...]
    complete: bool


def collect(
    registry: ModelRegistry, *, grace_s: float = GRACE_S, unused_s: float | None = None, dry_run: bool = False
) -> Collected:
    """Delete what nothing refers to, and what is older than *grace_s*.

    What is being published is left alone, and who begins to publish meanwhile waits (see `leases`).

    Args:
        registry: Where.
        grace_s: the least age of what is deleted, seconds.
        unused_s: delete also versions older than this, seconds, that no alias points to or has pointed to; None keeps
            every version.
        dry_run: only report.

    Raises:
        RegistryError: the storage cannot be used.
        ConfigError, SecurityError: a manifest cannot be read, so that it is unknown what it refers to; nothing was
            deleted.
    """
    with collecting(registry.storage) as collection:
        versions = [] if unused_s is None else list(_unused(registry, collection, max(unused_s, grace_s)))
        gone = {f"{name}@{digest}" for name, digest in versions}
        needed = _needed(registry, gone) | collection.leased  # before anything is deleted
        blobs = [one for one in _old(registry, collection, grace_s) if one.path not in needed]
        deleted, complete = [], True
        if not dry_run:
            complete = _delete_versions(registry, collection, versions)
        for blob in blobs:
            if collection.over or not complete:
                complete = False
                break
            if not dry_run:
                registry.storage.delete(blob.path)
            deleted.append(blob.bytes)
    return Collected(blobs=len(deleted), bytes=sum(deleted), versions=tuple(sorted(gone)), complete=complete)


def _needed(registry: ModelRegistry, gone: set[str]) -> set[str]:
    """The paths of all pieces of the versions that stay."""
    found: set[str] = set()
    for name, digest, _ in registry.all_versions():
        if f"{name}@{digest}" not in gone:
            pieces = registry.version(name, digest).manifest.pieces
            found.update(registry.blob_path(piece) for piece in pieces)
    return found


def _old(registry: ModelRegistry, collection: Collection, grace_s: float) -> Iterator[Stored]:
    return (one for one in registry.storage.list("blobs") if collection.now - one.modified >= grace_s)


def _unused(registry: ModelRegistry, collection: Collection, age_s: float) -> Iterator[tuple[str, str]]:
    """Name and digest of each version that is old, not leased, and that no alias has ever pointed to."""
    used = {(name, entry.version) for name in registry.names() for entry in _moves(registry, name)}
    for name, digest, published in registry.all_versions():
        leased = registry.manifest_path(name, digest) in collection.leased
        if (name, digest) not in used and not leased and collection.now - published >= age_s:
            yield name, digest


def _moves(registry: ModelRegistry, name: str) -> Iterator[AliasEntry]:
    for alias in registry.aliases(name):
        yield from registry.history(name, alias)


def _delete_versions(registry: ModelRegistry, collection: Collection, versions: list[tuple[str, str]]) -> bool:
    """Delete each manifest first: then the version is gone for everybody. False if time ran out."""
    for name, digest in versions:
        if collection.over:
            return False
        registry.storage.delete(registry.manifest_path(name, digest))
        for stored in registry.storage.list(f"models/{name}/{digest}"):
            registry.storage.delete(stored.path)
    return True

"""Planted faults of the registry of models: overwritten, not checked, or deleted too early."""

from __future__ import annotations

from tests.mutants.changes import drop, never, swap
from tests.mutants.mutant import Mutant

_ROOM = "hybrid_llm.backends.models.registry"

MUTANTS = (
    Mutant(
        "of two who create an object at once the later one overwrites the other",
        f"{_ROOM}.local:_link",
        swap("os.link(new, target)", "new.replace(target)"),
    ),
    Mutant(
        "of two who move an alias at once both believe that they did",
        f"{_ROOM}.registry:ModelRegistry._move",
        never("not self.storage.create(path, entry.encode()) and self._entry(path).token != token"),
    ),
    Mutant(
        "a second rollback goes forward again",
        f"{_ROOM}.registry:ModelRegistry.rollback",
        swap(
            "replace(earlier, number=current.number + 1)",
            "replace(earlier, number=current.number + 1, previous=current.number)",
        ),
    ),
    Mutant(
        "the manifest of another model is accepted",
        f"{_ROOM}.registry:ModelRegistry.version",
        never("manifest.name != name"),
    ),
    Mutant("pieces are not checked", f"{_ROOM}.keys:Plain.unseal", never("digest_of(stored) != digest")),
    Mutant(
        "a file of other pieces than its digest says is accepted",
        f"{_ROOM}.pull:_fill",
        never("read_file(part / name).sha256 != manifest.files[name].sha256"),
    ),
    Mutant(
        "a piece of an earlier version that was changed meanwhile is used",
        f"{_ROOM}.pull:_LocalPieces.read",
        swap("data if digest_of(data) == piece else None", "data"),
    ),
    Mutant("pieces that are here are fetched again", f"{_ROOM}.pull:_fill", swap("local.read(piece)", "None")),
    Mutant(
        "a file that changes while it is published spoils a piece for everybody",
        f"{_ROOM}.publish:_send_piece",
        never("digest_of(data) != piece"),
    ),
    Mutant("a version is published though its lease ran out", f"{_ROOM}.publish:publish", drop("lease.require()")),
    Mutant(
        "pieces that are being published are collected",
        f"{_ROOM}.collect:collect",
        swap("_needed(registry, gone) | collection.leased", "_needed(registry, gone)"),
    ),
    Mutant(
        "a version to which an alias could roll back is collected",
        f"{_ROOM}.collect:_moves",
        swap("yield from registry.history(name, alias)", "yield registry.aliases(name)[alias]"),
    ),
    Mutant("who publishes does not wait for a collection", f"{_ROOM}.leases:leased", drop("_wait(storage, lease)")),
    Mutant(
        "all objects are encrypted under one key and nonce",
        f"{_ROOM}.keys:Sealed._derive",
        swap("b' '.join(info)", "info[0]"),
    ),
    Mutant(
        "who lacks the key can test for a known content",
        f"{_ROOM}.keys:Sealed.name",
        swap("hmac.new(self._names, bytes.fromhex(digest), sha256).hexdigest()", "digest"),
    ),
)

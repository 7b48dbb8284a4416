"""Publishes a folder as a version: pieces first, then the manifest, which makes the version visible in one step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.registry.describe import describe
from hybrid_llm.backends.models.registry.leases import leased
from hybrid_llm.backends.models.registry.records import PIECE, VersionManifest, digest_of, pieces_of
from hybrid_llm.backends.models.registry.registry import ModelRegistry, Version
from hybrid_llm.backends.models.sources.source import Report, Reporter
from hybrid_llm.backends.signing.statement import SIGNATURE
from hybrid_llm.backends.signing.verify import check_files, read_signature
from hybrid_llm.core.errors import ConfigError

WORKERS: Final = 4
"""Pieces that are on their way at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What came of it: the version, whether it was there already, and how many bytes were sent."""

    version: Version
    was_there: bool
    sent_bytes: int
    signed: bool


def publish(
    registry: ModelRegistry,
    folder: Path,
    name: str,
    *,
    report: Report = lambda step, share: None,  # noqa: ARG005
) -> Published:
    """Publish *folder* as a version of *name*. The same content is the same version; nothing is ever overwritten.

    What an interrupted call has sent stays, and the next one goes on from there. A signature in the folder is stored
    beside the version; where the version is there already, a new signature is added to it.

    Raises:
        ConfigError: the folder cannot be published, or its signature is of other files.
        RegistryError: the storage cannot be used; no version is visible then.
    """
    manifest = describe(folder, name, report)
    signature = _signature(folder, manifest)
    data = manifest.encode()
    digest = digest_of(data)
    path = registry.manifest_path(name, digest)
    version = Version(digest=digest, manifest=manifest)
    was_there, sent = registry.storage.stat(path) is not None, 0
    if was_there:
        signed = _add(registry, version, signature)
    else:
        blobs = [registry.blob_path(piece) for piece in manifest.pieces]
        with leased(registry.storage, [path, *blobs]) as lease:
            sent = _send(registry, folder, manifest, report)
            signed = _add(registry, version, signature)  # first: nobody sees the version without it
            lease.require()
            was_there = not registry.storage.create(path, registry.sealing.seal(digest, data))
    return Published(version=registry.version(name, digest), was_there=was_there, sent_bytes=sent, signed=signed)


def _add(registry: ModelRegistry, version: Version, signature: bytes | None) -> bool:
    return signature is not None and registry.add_signature(version, signature)


def _signature(folder: Path, manifest: VersionManifest) -> bytes | None:
    """The signature in *folder*; ConfigError if it is one of other files, which no device would accept."""
    path = folder / SIGNATURE
    if not path.is_file():
        return None
    data = path.read_bytes()
    try:
        check_files(read_signature(data).files, {name: file.sha256 for name, file in manifest.files.items()})
    except ValueError as error:
        raise ConfigError(f"{path} does not fit the folder ({error}): sign it again", path=str(path)) from None
    return data


def _send(registry: ModelRegistry, folder: Path, manifest: VersionManifest, report: Report) -> int:
    """Upload the pieces that the storage lacks; returns their bytes."""
    first = {piece: (name, number) for name, number, piece in reversed(list(pieces_of(manifest)))}
    progress = Reporter(report, "publishing", manifest.total_bytes)

    def send(piece: str) -> int:
        name, number = first[piece]
        sent = _send_piece(registry, piece, lambda: _read(folder / name, number))
        progress.add(manifest.files[name].piece_bytes(number))
        return sent

    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            return sum(pool.map(send, first))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _send_piece(registry: ModelRegistry, piece: str, read: Callable[[], bytes]) -> int:
    path = registry.blob_path(piece)
    if registry.storage.stat(path) is not None:
        return 0
    data = read()
    if digest_of(data) != piece:
        raise ConfigError("a file of the folder was changed while it was published: publish it again")
    stored = registry.sealing.seal(piece, data)
    return len(stored) if registry.storage.create(path, stored) else 0


def _read(path: Path, number: int) -> bytes:
    with path.open("rb") as file:
        file.seek(number * PIECE)
        return file.read(PIECE)

"""The folder of the model that a node is to serve: fetched into the cache, verified, and in use until the node ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from hybrid_llm.backends.models.cache.entries import ELSEWHERE, ModelCache
from hybrid_llm.backends.models.cache.listed import bring, read_list
from hybrid_llm.backends.models.cache.reference import FolderModel, NodeModel, RegistryModel, StoredModel
from hybrid_llm.backends.models.cache.sealed import (
    ELSEWHERE_IN_MEMORY,
    MEMORY,
    copy_pieces,
    copy_records,
    in_memory,
    lacks_pieces,
)
from hybrid_llm.backends.models.registry import ModelRegistry, RegistryError, Version, pull
from hybrid_llm.backends.models.registry.keys import Plain, Sealed, Sealing
from hybrid_llm.backends.models.registry.local import LocalStorage
from hybrid_llm.backends.models.registry.opening import open_storage
from hybrid_llm.backends.models.registry.records import check_digest
from hybrid_llm.backends.models.registry.storage import Storage
from hybrid_llm.backends.models.sources.source import Report
from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.core.files import replace_text

_log = logging.getLogger(__name__)
_RECORDS: Final = "registry"
_KNOWN: Final = ".known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """How models are fetched.

    Attributes:
        cache: where they lie on the disk.
        trust: whose signature they must have; None for any.
        memory: a folder in memory, into which encrypted models are decrypted.
        report: called with the current step and its share.
        waiting: called once if another process fetches the same.
    """

    cache: ModelCache
    trust: Trust | None = None
    memory: Path = MEMORY
    report: Report = lambda step, share: None  # noqa: ARG005
    waiting: Callable[[], None] = lambda: None


@contextmanager
def fetched(model: NodeModel, fetching: Fetching) -> Iterator[Path]:
    """The folder of *model*, whole and verified; until the block ends it is in use, and stays.

    Raises:
        UntrustedModel: no signature is accepted.
        SecurityError: the storage holds other bytes than those of the model, or the key is another one.
        RegistryError, NoSuchVersion: it cannot be fetched, or is not there.
        NoSpace: disk, cache or memory has no room.
        ConfigError: the URL is wrong, a library is missing, or a folder cannot be written.
    """
    match model:
        case FolderModel():
            yield model.folder
        case StoredModel():
            with stored(open_storage(model.url), fetching) as folder:
                yield folder
        case RegistryModel():
            with _of_registry(model, fetching) as folder:
                yield folder


@contextmanager
def stored(storage: Storage, fetching: Fetching) -> Iterator[Path]:
    """The folder of a model whose files are in *storage*; see `fetched`."""
    listed = read_list(storage, fetching.trust)
    with fetching.cache.entry(listed.digest, listed.total_bytes) as entry:
        folder = entry / _name_of(storage.url)
        bring(storage, listed, folder, report=fetching.report, waiting=fetching.waiting)
        yield folder


@contextmanager
def _of_registry(model: RegistryModel, fetching: Fetching) -> Iterator[Path]:
    registry, version = _resolved(model, fetching.cache)
    with fetching.cache.entry(version.digest, version.manifest.total_bytes) as entry:
        with disk_errors(entry, ELSEWHERE):
            records = copy_records(registry, version, entry / _RECORDS)
        if registry.sealing.check:
            with _decrypted(registry, records, version, entry, fetching) as folder:
                yield folder
            return
        folder = entry / version.name
        with fetching.cache.latest(version.name, version.digest) as have:
            pull(
                registry,
                version,
                folder,
                trust=fetching.trust,
                have=have,
                mend=True,
                elsewhere=ELSEWHERE,
                report=fetching.report,
                waiting=fetching.waiting,
            )
        yield folder


@contextmanager
def _decrypted(
    registry: ModelRegistry, records: ModelRegistry, version: Version, entry: Path, fetching: Fetching
) -> Iterator[Path]:
    """The folder of an encrypted model, in memory; the disk has its pieces, encrypted."""
    copy_pieces(registry, version, entry / _RECORDS, report=fetching.report, waiting=fetching.waiting)
    with in_memory(fetching.memory) as folder:
        plain = folder / version.name
        pull(records, version, plain, trust=fetching.trust, elsewhere=ELSEWHERE_IN_MEMORY, report=fetching.report)
        yield plain


def _resolved(model: RegistryModel, cache: ModelCache) -> tuple[ModelRegistry, Version]:
    """The version, and the registry that has it; where that cannot be reached, those of the last start in the cache."""
    known = cache.root / _KNOWN / sha256(f"{model.registry} {model.name} {model.which}".encode()).hexdigest()
    try:
        registry = ModelRegistry.open(model.registry, key_file=model.key_file)
        version = registry.resolve(model.name, model.which)
    except RegistryError as error:
        if error.retryable and (found := _remembered(model, cache, known)):
            _log.warning("%s; serving %s, the version of the last start", error, found[1])
            return found
        raise
    with disk_errors(cache.root, ELSEWHERE):
        known.parent.mkdir(parents=True, exist_ok=True)
        replace_text(known, version.digest)
    return registry, version


def _remembered(model: RegistryModel, cache: ModelCache, known: Path) -> tuple[ModelRegistry, Version] | None:
    """What the name meant when it was last resolved; None if nothing is known, or the cache has not all of it."""
    sealing: Sealing = Plain() if model.key_file is None else Sealed.from_file(model.key_file)
    try:
        digest = check_digest(known.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None
    records = cache.root / digest / _RECORDS
    registry = ModelRegistry(LocalStorage(records), sealing)
    if registry.storage.stat(registry.manifest_path(model.name, digest)) is None:
        return None
    version = registry.version(model.name, digest)
    whole = not lacks_pieces(registry, version) if sealing.check else (cache.root / digest / model.name).is_dir()
    return (registry, version) if whole else None


def _name_of(url: str) -> str:
    """A name for the model at *url*, which its clients see."""
    name = PurePosixPath(urlsplit(url).path).name or urlsplit(url).netloc
    return name if name and not name.startswith(".") else "model"

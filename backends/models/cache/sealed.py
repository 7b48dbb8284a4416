"""What a node keeps of a registry, and the copy of an encrypted model in memory.

Manifest and signatures of a version, and the pieces of an encrypted one, lie in the cache as the registry has them: so
the folder is a registry itself, under the same key, from which the same code pulls. The key is not in it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from hybrid_llm.backends.models.cache.entries import ELSEWHERE
from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.registry.local import LocalStorage
from hybrid_llm.backends.models.registry.pull import fetch_stored, in_threads
from hybrid_llm.backends.models.registry.records import pieces_of
from hybrid_llm.backends.models.registry.registry import ModelRegistry, Version
from hybrid_llm.backends.models.sources.source import Report, Reporter
from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.core.errors import ConfigError, SecurityError

MEMORY: Final = Path("/dev/shm")  # noqa: S108  # Linux's file system in memory; the folder in it is of this user alone
ELSEWHERE_IN_MEMORY: Final = "or name a larger file system in memory by --model-memory DIR"
_PREFIX: Final = "hybrid-llm-model-"
_LOCK: Final = "used"


def copy_records(registry: ModelRegistry, version: Version, folder: Path) -> ModelRegistry:
    """Copy the manifest and the signatures of a version into *folder*, a registry; what is there stays."""
    local = LocalStorage(folder)
    manifest = registry.manifest_path(version.name, version.digest)
    signatures = registry.storage.list(f"models/{version.name}/{version.digest}/signatures")
    for path in (manifest, *(stored.path for stored in signatures)):
        if local.stat(path) is None and (data := registry.storage.read(path)) is not None:
            local.create(path, data)
    return ModelRegistry(local, registry.sealing)


def copy_pieces(
    registry: ModelRegistry, version: Version, folder: Path, *, report: Report, waiting: Callable[[], None]
) -> None:
    """Copy the pieces of a version into *folder* as they are stored, and check each; after a cut, go on.

    Raises:
        SecurityError: the registry holds another piece, or the key is another one.
        RegistryError, NoSuchVersion, NoSpace: one cannot be fetched or written.
    """
    sizes = {
        piece: version.manifest.files[name].piece_bytes(number) for name, number, piece in pieces_of(version.manifest)
    }
    progress = Reporter(report, "fetching", sum(sizes.values()))
    copy = partial(_copy_piece, registry, ModelRegistry(LocalStorage(folder), registry.sealing), progress, sizes)
    with disk_errors(folder.parent, ELSEWHERE), locked(folder.parent, f".{folder.name}", waiting):
        in_threads(copy, sorted(sizes))


def _copy_piece(
    registry: ModelRegistry, local: ModelRegistry, progress: Reporter, sizes: dict[str, int], piece: str
) -> int:
    path = local.blob_path(piece)
    stored = local.storage.read(path)
    received = 0
    if stored is None or not _fits(local, piece, stored):
        local.storage.delete(path)
        stored = fetch_stored(registry, piece, sizes[piece])
        registry.sealing.unseal(piece, stored)
        local.storage.create(path, stored)
        received = len(stored)
    progress.add(sizes[piece])
    return received


def _fits(registry: ModelRegistry, piece: str, stored: bytes) -> bool:
    try:
        registry.sealing.unseal(piece, stored)
    except SecurityError:
        return False
    return True


def lacks_pieces(registry: ModelRegistry, version: Version) -> bool:
    """Whether a piece of a version is not there."""
    return any(registry.storage.stat(registry.blob_path(piece)) is None for piece in version.manifest.pieces)


@contextmanager
def in_memory(memory: Path) -> Iterator[Path]:
    """A folder in *memory*, which only this user can read and which is deleted after the block.

    What a process that was killed left there is deleted first: its lock is free.

    Raises:
        ConfigError: there is no such folder, or it cannot be written.
    """
    if not memory.is_dir():
        text = f"an encrypted model is decrypted into memory, and there is no {memory}: name a file system in memory"
        raise ConfigError(f"{text} by --model-memory DIR", path=str(memory))
    with disk_errors(memory, ELSEWHERE_IN_MEMORY):
        _sweep(memory)
        folder, lock = _new_folder(memory)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _new_folder(memory: Path) -> tuple[Path, FileLock]:
    """A folder that this process has locked, before another one took it for what was left behind."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=memory))
        lock = FileLock(folder / f"{_LOCK}.lock", thread_local=False)
        with suppress(Timeout, FileNotFoundError):
            lock.acquire(timeout=0)
            if Path(lock.lock_file).exists():
                return folder, lock
        lock.release()


def _sweep(memory: Path) -> None:
    """Delete the folders of processes that died; one that has no lock yet is being made, or empty."""
    for left in memory.glob(f"{_PREFIX}*"):
        try:
            if left.is_symlink() or not (left / f"{_LOCK}.lock").is_file():
                continue
            with locked(left, _LOCK) as free:
                if free:
                    shutil.rmtree(left, ignore_errors=True)
        except OSError:  # another user's, or gone
            continue

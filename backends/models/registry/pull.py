"""Fetches a version into a folder: only the pieces that this machine lacks, and the folder appears once it is whole."""

from __future__ import annotations

import glob
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.registry.describe import read_file
from hybrid_llm.backends.models.registry.errors import NoSuchVersion, RegistryError
from hybrid_llm.backends.models.registry.keys import overhead
from hybrid_llm.backends.models.registry.publish import WORKERS
from hybrid_llm.backends.models.registry.records import PIECE, FileRecord, VersionManifest, digest_of, pieces_of
from hybrid_llm.backends.models.registry.registry import ModelRegistry, Version
from hybrid_llm.backends.models.sources.source import Report, Reporter
from hybrid_llm.backends.models.space import disk_errors, require_space
from hybrid_llm.backends.signing.statement import SIGNATURE
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.backends.signing.verify import verify_any, verify_folder
from hybrid_llm.core.errors import ConfigError, DecryptionFailed, SecurityError
from hybrid_llm.core.files import replacing
from hybrid_llm.core.threads import Pool

T = TypeVar("T")
_ATTEMPTS: Final = 5
"""Attempts in a row that bring nothing before a piece fails."""
_PAUSE_S: Final = 0.3
_RANGE: Final = 256 << 10
"""Bytes of a request once one for a whole piece was cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What came of it: the folder, whether it was there already, and how many bytes were received."""

    folder: Path
    was_there: bool
    received_bytes: int


def pull(
    registry: ModelRegistry,
    version: Version,
    folder: Path,
    *,
    trust: Trust | None = None,
    have: Iterable[Path] = (),
    mend: bool = False,
    elsewhere: str = "or choose another folder",
    report: Report = lambda step, share: None,  # noqa: ARG005
    waiting: Callable[[], None] = lambda: None,
) -> Pulled:
    """Fetch *version* into *folder*, which must not exist, or hold just this version.

    After a kill or a cut the next call goes on from what has arrived, in `.FOLDER.VERSION.part` beside *folder*. Two at
    once: one waits for the other. With *trust*, nothing is fetched before a signature of the version is accepted, and
    the folder has it as `model.sig`.

    Args:
        registry: Where it is.
        version: See `ModelRegistry.resolve`.
        folder: Where to.
        trust: Whose signature it must have.
        have: folders with earlier versions, whose pieces are not fetched again.
        mend: Whether a *folder* that holds something else is made this version; it must be the caller's own.
        elsewhere: How to write to another disk, for messages.
        report: Called with the current step and its share.
        waiting: Called once if another process pulls into the same folder.

    Raises:
        UntrustedModel: no signature is accepted.
        SecurityError: the registry holds other bytes than those of the version.
        RegistryError, NoSuchVersion: it cannot be fetched.
        NoSpace: the disk has no room.
        ConfigError: *folder* is something else and not to be mended, or cannot be written.
    """
    folder = folder.absolute()
    signature = None if trust is None else verify_any(registry.signatures(version), _digests(version), trust, version)
    with disk_errors(folder.parent, elsewhere):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent, f".{folder.name}", waiting):
            part = folder.with_name(f".{folder.name}.{version.short}.part")
            for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
                if left != part:  # of another version, whose pull was killed
                    shutil.rmtree(left, ignore_errors=True)
            if folder.exists():
                if _holds(folder, version.manifest):
                    return _there(folder, trust, signature)
                _set_aside(folder, part, version, mend=mend)
            received = _fill(registry, version.manifest, part, have, report, elsewhere)
            if signature is None and (found := registry.signatures(version)):
                signature = found[0]
            if signature is not None:
                _write(part / SIGNATURE, signature)
            part.replace(folder)
            _sync(folder.parent)
    return Pulled(folder=folder, was_there=False, received_bytes=received)


def _digests(version: Version) -> Mapping[str, str]:
    return {name: file.sha256 for name, file in version.manifest.files.items()}


def _holds(folder: Path, manifest: VersionManifest) -> bool:
    """Whether *folder* has the files of a version and no other, besides a signature."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found.pop(SIGNATURE, None)
    expected = manifest.files
    return found.keys() == expected.keys() and all(read_file(found[name]) == expected[name] for name in expected)


def _there(folder: Path, trust: Trust | None, signature: bytes | None) -> Pulled:
    """The folder, which holds the version; a signature that is accepted takes the place of the one it has."""
    if signature is not None and trust is not None:
        _write(folder / SIGNATURE, signature)
        verify_folder(folder, trust)
    return Pulled(folder=folder, was_there=True, received_bytes=0)


def _set_aside(folder: Path, part: Path, version: Version, *, mend: bool) -> None:
    """Make *folder*, which holds something else, the beginning of *version*; ConfigError unless *mend* is set."""
    if not mend:
        message = f"{folder} is there already and holds something else than {version}: choose another, or delete it"
        raise ConfigError(message, path=str(folder))
    shutil.rmtree(part, ignore_errors=True)
    folder.replace(part)


def _fill(
    registry: ModelRegistry,
    manifest: VersionManifest,
    part: Path,
    have: Iterable[Path],
    report: Report,
    elsewhere: str,
) -> int:
    """Make *part* a whole copy; returns the bytes that were received."""
    part.mkdir(exist_ok=True)
    for path in part.rglob("*"):
        if path.is_file() and path.relative_to(part).as_posix() not in manifest.files:
            path.unlink()
    local = _LocalPieces(manifest.pieces, [*have, part], report)
    missing = [one for one in pieces_of(manifest) if not local.holds(part / one[0], one[1], one[2])]
    left = sum(manifest.files[name].piece_bytes(number) for name, number, _ in missing)
    require_space(part, left, f"pulling `{manifest.name}`", elsewhere)
    files = {name: _Target(part / name, file) for name, file in manifest.files.items()}
    progress = Reporter(report, "pulling", manifest.total_bytes, manifest.total_bytes - left)
    progress.add(0)  # what is there already, before anything is fetched

    def bring(one: tuple[str, int, str]) -> int:
        name, number, piece = one
        size = manifest.files[name].piece_bytes(number)
        data = local.read(piece)
        received = 0 if data is not None else size + overhead(registry.sealing)
        files[name].write(number, data if data is not None else _fetch(registry, piece, size))
        progress.add(size)
        return received

    received = in_threads(bring, missing)
    for name, target in files.items():
        target.finish()
        if read_file(part / name).sha256 != manifest.files[name].sha256:
            raise SecurityError(
                f"{name} of {manifest.name} is not the file of its digest: the manifest is inconsistent"
            )
    return received


def in_threads(bring: Callable[[T], int], missing: Iterable[T]) -> int:
    """Bring each piece, and return the sum of bytes. Python exits without waiting for them."""
    pool = Pool(WORKERS, "hybrid-llm-pull")
    try:
        return sum(work.result() for work in [pool.submit(partial(bring, one)) for one in missing])
    except Exception:
        pool.close(join=True)  # nothing writes any more when the next call goes on
        raise
    finally:
        pool.close()


class _Target:
    """A file that is being written, piece by piece, at its final size."""

    def __init__(self, path: Path, record: FileRecord) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = path, threading.Lock()
        with path.open("ab") as file:
            file.truncate(record.bytes)

    def write(self, number: int, data: bytes) -> None:
        with self._lock, self._path.open("r+b") as file:
            file.seek(number * PIECE)
            file.write(data)

    def finish(self) -> None:
        """Bring it to the disk before the folder gets its name."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())


class _LocalPieces:
    """The wanted pieces that folders on this machine hold, by their hashes."""

    def __init__(self, wanted: frozenset[str], folders: Sequence[Path], report: Report) -> None:
        self._found: dict[str, tuple[Path, int]] = {}
        self._at: dict[tuple[Path, int], str] = {}
        paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        progress = Reporter(report, "looking for what is here", sum(path.stat().st_size for path in paths))
        for path in paths:
            for number, piece in enumerate(read_file(path, progress.add).pieces):
                if piece in wanted:
                    self._found.setdefault(piece, (path, number))
                    self._at[path, number] = piece

    def holds(self, path: Path, number: int, piece: str) -> bool:
        """Whether *path* has the piece in its place."""
        return self._at.get((path, number)) == piece

    def read(self, piece: str) -> bytes | None:
        """The piece, None if no folder has it, or has it any more."""
        if piece not in self._found:
            return None
        path, number = self._found[piece]
        try:
            with path.open("rb") as file:
                file.seek(number * PIECE)
                data = file.read(PIECE)
        except OSError:
            return None
        return data if digest_of(data) == piece else None


def _fetch(registry: ModelRegistry, piece: str, size: int) -> bytes:
    """A piece from the storage."""
    return registry.sealing.unseal(piece, fetch_stored(registry, piece, size))


def fetch_stored(registry: ModelRegistry, piece: str, size: int) -> bytes:
    """A piece of *size* bytes as the storage has it, encrypted where the registry is: nothing is checked.

    It comes in one request, or after a cut in small ones, each tried again where it ends.

    Raises:
        RegistryError, NoSuchVersion: it cannot be fetched, or is gone.
        DecryptionFailed: the storage has the beginning of it.
    """
    path, total = registry.blob_path(piece), size + overhead(registry.sealing)
    data, failures, step = bytearray(), 0, total
    while len(data) < total:
        try:
            got = registry.storage.read(path, len(data), min(total, len(data) + step))
        except RegistryError as error:
            failures, step = failures + 1, _RANGE
            if failures >= _ATTEMPTS or not error.retryable:
                raise
            time.sleep(_PAUSE_S * failures)
            continue
        if not got:
            raise _gone(registry, got)
        data, failures = data + got, 0
    return bytes(data)


def _gone(registry: ModelRegistry, got: bytes | None) -> Exception:
    if got is None:
        return NoSuchVersion(f"{registry.url} lacks a piece of the version: it was removed there")
    return DecryptionFailed(f"{registry.url} holds a piece that is cut off")


def _write(path: Path, data: bytes) -> None:
    with replacing(path, sync=True) as file:
        file.write(data)


def _sync(folder: Path) -> None:
    """Bring the name of a folder to the disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Delete what has arrived of pulls into *folder* that were broken off."""
    for part in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(part, ignore_errors=True)

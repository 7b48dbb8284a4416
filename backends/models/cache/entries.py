"""The models that a node keeps on its disk: by content hash, shared by processes, and bounded.

    DIGEST/NAME          a model folder, whole and verified; its download is beside it until then
    DIGEST/sealed        in its place, the pieces of a model of an encrypted registry, as that has them
    DIGEST/.used         the bytes of it when it is whole; its time is that of the last use
    DIGEST/.users/*.lock one for each process that uses it, held while it does
    .locks               the lock of the cache

What a process uses is never deleted; the system frees its lock when it dies.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock

from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.space import NoSpace, disk_errors, megabytes, require_space

ELSEWHERE: Final = "or name a folder on another disk by --model-cache DIR"
"""How to cache on another disk, for messages."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_USED: Final = ".used"
_USERS: Final = ".users"
_CACHE: Final = "cache"


class ModelCache:
    """The cache in *root*. *most_bytes*: of all its models together; 0 for what the disk has room for."""

    def __init__(self, root: Path, most_bytes: int = 0) -> None:
        self.root: Final = root.absolute()
        self.most_bytes: Final = most_bytes

    @contextmanager
    def entry(self, digest: str, needed: int) -> Iterator[Path]:
        """The folder of the content *digest*, in use until the block ends; others are deleted where it needs the room.

        Args:
            digest: SHA-256 in hex.
            needed: bytes of the content when it is whole.

        Raises:
            NoSpace: it is larger than the cache may be, or than what can be freed.
            ConfigError: the folder cannot be written.
        """
        folder = self.root / digest
        with disk_errors(self.root, ELSEWHERE):
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)
            with locked(self.root / ".locks", _CACHE, lambda: None):
                lease = _lease(folder)
                _note_use(folder, needed)
                try:
                    self._make_room(folder, needed)
                except BaseException:
                    _end(lease)
                    raise
        try:
            yield folder
        finally:
            _end(lease)

    @contextmanager
    def latest(self, name: str, besides: str) -> Iterator[list[Path]]:
        """The folder of the model *name* that was used last, of another content than *besides*; in use meanwhile.

        It is empty where there is none.
        """
        lease = None
        with disk_errors(self.root, ELSEWHERE), locked(self.root / ".locks", _CACHE, lambda: None):
            found = [entry / name for entry in self._entries() if entry.name != besides and (entry / name).is_dir()]
            if found:
                lease = _lease(found[-1].parent)
        try:
            yield found[-1:]
        finally:
            if lease is not None:
                _end(lease)

    def _entries(self) -> list[Path]:
        """The folders of all contents; the one used last comes last."""
        found = [path for path in self.root.iterdir() if _DIGEST.fullmatch(path.name) and (path / _USED).is_file()]
        return sorted(found, key=lambda path: (path / _USED).stat().st_mtime_ns)

    def _make_room(self, folder: Path, needed: int) -> None:
        """Delete what was used longest ago and is not in use, until *folder* has room; the lock is held."""
        others = [path for path in self._entries() if path != folder]
        sizes = {path: _size(path) for path in others}
        left = max(0, needed - _on_disk(folder))
        unused = (path for path in others if not _in_use(path))
        while (missing := self._missing(sum(sizes.values()), needed, left)) is not None:
            path = next(unused, None)
            if path is None:
                raise missing
            _delete(path, self.root)
            del sizes[path]

    def _missing(self, others: int, needed: int, left: int) -> NoSpace | None:
        """Why the cache has no room for *left* more bytes beside those of *others*; None if it has."""
        if self.most_bytes and others + needed > self.most_bytes:
            has = (
                f"{megabytes(needed)} beside {megabytes(others)} in use are more than the {megabytes(self.most_bytes)}"
            )
            text = f"{has} that the cache of models in {self.root} may have: raise --model-cache-size"
            return NoSpace(text, needed=needed, free=max(0, self.most_bytes - others))
        try:
            require_space(self.root, left, "the cache of models", ELSEWHERE)
        except NoSpace as error:
            return error
        return None


def _lease(entry: Path) -> FileLock:
    """Mark an entry as used by this process; the lock of the cache is held."""
    (entry / _USERS).mkdir(parents=True, exist_ok=True)
    lease = FileLock(entry / _USERS / f"{secrets.token_hex(8)}.lock", thread_local=False)
    lease.acquire(timeout=0)
    return lease


def _end(lease: FileLock) -> None:
    lease.release()
    with suppress(OSError):  # the whole entry may be gone
        Path(lease.lock_file).unlink()


def _note_use(entry: Path, needed: int) -> None:
    used, now = entry / _USED, time.time_ns()
    used.write_text(str(needed), encoding="ascii")
    os.utime(used, ns=(now, now))  # the clock of a file system is coarser


def _on_disk(entry: Path) -> int:
    """The bytes of its content, whole or not; files that vanish meanwhile have none."""
    size = 0
    for path in (path for part in entry.glob("*") if part.name not in (_USED, _USERS) for path in part.rglob("*")):
        with suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def _size(entry: Path) -> int:
    """The bytes of an entry when it is whole, and what it has now if that is more."""
    try:
        needed = int((entry / _USED).read_text(encoding="ascii"))
    except (OSError, ValueError):
        needed = 0
    return max(needed, _on_disk(entry))


def _in_use(entry: Path) -> bool:
    """Whether a process that lives uses it; what processes that died left behind is deleted."""
    for path in (entry / _USERS).glob("*.lock"):
        with locked(path.parent, path.stem) as free:
            if not free:
                return True
        path.unlink(missing_ok=True)
    return False


def _delete(entry: Path, root: Path) -> None:
    """Delete an entry that nobody uses: first its name, so that nobody takes a part of it for the whole."""
    going = root / ".locks" / f"going-{entry.name}"
    shutil.rmtree(going, ignore_errors=True)
    entry.replace(going)
    shutil.rmtree(going)

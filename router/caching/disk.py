"""A cache of answers in a file, encrypted, which several processes share and which outlives them.

It never fails a request: what cannot be read, opened or decrypted is a miss. After a failure the file is left alone for
a while, so that a disk that is full or a lock that another process holds delays one request by 50 ms, not each.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from hybrid_llm.core.clearance import Cleared, Purpose, require_clearance
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.log import Repeated
from hybrid_llm.core.request import Location
from hybrid_llm.core.savings import Savings
from hybrid_llm.router.caching.answers import CachedAnswer, decoded, encoded
from hybrid_llm.router.caching.database import AnswerFile, FileStatus, Sealed, files_of
from hybrid_llm.router.caching.sealing import KeyHold, Sealer, secret_at

T = TypeVar("T")
LEAST_BYTES: Final = 1 << 20
_BUSY_REST_S: Final = 1.0
"""How long the file is left alone after another process held a lock for too long, seconds."""
_REST_S: Final = 30.0
"""The same after any other failure."""
_MOST_USED: Final = 1024
"""Uses of entries that are remembered until the next entry is stored."""
_SOME: Final = 64
"""Expired answers that are removed when one is stored."""
_SKEW_S: Final = 60
"""How far in the future an entry may have been stored, because the clock was set back."""


class DiskCache:
    """An LRU cache in the file *path*. Safe to use from any thread, and by several processes at once.

    Args:
        path: The file, which is created if needed.
        key_file: The file of its key, which is created, for its owner alone, if needed; by default beside *path*.
        size: How many bytes the file takes at most.
        max_age_s: Seconds after which an answer expires.
        clock: Seconds since 1970.

    Raises:
        ConfigError: a limit is too small, other users can read the key, or *key_file* is no key.
    """

    location: Final = Location.EDGE

    def __init__(
        self,
        path: Path,
        *,
        key_file: Path | None = None,
        size: int = 256 << 20,
        max_age_s: float = 7 * 86_400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if size < LEAST_BYTES or not max_age_s > 0.0:
            raise ConfigError("a cache on disk needs a size of at least 1 MiB and a max_age_s above 0")
        self._path = Path(path)
        self._key_file = Path(key_file) if key_file is not None else self._path.with_suffix(".key")
        self._size, self._max_age_s, self._clock = size, max_age_s, clock
        self._log = Repeated(logger=logging.getLogger("hybrid_llm.cache"))
        self._lock = threading.Lock()
        self._used: dict[bytes, int] = {}
        self._saved: dict[str, Savings] = {}
        self._reads_at = self._writes_at = 0.0
        """When the file may be read and written again, on the clock of `time.monotonic()`."""
        self._closed = False
        self._sealer: Sealer | None = None
        self._hold: KeyHold | None = None
        self._file: AnswerFile | None = None
        self._try(lambda file: file.expire(self._expired()), writes=True)

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        """The answer to the same request of the same tenant, unless it has expired or does not decrypt."""
        request = require_clearance(cleared, self.location, Purpose.CACHE)
        if (sealer := self._unlocked()) is None:
            return None
        name = sealer.name(request)
        entry = self._try(lambda file: file.get(name))
        if entry is None:
            return None
        answer = self._opened(sealer, name, entry)
        if answer is None:
            self._try(lambda file: file.remove(name), writes=True)
            return None
        with self._lock:
            if len(self._used) < _MOST_USED:
                self._used[name] = int(self._clock())
        return answer

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Store *answer*, replacing an older one; one that takes more than an eighth of the file is not stored."""
        request = require_clearance(cleared, self.location, Purpose.CACHE)
        if (sealer := self._unlocked()) is None:
            return
        name, stored = sealer.name(request), int(self._clock())
        entry = Sealed(sealer.seal(encoded(answer), name, stored), stored)
        self._try(lambda file: self._store(file, name, entry), writes=True)

    def book(self, savings: Savings, currency: str = "") -> None:
        """Remember *savings*; they are stored with the next answer, and when the cache is closed."""
        with self._lock:
            self._saved[currency] = self._saved.get(currency, Savings()) + savings

    def clear(self) -> int:
        """Remove every answer; how many there were. Raises ConfigError where the file cannot be used."""
        return self._required(lambda file: file.clear())

    def status(self) -> FileStatus:
        """What is in the file. Raises ConfigError where it cannot be used."""
        return self._required(lambda file: file.status())

    def close(self) -> None:
        """Close the file; its answers stay. Idempotent."""
        if not self._closed and (self._saved or self._used):
            self._try(self._flush, writes=True)
        with self._lock:
            self._closed = True
            self._shut()

    def _unlocked(self) -> Sealer | None:
        """The sealer, once the file is open; None while it is left alone."""
        if self._sealer is None:
            self._try(lambda _: None)
        return self._sealer

    def _expired(self) -> int:
        return int(self._clock() - self._max_age_s) + 1

    def _opened(self, sealer: Sealer, name: bytes, entry: Sealed) -> CachedAnswer | None:
        """The answer in *entry*, unless it has expired or is not what was stored under *name*."""
        if not self._expired() <= entry.stored <= self._clock() + _SKEW_S:
            return None
        plain = sealer.open(entry.data, name, entry.stored)
        if plain is None:
            self._log.warn("garbled", "%s: an answer does not decrypt under %s; removed", self._path, self._key_file)
        return None if plain is None else decoded(plain)

    def _store(self, file: AnswerFile, name: bytes, entry: Sealed) -> None:
        with file.begin():
            self._flush(file)
            file.put(name, entry)

    def _flush(self, file: AnswerFile) -> None:
        """Store what was remembered, and remove some of what has expired."""
        file.use([(when, name) for name, when in self._used.items()])
        self._used.clear()
        while self._saved:
            file.book(*self._saved.popitem())
        file.expire(self._expired(), _SOME)

    def _required(self, work: Callable[[AnswerFile], T]) -> T:
        with self._lock:
            try:
                return work(self._open())
            except (sqlite3.Error, OSError) as error:
                raise ConfigError(f"{self._path}: the answer cache cannot be used: {_described(error)}") from None

    def _try(self, work: Callable[[AnswerFile], T], *, writes: bool = False) -> T | None:
        """Do *work* with the file; None where that fails, and while it is left alone after a failure."""
        if self._rests(writes=writes):
            return None
        with self._lock:
            if self._rests(writes=writes):
                return None
            try:
                return work(self._open())
            except (sqlite3.Error, OSError) as error:
                self._failed(error, writes=writes)
                return None

    def _rests(self, *, writes: bool) -> bool:
        return self._closed or time.monotonic() < (self._writes_at if writes else self._reads_at)

    def _open(self) -> AnswerFile:
        if self._file is None:
            secret = secret_at(self._key_file)
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._hold = self._hold or KeyHold(self._key_file)
            self._file = AnswerFile(self._path, self._size)
            self._sealer = Sealer(secret)
        return self._file

    def _failed(self, error: Exception, *, writes: bool) -> None:
        """Leave the file alone for a while, after a failed write for writes only, as where the disk is full.

        A file of ours that is damaged is deleted, if nobody else uses it.
        """
        if _is_damaged(error) and self._deleted():
            self._log.warn("damaged", "%s: the answer cache was damaged; it begins anew", self._path)
            return
        rest_s, use = _BUSY_REST_S if _is_busy(error) else _REST_S, "written to" if writes else "used"
        self._log.warn(use, "%s: the answer cache is not %s for %g s: %s", self._path, use, rest_s, _described(error))
        self._writes_at = time.monotonic() + rest_s
        if not writes or self._file is None or _is_damaged(error):
            self._reads_at = self._writes_at
            self._shut()

    def _deleted(self) -> bool:
        """Delete the file, unless another client or process has it open: its log would be another file's."""
        if self._hold is None or not self._hold.is_alone():
            return False
        if self._file is not None:
            self._file.close()
        try:
            for file in files_of(self._path):
                file.unlink(missing_ok=True)
        except OSError:
            return False
        self._shut()
        return True

    def _shut(self) -> None:
        file, self._file, hold, self._hold = self._file, None, self._hold, None
        with suppress(sqlite3.Error):
            if file is not None:
                file.close()
        if hold is not None:
            hold.release()


def _is_busy(error: Exception) -> bool:
    return _described(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _is_damaged(error: Exception) -> bool:
    return _described(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _described(error: Exception) -> str:
    """*error* without the text of SQLite, which may quote the file."""
    name: str = getattr(error, "sqlite_errorname", type(error).__name__)
    return (error.strerror or name) if isinstance(error, OSError) else name

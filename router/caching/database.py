"""The SQLite file of a cache on disk: entries by name, the one used longest ago gives way, and what they saved.

WAL mode: a reader waits for nobody, and what a process that is killed had not committed is not there. Several processes
share the file. It holds no text: names are MACs and entries are encrypted before they come here.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from hybrid_llm.core.database.connection import Connection
from hybrid_llm.core.files import create_private, warn_of_readers
from hybrid_llm.core.savings import Savings

_APPLICATION: Final = 0x68796163  # "hyac": distinguishes a cache from another program's database
_VERSION: Final = 1
_HEADER: Final = b"SQLite format 3\0"
_PAGE: Final = 4096
_OPENING_S: Final = 1.0
_BUSY_S: Final = 0.05
"""How long a statement waits for another process, seconds."""
_FEW: Final = 8
"""Entries that are removed at once to make room."""
_PARTS: Final = 8
"""The log has one of so many parts of the size; an answer that is larger than a part is not stored."""
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS answers (name BLOB PRIMARY KEY, stored INTEGER NOT NULL, used INTEGER NOT NULL,"
    " sealed BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS answers_used ON answers (used)",
    "CREATE INDEX IF NOT EXISTS answers_stored ON answers (stored)",
    "CREATE TABLE IF NOT EXISTS savings (currency TEXT, what TEXT, amount INTEGER, PRIMARY KEY (currency, what))",
)
_GET: Final = "SELECT CAST(sealed AS BLOB), CAST(stored AS INTEGER) FROM answers WHERE name = ?"
"""With its types whatever somebody wrote there: else reading it would be an error, with the content in its text."""
_PUT: Final = "INSERT OR REPLACE INTO answers (name, stored, used, sealed) VALUES (?, ?, ?, ?)"
_OLD: Final = "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers WHERE stored < ? LIMIT ?)"
_LEAST: Final = "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers ORDER BY used LIMIT ?)"
_BOOK: Final = (
    "INSERT INTO savings (currency, what, amount) VALUES (?, ?, ?)"
    " ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"
)


class Sealed(NamedTuple):
    """An entry as it is in the file: encrypted, and when it was stored, in seconds since 1970."""

    data: bytes
    stored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStatus:
    """What is in the file."""

    entries: int
    bytes: int
    """Size of the file and its log."""
    oldest: int | None
    """When the oldest entry was stored, in seconds since 1970."""
    savings: dict[str, Savings]
    """Currency -> what hits saved since the file was created."""


class AnswerFile:
    """The file at *path*, which is created for its owner alone, and takes at most *size* bytes with its log.

    Not thread-safe. Every method raises `sqlite3.Error` or `OSError` where the file cannot be used. One that is
    something else is left as it is.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._pages = size // _PAGE * (_PARTS - 1) // _PARTS
        self._log_pages = max(16, min(1000, size // _PAGE // _PARTS // 2))
        self._largest = size // _PARTS
        _check(path)
        create_private(path)
        warn_of_readers(path, "the cache of answers")
        self._db = sqlite3.connect(
            path, timeout=_OPENING_S, check_same_thread=False, isolation_level=None, factory=Connection
        )
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        execute = self._db.execute
        if execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
            execute(f"PRAGMA page_size = {_PAGE}")
            execute(f"PRAGMA application_id = {_APPLICATION}")  # before WAL mode: it is in the file itself
            execute(f"PRAGMA user_version = {_VERSION}")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute("PRAGMA secure_delete = ON")
        execute(f"PRAGMA wal_autocheckpoint = {self._log_pages}")
        execute(f"PRAGMA journal_size_limit = {self._log_pages * _PAGE}")
        execute(f"PRAGMA max_page_count = {self._pages}")
        for statement in _TABLES:
            execute(statement)
        execute(f"PRAGMA busy_timeout = {int(_BUSY_S * 1000)}")

    def get(self, name: bytes) -> Sealed | None:
        """The entry *name*."""
        row = self._db.execute(_GET, (name,)).fetchone()
        return None if row is None else Sealed(*row)

    def begin(self) -> sqlite3.Connection:
        """Begin a transaction, which ends with the `with` statement that takes the result."""
        self._db.execute("BEGIN IMMEDIATE")
        return self._db

    def put(self, name: bytes, entry: Sealed) -> None:
        """Store *entry*, for which those used longest ago give way; one that is too large is not stored."""
        if len(entry.data) > self._largest:
            self.remove(name)
            return
        self._make_room(len(entry.data) // _PAGE + 8)
        self._db.execute(_PUT, (name, entry.stored, entry.stored, entry.data))

    def use(self, used: Iterable[tuple[int, bytes]]) -> None:
        """Note when entries were used: time and name of each."""
        self._db.executemany("UPDATE answers SET used = ? WHERE name = ?", used)

    def _make_room(self, pages: int) -> None:
        """Remove entries until *pages* are free."""
        while self._taken() + pages > self._pages:
            if self._db.execute(_LEAST, (_FEW,)).rowcount < 1:
                return

    def _taken(self) -> int:
        (count,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return int(count) - int(free)

    def remove(self, name: bytes) -> None:
        """Remove the entry *name*."""
        self._db.execute("DELETE FROM answers WHERE name = ?", (name,))

    def expire(self, expired: int, most: int = -1) -> None:
        """Remove the entries from before *expired*, at most *most* of them."""
        self._db.execute(_OLD, (expired, most))

    def book(self, currency: str, savings: Savings) -> None:
        """Add *savings* to those in the file."""
        self._db.executemany(_BOOK, [(currency, what, amount) for what, amount in asdict(savings).items() if amount])

    def clear(self) -> int:
        """Remove every entry and all savings, so that nothing of them is left in the file; how many there were."""
        count = self._db.execute("DELETE FROM answers").rowcount
        self._db.execute("DELETE FROM savings")
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    def status(self) -> FileStatus:
        """What is in the file now."""
        entries, oldest = self._db.execute("SELECT count(*), CAST(min(stored) AS INTEGER) FROM answers").fetchone()
        saved: dict[str, Savings] = {}
        for currency, what, amount in self._db.execute("SELECT currency, what, amount FROM savings"):
            saved[currency] = saved.get(currency, Savings()) + Savings(**{what: amount})
        size = sum(file.stat().st_size for file in files_of(self._path) if file.exists())
        return FileStatus(entries=entries, bytes=size, oldest=oldest, savings=saved)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()


def files_of(path: Path) -> tuple[Path, Path, Path]:
    """The file, its log and the index of the log."""
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _check(path: Path) -> None:
    """Raise OSError unless the file is ours, empty or not there: nothing else is written to, or deleted."""
    head = b"?"
    if path.is_file():  # a pipe would be waited for
        with path.open("rb") as file:
            head = file.read(72)
    elif not path.exists():
        return
    if head and (head[:16] != _HEADER or head[68:72] != _APPLICATION.to_bytes(4, "big")):
        raise OSError(errno.EEXIST, "it is not an answer cache", str(path))

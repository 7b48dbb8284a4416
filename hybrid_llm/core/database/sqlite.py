"""A database in an SQLite file in WAL mode, which the processes of one machine share.

No call waits for another process: it raises `DatabaseBusy`, and the caller waits without blocking an event loop.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hybrid_llm.core.database.connection import Connection
from hybrid_llm.core.database.parts import DatabaseBusy, DatabaseError, Row, Schema, Value, newer
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import create_private, warn_of_readers

_OPENING_S: Final = 5.0


class SQLiteDatabase:
    """The tables of *schema* in the file *path*; see `open_database`."""

    def __init__(self, path: Path, schema: Schema, *, durable: bool = False) -> None:
        self._path = path
        self._schema = schema
        self._lock = threading.Lock()
        create_private(path)
        warn_of_readers(path, f"the {schema.name}")
        try:
            self._db = sqlite3.connect(
                path, timeout=_OPENING_S, check_same_thread=False, isolation_level=None, factory=Connection
            )
            self._prepare(durable=durable)
        except sqlite3.Error as error:
            message = f"{path}: the {schema.name} cannot be opened: {error}"
            raise ConfigError(message, path=str(path)) from None

    def _prepare(self, *, durable: bool) -> None:
        version = self._version()
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        if version < self._schema.version:
            self._migrate()
        self._db.execute("PRAGMA busy_timeout = 0")

    def _version(self) -> int:
        """The version of the file's tables, 0 for a new file; ConfigError if they are not ours."""
        self._db.execute("BEGIN")  # all three of one moment: another process may be making the tables
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._db.execute("COMMIT")
        if application == self._schema.application and 0 < version <= self._schema.version:
            return int(version)
        if not (application or version or tables):
            return 0
        self._db.close()
        if application == self._schema.application and version > self._schema.version:
            raise newer(str(self._path), self._schema, version)
        raise ConfigError(f"{self._path} is not a {self._schema.name}: name another file", path=str(self._path))

    def _migrate(self) -> None:
        """Take the tables to the present version, in one transaction: another process may be doing so, too."""
        self._db.execute("BEGIN EXCLUSIVE")
        try:
            (since,) = self._db.execute("PRAGMA user_version").fetchone()
            for statement in self._schema.statements(since, "BLOB"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {self._schema.application}")
            self._db.execute(f"PRAGMA user_version = {self._schema.version}")
            self._db.execute("COMMIT")
        finally:
            self._roll_back()

    @contextmanager
    def transaction(self, *, writes: bool, lock: str = "") -> Iterator[SQLiteSession]:  # noqa: ARG002  # one for all
        """A transaction; see `Database`."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE" if writes else "BEGIN DEFERRED")
                yield SQLiteSession(self._db)
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise _translated(error) from None
            finally:
                self._roll_back()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _roll_back(self) -> None:
        """Roll back what was not committed; on a full disk SQLite has done that already."""
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            return


class SQLiteSession:
    """A transaction on *db*; see `Session`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def rows(self, statement: str, *values: Value) -> list[Row]:
        """Run *statement*."""
        return self._db.execute(statement, values).fetchall()

    def run_each(self, statement: str, values: Sequence[tuple[Value, ...]]) -> None:
        """Run *statement* for each of *values*."""
        self._db.executemany(statement, values)


def _translated(error: sqlite3.Error) -> DatabaseError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # extended codes hold the primary one here
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseBusy("another process is writing to it")
    return DatabaseError(str(error))

"""A database in PostgreSQL, by psycopg 3, which several machines share. Needs the extra `postgres`.

A call takes a round trip or more and waits for other writers, `_LOCK_WAIT_MS` at most: call it in a thread. A
connection that broke is made again with the next transaction. Texts of the driver are not shown: they may quote values.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from hybrid_llm.core.database.parts import POSTGRESQL, DatabaseBusy, DatabaseError, Row, Schema, Value, newer
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.secret import Secret

_CONNECT_S: Final = 5
_LOCK_WAIT_MS: Final = 1000
_STATEMENT_MS: Final = 10_000
_VERSIONS: Final = "CREATE TABLE IF NOT EXISTS hybrid_llm_schemas (name TEXT PRIMARY KEY, version BIGINT NOT NULL)"
_VERSION: Final = "SELECT version FROM hybrid_llm_schemas WHERE name = ?"
_SET_VERSION: Final = """
INSERT INTO hybrid_llm_schemas (name, version) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET version = excluded.version
"""


class PostgresDatabase:
    """The tables of *schema* in the database at *url*; see `open_database`."""

    def __init__(self, url: str | Secret, schema: Schema) -> None:
        try:
            import psycopg
        except ImportError:
            raise ConfigError(f"PostgreSQL needs psycopg: {install_hint('postgres')}") from None
        self._driver = psycopg
        self._url = url
        self._schema = schema
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        try:
            with self.transaction(writes=True, lock="schemas") as session:
                version = self._migrate(session)
        except DatabaseError as error:
            raise ConfigError(f"the {schema.name} in PostgreSQL cannot be opened: {error}") from None
        if version > schema.version:
            self.close()
            raise newer("PostgreSQL", schema, version)

    def _migrate(self, session: PostgresSession) -> int:
        """Take the tables to the present version; returns the version that they had, or have now if it is higher."""
        session.rows(_VERSIONS)
        found = session.rows(_VERSION, self._schema.name)
        since = int(found[0][0]) if found else 0
        for statement in self._schema.statements(since, "BYTEA"):
            session.rows(statement)
        if since < self._schema.version:
            session.rows(_SET_VERSION, self._schema.name, self._schema.version)
        return since

    @contextmanager
    def transaction(self, *, writes: bool, lock: str = "") -> Iterator[PostgresSession]:
        """A transaction; see `Database`."""
        with self._lock:
            try:
                with self._connected().transaction():
                    session = PostgresSession(self._connection)
                    if writes:
                        session.rows(f"SET LOCAL lock_timeout = {_LOCK_WAIT_MS}")
                        session.rows("SELECT pg_advisory_xact_lock(?)", self._key(lock))
                    yield session
            except self._driver.errors.LockNotAvailable:
                raise DatabaseBusy("another process is writing to it") from None
            except self._driver.Error as error:
                self._drop_broken()
                kind = type(error).__name__
                raise DatabaseError(f"PostgreSQL failed with {kind}: check its URL and that it runs") from None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _connected(self) -> Any:
        """The connection; a new one where there is none, or where the server has ended it meanwhile."""
        if self._connection is not None:
            try:
                self._connection.execute("SELECT 1")
            except self._driver.Error:
                self._drop_broken()
        if self._connection is None:
            options = f"-c statement_timeout={_STATEMENT_MS}"
            self._connection = self._driver.connect(
                self._read_url(),
                autocommit=True,
                connect_timeout=_CONNECT_S,
                options=options,
                application_name="hybrid-llm",
            )
        return self._connection

    def _read_url(self) -> str:
        """The URL as it is now; raises DatabaseError, with nothing of it."""
        if isinstance(self._url, str):
            return self._url
        try:
            url = self._url.read("the URL")
        except ConfigError as error:
            raise DatabaseError(str(error)) from None
        if not url.startswith(POSTGRESQL):
            raise DatabaseError(f"{self._url.place} holds no postgresql://USER@HOST/DATABASE")
        return url

    def _drop_broken(self) -> None:
        if self._connection is not None and (self._connection.closed or self._connection.broken):
            self._connection = None

    def _key(self, lock: str) -> int:
        """An advisory lock's number: 32 bits of the schema, 31 of *lock*; a collision costs waiting and no more."""
        name = self._schema.name if lock != "schemas" else ""
        return (zlib.crc32(name.encode()) << 31 | zlib.crc32(lock.encode()) >> 1) - (1 << 62)


class PostgresSession:
    """A transaction on *connection*; see `Session`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, statement: str, *values: Value) -> list[Row]:
        """Run *statement*."""
        cursor = self._connection.execute(statement.replace("?", "%s"), values or None)
        return cursor.fetchall() if cursor.description else []

    def run_each(self, statement: str, values: Sequence[tuple[Value, ...]]) -> None:
        """Run *statement* for each of *values*, sent together."""
        with self._connection.cursor() as cursor:
            cursor.executemany(statement.replace("?", "%s"), values)

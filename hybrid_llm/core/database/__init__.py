"""Small tables that outlive a process: in an SQLite file, or in PostgreSQL where several machines share them.

`Database` is the Protocol: transactions of statements in the SQL that both speak. What a program stores is a `Schema`,
whose steps lead from each version to the next; `open_database` takes a database there before anyone uses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeGuard

from hybrid_llm.core.database.parts import (
    POSTGRESQL,
    Database,
    DatabaseAddress,
    DatabaseBusy,
    DatabaseError,
    Row,
    Schema,
    Session,
    Value,
)
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import scheme_of
from hybrid_llm.core.secret import Secret

__all__ = [
    "Database",
    "DatabaseAddress",
    "DatabaseBusy",
    "DatabaseError",
    "Row",
    "Schema",
    "Session",
    "Value",
    "is_remote",
    "open_database",
]

_SQLITE: Final = "sqlite:///"


def is_remote(where: DatabaseAddress) -> TypeGuard[str | Secret]:
    """Whether *where* is on another machine, or may be: each transaction then waits for it."""
    return isinstance(where, Secret) or (isinstance(where, str) and where.startswith(POSTGRESQL))


def open_database(where: DatabaseAddress, schema: Schema, *, durable: bool = False) -> Database:
    """The database at *where*: a path or `sqlite:///PATH`, created if needed, or `postgresql://USER@HOST/DATABASE`.

    Args:
        where: A `Secret` holds a postgresql: URL, and is read for each connection, so that a password may change. The
            password of a URL may be left to libpq's `PGPASSWORD` or `~/.pgpass`.
        schema: Its tables are created, or brought to the present version.
        durable: Whether a commit is on the disk when it returns; else a power failure may lose the last ones.

    Raises:
        ConfigError: it cannot be opened, is something else, or was written by a newer version.
    """
    if is_remote(where):
        from hybrid_llm.core.database.postgres import PostgresDatabase

        return PostgresDatabase(where, schema)
    scheme = scheme_of(where) if isinstance(where, str) else ""
    if scheme and not str(where).startswith(_SQLITE):
        raise ConfigError(f"a database is a path, {_SQLITE}PATH or postgresql://USER@HOST/DATABASE, not {scheme}:")
    from hybrid_llm.core.database.sqlite import SQLiteDatabase

    return SQLiteDatabase(Path(str(where).removeprefix(_SQLITE)), schema, durable=durable)

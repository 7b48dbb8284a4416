"""What all databases have in common: the Protocol, what a schema is, and the errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.secret import Secret

POSTGRESQL: Final = ("postgresql://", "postgres://")
DatabaseAddress: TypeAlias = "Path | str | Secret"
"""Where a database is: a file, a URL, or where the URL of one in PostgreSQL is found."""
Value: TypeAlias = "str | int | float | bytes | None"
Row: TypeAlias = tuple[Any, ...]


class DatabaseError(Exception):
    """The database cannot be read or written; the message gives the reason, for people, and no value or password."""


class DatabaseBusy(DatabaseError):
    """Another process is writing; the same transaction may succeed in a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The tables of one purpose.

    Each step is one or more statements that lead to the next version, the first from nothing. A step that has been
    released is never changed. `{bytes}` stands for the type of bytes, which the two databases spell differently.
    """

    name: str
    """A purpose, such as `spend ledger`; in PostgreSQL, one database holds one of each."""
    application: int
    """The `application_id` of such an SQLite file: another program's is not touched."""
    steps: tuple[tuple[str, ...], ...]

    @property
    def version(self) -> int:
        """The number of steps."""
        return len(self.steps)

    def statements(self, since: int, bytes_type: str) -> Iterator[str]:
        """What leads from the version *since* to the present one."""
        for step in self.steps[since:]:
            for statement in step:
                yield statement.format(bytes=bytes_type)


class Session(Protocol):
    """One transaction. Placeholders are `?`; a statement has no other question mark, and no percent sign."""

    def rows(self, statement: str, *values: Value) -> list[Row]:
        """Run *statement*; returns its rows, none if it has no result."""
        ...

    def run_each(self, statement: str, values: Sequence[tuple[Value, ...]]) -> None:
        """Run *statement* once for each of *values*."""
        ...


class Database(Protocol):
    """A database of one schema; every call is thread-safe."""

    def transaction(self, *, writes: bool, lock: str = "") -> AbstractContextManager[Session]:
        """A transaction that is committed when the block ends, and rolled back if it raises.

        Writers exclude each other: all of them in SQLite, those with the same *lock* in PostgreSQL.

        Raises:
            DatabaseError: it cannot be used, or the disk is full; nothing of the block is stored.
            DatabaseBusy: another process is writing.
        """
        ...

    def close(self) -> None:
        """Close what is open. Idempotent."""
        ...


def newer(where: str, schema: Schema, version: int) -> ConfigError:
    """The error for a database whose tables are of a *version* that this program does not know."""
    message = f"{where} has version {version} of the {schema.name}, this program knows {schema.version}: update it"
    return ConfigError(message, path=where)

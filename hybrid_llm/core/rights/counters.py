"""Small integers by account, changed in transactions: what quotas, and ledgers of spending, are stored in.

An account has lines, each of three integers, whose meaning is the user's: a bucket, a reservation, a day of spending.
`MemoryCounters` lasts as long as the process, `DatabaseCounters` is shared: a file by the processes of a machine, and
PostgreSQL by several machines.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from hybrid_llm.core.database import (
    DatabaseAddress,
    DatabaseBusy,
    DatabaseError,
    Schema,
    Session,
    is_remote,
    open_database,
)

Line = tuple[int, int, int]

_MOST: Final = 2**63 - 1
_SCHEMA: Final = Schema(
    name="store of quotas",
    application=0x686C6374,  # "hlct"
    steps=(
        (
            """
CREATE TABLE IF NOT EXISTS counters (
  account TEXT NOT NULL, line TEXT NOT NULL, a BIGINT NOT NULL, b BIGINT NOT NULL, c BIGINT NOT NULL,
  PRIMARY KEY (account, line))
""",
        ),
    ),
)
_READ: Final = "SELECT line, a, b, c FROM counters WHERE account = ?"
_WRITE: Final = """
INSERT INTO counters (account, line, a, b, c) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (account, line) DO UPDATE SET a = excluded.a, b = excluded.b, c = excluded.c
"""
_DELETE: Final = "DELETE FROM counters WHERE account = ? AND line = ?"
_ACCOUNTS: Final = "SELECT DISTINCT account FROM counters ORDER BY account"


class CountersError(Exception):
    """The counters cannot be read or written; the message gives the reason, for people."""


class CountersBusy(CountersError):
    """Another process is writing; the same transaction may succeed in a moment."""


class Counters(Protocol):
    """What a transaction may read and write."""

    def lines(self, account: str) -> Mapping[str, Line]:
        """The lines of *account*, by name."""
        ...

    def write(self, account: str, line: str, values: Line | None) -> None:
        """Let *line* of *account* have *values*; None deletes it."""
        ...

    def accounts(self) -> list[str]:
        """The accounts that have lines, sorted."""
        ...


class CounterStore(Protocol):
    """Where counters are stored. Thread-safe; a transaction is atomic, and others see all of it or nothing."""

    @property
    def is_remote(self) -> bool:
        """Whether a transaction waits for another machine, and must be made in a thread."""
        ...

    def transaction(self, *, writes: bool) -> AbstractContextManager[Counters]:
        """Begin a transaction, which ends with the block; one that raises changes nothing.

        Raises:
            CountersBusy: another process is writing; no call waits for it.
            CountersError: the counters cannot be read or written.
        """
        ...

    def close(self) -> None:
        """Close what is open. Idempotent."""
        ...


class MemoryCounters:
    """Counters in memory: a restart forgets them."""

    is_remote: Final = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[str, dict[str, Line]] = {}

    @contextmanager
    def transaction(self, *, writes: bool) -> Iterator[Counters]:  # noqa: ARG002  # the lock serves both
        """Begin a transaction; the changes of one that raises are dropped."""
        with self._lock:
            changes = _Changes(self._accounts)
            yield changes
            changes.commit()

    def close(self) -> None:
        """Nothing is open."""


class _Changes:
    """The counters as a transaction sees them: those in memory, and what it has written so far."""

    def __init__(self, accounts: dict[str, dict[str, Line]]) -> None:
        self._accounts = accounts
        self._written: dict[tuple[str, str], Line | None] = {}

    def lines(self, account: str) -> Mapping[str, Line]:
        found: dict[str, Line | None] = dict(self._accounts.get(account, {}))
        found |= {line: values for (owner, line), values in self._written.items() if owner == account}
        return {line: values for line, values in found.items() if values is not None}

    def write(self, account: str, line: str, values: Line | None) -> None:
        self._written[account, line] = values

    def accounts(self) -> list[str]:
        known = {*self._accounts, *(account for account, _ in self._written)}
        return sorted(account for account in known if self.lines(account))

    def commit(self) -> None:
        for (account, line), values in self._written.items():
            lines = self._accounts.setdefault(account, {})
            if values is None:
                lines.pop(line, None)
            else:
                lines[line] = values
            if not lines:
                del self._accounts[account]


class DatabaseCounters:
    """Counters in the database at *where*: an SQLite file, or PostgreSQL for several machines; see `open_database`.

    A crash of the process loses nothing; a power failure may lose the last transactions of a file.

    Raises:
        ConfigError: it cannot be opened, or is something else.
    """

    def __init__(self, where: DatabaseAddress) -> None:
        self.is_remote: Final = is_remote(where)
        self._database = open_database(where, _SCHEMA)

    @contextmanager
    def transaction(self, *, writes: bool) -> Iterator[Counters]:
        """Begin a transaction, whose errors are `CountersError`s."""
        try:
            with self._database.transaction(writes=writes) as session:
                yield _Rows(session)
        except DatabaseBusy as error:
            raise CountersBusy(str(error)) from None
        except DatabaseError as error:
            raise CountersError(str(error)) from None

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class _Rows:
    """The counters of a database, inside a transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def lines(self, account: str) -> Mapping[str, Line]:
        return {line: (a, b, c) for line, a, b, c in self._session.rows(_READ, account)}

    def write(self, account: str, line: str, values: Line | None) -> None:
        if values is None:
            self._session.rows(_DELETE, account, line)
        else:
            self._session.rows(_WRITE, account, line, *(max(min(value, _MOST), -_MOST) for value in values))

    def accounts(self) -> list[str]:
        return [account for (account,) in self._session.rows(_ACCOUNTS)]


def open_counters(where: DatabaseAddress | None) -> CounterStore:
    """The counters in the database at *where*; without one, in memory."""
    return MemoryCounters() if where is None else DatabaseCounters(where)

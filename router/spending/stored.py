"""A ledger in a database: an SQLite file of this machine, or PostgreSQL for several; one short transaction per booking.

What a process that died had reserved stays reserved until the end of the day: too much rather than too little. A power
failure may lose the last bookings of a file; a crash does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hybrid_llm.core.database import (
    DatabaseAddress,
    DatabaseBusy,
    DatabaseError,
    Row,
    Schema,
    Session,
    is_remote,
    open_database,
)
from hybrid_llm.router.spending.ledger import Balance, BookingLedger, Entry, LedgerBusy, LedgerError, day_of

_SCHEMA: Final = Schema(
    name="spend ledger",
    application=0x68796C6D,  # "hylm"
    steps=(
        (
            """
CREATE TABLE IF NOT EXISTS spend (
  day TEXT NOT NULL, tenant TEXT NOT NULL, currency TEXT NOT NULL,
  spent BIGINT NOT NULL DEFAULT 0, reserved BIGINT NOT NULL DEFAULT 0, requests BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (day, tenant, currency))
""",
        ),
    ),
)
_LATEST: Final = "SELECT day FROM spend ORDER BY day DESC LIMIT 1"
_LINE: Final = "SELECT spent, reserved FROM spend WHERE day = ? AND tenant = ? AND currency = ?"
_ADD: Final = """
INSERT INTO spend (day, tenant, currency, spent, reserved, requests) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (day, tenant, currency) DO UPDATE SET spent = spend.spent + excluded.spent,
  reserved = spend.reserved + excluded.reserved, requests = spend.requests + excluded.requests
"""
_ALL: Final = "SELECT day, tenant, currency, spent, reserved, requests FROM spend ORDER BY day DESC, tenant, currency"


class DatabaseLedger(BookingLedger):
    """A ledger in the database at *where*, see `open_database`. *clock* gives seconds since 1970.

    PostgreSQL takes a round trip for each booking, and waits for other writers: see `is_remote`.

    Raises:
        ConfigError: it cannot be opened, or is not a ledger.
    """

    def __init__(self, where: DatabaseAddress, currency: str = "", clock: Callable[[], float] = time.time) -> None:
        super().__init__(currency, clock)
        self.is_remote: Final = is_remote(where)
        """Whether a call waits for another machine: the client then makes it in a thread."""
        self._database = open_database(where, _SCHEMA)
        self._session: Session

    def entries(self) -> list[Entry]:
        """All lines, the latest day first."""
        with self._transaction(writes=False):
            return [_entry(row) for row in self._session.rows(_ALL)]

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _read(self, tenant: str) -> Balance:
        latest = self._session.rows(_LATEST)
        day = max(day_of(self._clock()), str(latest[0][0]) if latest else "")
        line = self._session.rows(_LINE, day, tenant, self._currency)
        spent, reserved = line[0] if line else (0, 0)
        return Balance(day=day, spent=spent, reserved=reserved)

    def _add(self, day: str, tenant: str, spent: int, reserved: int, requests: int) -> None:
        self._session.rows(_ADD, day, tenant, self._currency, spent, reserved, requests)

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[None]:
        """A transaction whose errors are `LedgerError`s."""
        with self._lock:
            try:
                with self._database.transaction(writes=writes) as self._session:
                    yield
            except DatabaseBusy as error:
                raise LedgerBusy(str(error)) from None
            except DatabaseError as error:
                raise LedgerError(str(error)) from None


def _entry(row: Row) -> Entry:
    day, tenant, currency, spent, reserved, requests = row
    return Entry(day=day, tenant=tenant, currency=currency, spent=spent, reserved=reserved, requests=requests)

"""A ledger in a file, shared by the processes of a machine: SQLite in WAL mode, one short transaction per booking.

No call waits for another process: it raises `LedgerBusy`, and the caller waits without blocking an event loop. What a
process that died had reserved stays reserved until the end of the day: too much rather than too little. A power failure
may lose the last bookings (`synchronous=NORMAL`); a crash does not.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.router.spending.ledger import Balance, BookingLedger, Entry, LedgerBusy, LedgerError, day_of

_VERSION: Final = 1
_APPLICATION: Final = 0x68796C6D  # "hylm": distinguishes a ledger from another program's database
_OPENING_S: Final = 5.0
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS spend (
  day TEXT NOT NULL, tenant TEXT NOT NULL, currency TEXT NOT NULL,
  spent INTEGER NOT NULL DEFAULT 0, reserved INTEGER NOT NULL DEFAULT 0, requests INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (day, tenant, currency)) WITHOUT ROWID
"""
_LATEST: Final = "SELECT day FROM spend ORDER BY day DESC LIMIT 1"
_LINE: Final = "SELECT spent, reserved FROM spend WHERE day = ? AND tenant = ? AND currency = ?"
_ADD: Final = """
INSERT INTO spend (day, tenant, currency, spent, reserved, requests) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET spent = spent + excluded.spent, reserved = reserved + excluded.reserved,
  requests = requests + excluded.requests
"""
_ALL: Final = "SELECT day, tenant, currency, spent, reserved, requests FROM spend ORDER BY day DESC, tenant, currency"


class FileLedger(BookingLedger):
    """A ledger in the file *path*, which is created if necessary. *clock* gives seconds since 1970.

    Raises:
        ConfigError: the file cannot be opened or is not a ledger.
    """

    def __init__(self, path: Path, currency: str = "", clock: Callable[[], float] = time.time) -> None:
        super().__init__(currency, clock)
        self._path = path
        try:
            self._db = sqlite3.connect(path, timeout=_OPENING_S, check_same_thread=False, isolation_level=None)
            self._prepare()
        except sqlite3.Error as error:
            message = f"{path}: the spend ledger cannot be opened: {error}"
            raise ConfigError(message, path=str(path)) from None

    def _prepare(self) -> None:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (application, version) != (_APPLICATION, _VERSION) and (application or version or tables):
            self._db.close()
            message = f"{self._path} is not a spend ledger of this version: name another file under `spend`"
            raise ConfigError(message, path=str(self._path))
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(_TABLE)
        self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._db.execute("PRAGMA busy_timeout = 0")

    def entries(self) -> list[Entry]:
        """All lines, the latest day first."""
        with self._transaction(writes=False):
            rows = self._db.execute(_ALL).fetchall()
        return [Entry(day=d, tenant=t, currency=c, spent=s, reserved=r, requests=n) for d, t, c, s, r, n in rows]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _read(self, tenant: str) -> Balance:
        latest = self._db.execute(_LATEST).fetchone()
        day = max(day_of(self._clock()), latest[0] if latest else "")
        line = self._db.execute(_LINE, (day, tenant, self._currency)).fetchone()
        spent, reserved = line or (0, 0)
        return Balance(day=day, spent=spent, reserved=reserved)

    def _add(self, day: str, tenant: str, spent: int, reserved: int, requests: int) -> None:
        self._db.execute(_ADD, (day, tenant, self._currency, spent, reserved, requests))

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[None]:
        """A transaction whose errors are `LedgerError`s."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE" if writes else "BEGIN DEFERRED")
                yield
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise _translated(error) from None
            finally:
                self._rollback()

    def _rollback(self) -> None:
        """Roll back what was not committed; on a full disk SQLite has done that already."""
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            return


def _translated(error: sqlite3.Error) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # extended codes hold the primary one here
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerBusy("another process is writing to it")
    return LedgerError(str(error))

"""One audit log in a database: appends records, each with the signed head up to itself, and reads them again.

Several logs may share a PostgreSQL database, each under its name; each has one writer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.heads import SignedHead
from hybrid_llm.backends.audit.keys import AuditKey
from hybrid_llm.backends.audit.tree import MerkleTree, leaf_hash
from hybrid_llm.core.database import Database, DatabaseAddress, DatabaseError, Schema, Session, open_database
from hybrid_llm.core.errors import ConfigError

SCHEMA: Final = Schema(
    name="audit log",
    application=0x68796175,  # "hyau"
    steps=(
        (
            """
CREATE TABLE audit_records (
  log TEXT NOT NULL, number BIGINT NOT NULL, entry {bytes} NOT NULL, leaf {bytes} NOT NULL, root {bytes} NOT NULL,
  at_ms BIGINT NOT NULL, signer TEXT NOT NULL, signature {bytes} NOT NULL, PRIMARY KEY (log, number))
""",
            "CREATE TABLE audit_logs (log TEXT PRIMARY KEY, size BIGINT NOT NULL, peaks {bytes} NOT NULL)",
        ),
    ),
)
_STATE: Final = "SELECT size, peaks FROM audit_logs WHERE log = ?"
_SET_STATE: Final = """
INSERT INTO audit_logs (log, size, peaks) VALUES (?, ?, ?)
ON CONFLICT (log) DO UPDATE SET size = excluded.size, peaks = excluded.peaks
"""
_INSERT: Final = """
INSERT INTO audit_records (log, number, entry, leaf, root, at_ms, signer, signature) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_COLUMNS: Final = "SELECT number, entry, leaf, root, at_ms, signer, signature FROM audit_records"
_PAGE: Final = f"{_COLUMNS} WHERE log = ? AND number > ? ORDER BY number LIMIT 1000"
_LAST: Final = f"{_COLUMNS} WHERE log = ? ORDER BY number DESC LIMIT 1"
_LOGS: Final = "SELECT log FROM audit_logs UNION SELECT log FROM audit_records ORDER BY 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """A record as it is stored: *entry* in bytes, and the head that its writer signed."""

    number: int
    entry: bytes
    head: SignedHead


class AuditLogs:
    """The logs in the database at *where*, to be read; see `open_database`.

    Raises:
        ConfigError: it cannot be opened, or is something else.
    """

    def __init__(self, where: DatabaseAddress) -> None:
        if isinstance(where, Path) and not where.exists():
            raise ConfigError(f"{where} does not exist: `hybrid-llm serve --audit` makes an audit log", path=str(where))
        self._database = open_database(where, SCHEMA)

    def names(self) -> list[str]:
        """The names of the logs."""
        with _read_from(self._database) as session:
            return [row[0] for row in session.rows(_LOGS) if isinstance(row[0], str)]

    def records(self, log: str) -> Iterator[AuditRecord]:
        """All records of *log* in the order of their numbers, a page at a time."""
        after, number = -1, -1
        while True:
            with _read_from(self._database) as session:
                page = session.rows(_PAGE, log, after)
            for row in page:
                number = _whole(row[0], number + 1)
                yield _record(log, row, number)
            if not page:
                return
            after = page[-1][0]

    def stated_size(self, log: str) -> int:
        """How many records *log* says that it has."""
        with _read_from(self._database) as session:
            found = session.rows(_STATE, log)
        return _whole(found[0][0], 0) if found else 0

    def head(self, log: str) -> SignedHead | None:
        """The last head of *log*; None if it is empty."""
        with _read_from(self._database) as session:
            found = session.rows(_LAST, log)
        return _record(log, found[0], _whole(found[0][0], 0)).head if found else None

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class AuditLog:
    """The log *name* in the database at *where*, to be written, signed with *key*.

    Raises:
        ConfigError: the database cannot be opened, or the log in it is not what its writer signed.
    """

    def __init__(self, where: DatabaseAddress, name: str, key: AuditKey) -> None:
        self.name = name
        self._key = key
        self._database = open_database(where, SCHEMA, durable=True)
        try:
            self._tree = self._resume()
        except BaseException:
            self._database.close()
            raise

    @property
    def size(self) -> int:
        """How many records there are."""
        return self._tree.size

    def append(self, entries: Sequence[AuditEntry]) -> SignedHead:
        """Append *entries*, all or none; they are on the disk when this returns. Returns the last head.

        Raises:
            DatabaseError: they cannot be written.
        """
        tree = self._tree.copy()
        rows, head = [], None
        for entry in entries:
            data = entry.encode(self.name, tree.size)
            leaf = leaf_hash(data)
            tree.append(leaf)
            head = self._key.sign(self.name, tree.size, tree.root, leaf, entry.at_ms)
            rows.append((self.name, tree.size - 1, data, leaf, head.root, head.at_ms, head.key, head.signature))
        assert head is not None, "at least one entry"
        with self._database.transaction(writes=True, lock=self.name) as session:
            self._check_alone(session)
            session.run_each(_INSERT, rows)
            session.rows(_SET_STATE, self.name, tree.size, tree.peaks)
        self._tree = tree
        return head

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _resume(self) -> MerkleTree:
        """The tree so far, if the last head has its root and was signed with our key."""
        with _read_from(self._database) as session:
            state, last = session.rows(_STATE, self.name), session.rows(_LAST, self.name)
        if not state and not last:
            return MerkleTree()
        try:
            size, peaks = state[0]
            tree = MerkleTree(_whole(size, 0), _bytes(peaks))
            head = _record(self.name, last[0], _whole(last[0][0], 0)).head
        except (IndexError, ValueError):
            raise self._altered() from None
        if head.key != self._key.public.id:
            raise ConfigError(
                f"the audit log {self.name} was written with another key ({head.key}): give that key, or another name"
            )
        if (head.size, head.root) != (tree.size, tree.root) or not self._key.public.signed(head):
            raise self._altered()
        return tree

    def _check_alone(self, session: Session) -> None:
        state = session.rows(_STATE, self.name)
        if (_whole(state[0][0], -1) if state else 0) != self._tree.size:
            raise DatabaseError(f"another process writes the audit log {self.name}: give each its own name")

    def _altered(self) -> ConfigError:
        return ConfigError(
            f"the audit log {self.name} is not what was written: keep it, look at `hybrid-llm audit verify`, and begin"
            " another one under a new name"
        )


@contextmanager
def _read_from(database: Database) -> Iterator[Session]:
    """A transaction that reads; ConfigError if it fails."""
    try:
        with database.transaction(writes=False) as session:
            yield session
    except DatabaseError as error:
        raise ConfigError(f"the audit log cannot be read: {error}") from None


def _record(log: str, row: Sequence[Any], number: int) -> AuditRecord:
    """The record in *row*, under *number*.

    A column of SQLite holds values of any type. One of another type than ours was put there by somebody else: it is
    read as some value of our type, which no signature fits, and with a number of another type no signature is read.
    """
    stored, entry, leaf, root, at_ms, signer, signature = row
    head = SignedHead(
        log=log, size=number + 1, root=_bytes(root), leaf=_bytes(leaf), at_ms=_whole(at_ms, 0), key=str(signer),
        signature=_bytes(signature) if _whole(stored, -1) == number else b"",
    )  # fmt: skip
    return AuditRecord(number=number, entry=_bytes(entry), head=head)


def _bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode()


def _whole(value: Any, other: int) -> int:
    """*value* if it is a number that a column of ours may hold, else *other*."""
    return value if type(value) is int and value >= 0 else other

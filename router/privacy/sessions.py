"""The pseudonym tables of all sessions: who may use them, how long they live, and when they are wiped.

They live in memory only. There is no thread: idle tables are wiped when the next lease is opened.

A session whose table was dropped before the app forgot it may hold a value that no detector finds: it gets no table
again. Hashes of the sessions that were dropped last are stored for that.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable

_Name = tuple[str | None, str | None]
"""Tenant and session id."""
_DROPPED: Final = 65_536
"""How many sessions are remembered that were dropped before the app forgot them."""


@dataclass(slots=True, eq=False)
class _Session:
    """A table, how many leases it has, and when it was used last. Guarded by the lock of `Sessions`."""

    used: float
    table: PseudonymTable = field(default_factory=PseudonymTable)
    leases: int = 0
    dropped: bool = False
    """It gets no new leases and is wiped when the last one closes."""


class Lease:
    """The right to use a session's *table* for one request, until `close`."""

    __slots__ = ("_close", "_closed", "table")

    def __init__(self, table: PseudonymTable, close: Callable[[], None]) -> None:
        self.table = table
        self._close = close
        self._closed = False

    def shared(self) -> Lease:
        """A lease for a continuation of the same request: closing it does nothing."""
        return Lease(self.table, lambda: None)

    def close(self) -> None:
        """The request is over. Idempotent."""
        if not self._closed:
            self._closed = True
            self._close()


class Sessions:
    """The tables of the *capacity* sessions used last, each for *idle_s* seconds after its last use.

    A table that is dropped while a request uses it is wiped when that request ends. *clock* gives seconds.
    """

    def __init__(
        self, *, capacity: int = 1024, idle_s: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if capacity < 1 or not idle_s > 0.0:
            raise ConfigError(
                f"sessions: `capacity` must be at least 1 and `idle_s` above 0, not {capacity} and {idle_s}"
            )
        self._capacity, self._idle_s, self._clock = capacity, idle_s, clock
        self._sessions: OrderedDict[_Name, _Session] = OrderedDict()  # the one that was used longest ago first
        self._dropped: dict[int, None] = {}  # hashes of names, keyed with a secret of this process; the oldest first
        self._unnamed: set[_Session] = set()  # reachable through their leases only
        self._lock = threading.Lock()
        self._closed = False

    def open(self, session_id: str | None, *, tenant: str | None = None) -> Lease:
        """Lease the table of this tenant's session; without *session_id*, a table that ends with the lease.

        Raises:
            PrivacyViolation: the client is closed, or the session was dropped before the app forgot it.
        """
        name = (tenant, session_id)
        with self._lock:
            if self._closed:
                raise PrivacyViolation("the client is closed and its pseudonyms are wiped", location="cloud")
            self._sweep()
            if hash(name) in self._dropped:
                raise PrivacyViolation(self._why_dropped(), location="cloud")
            if session_id is None:
                session = _Session(self._clock(), dropped=True)
                self._unnamed.add(session)
            else:
                session = self._named(name)
            session.leases += 1
            session.used = self._clock()
        return Lease(session.table, lambda: self._release(session))

    def resume(self, session_id: str | None, *, tenant: str | None = None) -> Lease | None:
        """Lease the table of a session that already has values; None where there is none.

        A request in which no detector finds anything may still hold such a value.

        Raises:
            PrivacyViolation: the client is closed, or the session was dropped before the app forgot it.
        """
        name = (tenant, session_id)  # no lock: hot path
        known = name in self._sessions or hash(name) in self._dropped or (self._closed and session_id is not None)
        lease = self.open(session_id, tenant=tenant) if known else None
        if lease is not None and not len(lease.table):
            lease.close()
            return None
        return lease

    def _named(self, name: _Name) -> _Session:
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = _Session(self._clock())
            if len(self._sessions) > self._capacity:
                self._drop_early(next(iter(self._sessions)))
        self._sessions.move_to_end(name)
        return session

    def _release(self, session: _Session) -> None:
        with self._lock:
            session.leases -= 1
            session.used = self._clock()
            if session.dropped and session.leases == 0:
                self._unnamed.discard(session)
                session.table.wipe()

    def _drop_early(self, name: _Name) -> None:
        """Drop a session that the app has not forgotten; it is remembered if it has a value, or may still get one."""
        session = self._sessions[name]
        if session.leases or len(session.table):
            self._dropped[hash(name)] = None
            if len(self._dropped) > _DROPPED:
                del self._dropped[next(iter(self._dropped))]
        self._drop(name)

    def _drop(self, name: _Name) -> None:
        session = self._sessions.pop(name)
        session.dropped = True
        if session.leases:
            self._unnamed.add(session)
        else:
            session.table.wipe()

    def _sweep(self) -> None:
        oldest = self._clock() - self._idle_s
        for name in [n for n, s in self._sessions.items() if s.used <= oldest and not s.leases]:
            self._drop_early(name)

    def _why_dropped(self) -> str:
        limits = f"{self._capacity} sessions, {self._idle_s:g} s without a request"
        return (
            f"the pseudonyms of this session were dropped at a limit ({limits}) before the app forgot it: "
            "begin a new session, or raise `sessions` in hybrid.yaml"
        )

    def forget(self, session_id: str, *, tenant: str | None = None) -> None:
        """Wipe the pseudonyms of this session, now or when its last request ends. Unknown sessions are ignored."""
        with self._lock:
            self._dropped.pop(hash((tenant, session_id)), None)
            if (tenant, session_id) in self._sessions:
                self._drop((tenant, session_id))

    def close(self) -> None:
        """Wipe all tables now, also those in use, whose answers end with an error. Idempotent."""
        with self._lock:
            self._closed = True
            for session in (*self._sessions.values(), *self._unnamed):
                session.table.wipe()
            self._sessions.clear()
            self._dropped.clear()
            self._unnamed.clear()

    def __len__(self) -> int:
        return len(self._sessions)

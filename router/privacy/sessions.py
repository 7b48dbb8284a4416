"""Which pseudonyms belong to which session, how long they live, and that they are wiped. Nothing of it is stored.

There is no thread: what has been idle for too long is wiped when the next lease is opened, or by `sweep`.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Self

from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.router.privacy.pseudonyms import PseudonymTable

_Name = tuple[str | None, str]


class _Session:
    """A table, who uses it, and when it was used last. Its fields belong to `Sessions` and its lock."""

    __slots__ = ("leases", "left", "table", "used")

    def __init__(self, now: float) -> None:
        self.table = PseudonymTable()
        self.leases = 0
        self.used = now
        self.left = False
        """No new request gets it: it is wiped when the last lease is closed."""


def _nothing() -> None:
    pass


class Lease:
    """The right to use a session's *table* for one request, until `close`; a context manager."""

    __slots__ = ("_close", "_closed", "table")

    def __init__(self, table: PseudonymTable, close: Callable[[], None]) -> None:
        self.table = table
        self._close = close
        self._closed = False

    def shared(self) -> Lease:
        """The same right for a part of the same request: closing it closes nothing."""
        return Lease(self.table, _nothing)

    def close(self) -> None:
        """The answer is over. Twice is once."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Sessions:
    """The tables of the sessions that were used last, at most *most* of them, each for *idle* seconds after its use.

    A table that goes while a request still uses it is wiped when that request ends. *clock* gives seconds.
    """

    def __init__(self, *, most: int = 1024, idle: float = 3600.0, clock: Callable[[], float] = time.monotonic) -> None:
        if most < 1 or not idle > 0.0:
            raise ConfigError(f"sessions: most is at least 1 and idle more than 0 s, not {most} and {idle}")
        self._most, self._idle, self._clock = most, idle, clock
        self._sessions: OrderedDict[_Name, _Session] = OrderedDict()
        self._alone: set[_Session] = set()
        self._lock = threading.Lock()
        self._closed = False

    def open(self, session_id: str | None, *, tenant: str | None = None) -> Lease:
        """A lease on the table of this session of this tenant; without *session_id*, on one that ends with the lease.

        Raises:
            PrivacyViolation: everything is closed.
        """
        with self._lock:
            if self._closed:
                raise PrivacyViolation("the pseudonyms of all sessions are wiped", location="cloud")
            self._sweep()
            session = self._alone_one() if session_id is None else self._named((tenant, session_id))
            session.leases += 1
            session.used = self._clock()
        return Lease(session.table, lambda: self._release(session))

    def resume(self, session_id: str | None, *, tenant: str | None = None) -> Lease | None:
        """A lease as `open` gives it, on a session that knows a value already; None where there is none.

        A request in which no detector finds anything may hold such a value all the same, and is to be looked through.

        Raises:
            PrivacyViolation: everything is closed.
        """
        known = (tenant, session_id) in self._sessions or (self._closed and session_id is not None)
        lease = self.open(session_id, tenant=tenant) if known else None
        if lease is not None and not len(lease.table):
            lease.close()
            return None
        return lease

    def _alone_one(self) -> _Session:
        session = _Session(self._clock())
        session.left = True
        self._alone.add(session)
        return session

    def _named(self, name: _Name) -> _Session:
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = _Session(self._clock())
            if len(self._sessions) > self._most:
                self._leave(next(iter(self._sessions)))
        self._sessions.move_to_end(name)
        return session

    def _release(self, session: _Session) -> None:
        with self._lock:
            session.leases -= 1
            session.used = self._clock()
            if session.left and session.leases == 0:
                self._alone.discard(session)
                session.table.wipe()

    def _leave(self, name: _Name) -> None:
        session = self._sessions.pop(name)
        session.left = True
        if session.leases:
            self._alone.add(session)
        else:
            session.table.wipe()

    def sweep(self) -> None:
        """Wipe what has been idle for too long."""
        with self._lock:
            self._sweep()

    def _sweep(self) -> None:
        oldest = self._clock() - self._idle
        for name in [n for n, s in self._sessions.items() if s.used <= oldest and not s.leases]:
            self._leave(name)

    def forget(self, session_id: str, *, tenant: str | None = None) -> None:
        """Wipe the pseudonyms of this session, at once or when its last answer ends. An unknown session is no error."""
        with self._lock:
            if (tenant, session_id) in self._sessions:
                self._leave((tenant, session_id))

    def close(self) -> None:
        """Wipe all tables now, also those in use: their answers end with an error. Twice is once."""
        with self._lock:
            self._closed = True
            for session in (*self._sessions.values(), *self._alone):
                session.table.wipe()
            self._sessions.clear()
            self._alone.clear()

    def __len__(self) -> int:
        return len(self._sessions)

"""Writes audit records beside requests: a thread of its own commits what has gathered, together.

Where the log is required, `begin` waits until the record is on the disk, and a request that cannot be recorded is
refused. Elsewhere a record that cannot be written is counted, and the next that can be is preceded by a `gap`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import Future
from typing import Final

from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.log import AuditLog
from hybrid_llm.backends.audit.refusals import Refusals
from hybrid_llm.core.database import DatabaseBusy, DatabaseError
from hybrid_llm.core.log import Repeated
from hybrid_llm.core.tracebacks import is_fault

_log = logging.getLogger("hybrid_llm.audit")
_BATCH: Final = 256
_QUEUE: Final = 20_000
"""Entries that wait at most; a disk that is slower than that loses some, or refuses requests."""
_BUSY_TRIES: Final = 20
_BUSY_S: Final = 0.05
_CLOSE_S: Final = 10.0
_HEAD_EVERY_S: Final = 600.0

_Item = tuple[AuditEntry, "Future[None]"]


class AuditFailed(Exception):
    """A record could not be written; the message gives the reason, for people."""


class AuditWriter:
    """Appends to *log*, which it owns. Thread-safe."""

    def __init__(self, log: AuditLog, *, required: bool) -> None:
        self.required: Final = required
        """Whether a request that cannot be recorded must be refused."""
        self._log = log
        self._queue: queue.Queue[_Item | None] = queue.Queue(_QUEUE)
        self._warnings = Repeated(logger=_log)
        self._lost = 0
        self._lock = threading.Lock()
        self._head_at = 0.0
        self._closed = False
        self._refusals = Refusals(self.record)
        self._thread = threading.Thread(target=self._run, name="hybrid-llm-audit", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Records that could not be written, and that no `gap` tells of yet."""
        with self._lock:
            return self._lost

    def record(self, entry: AuditEntry) -> Future[None]:
        """Write *entry* soon; the future ends when it is on the disk, or with `AuditFailed`."""
        done: Future[None] = Future()
        try:
            with self._lock:
                if self._closed:
                    raise queue.Full
                self._queue.put_nowait((entry, done))
        except queue.Full:
            self._fail([(entry, done)], "closed" if self._closed else "too many records are waiting")
        return done

    def refuse(self, entry: AuditEntry) -> None:
        """Write *entry*, a call that was refused, or count it where there are many."""
        self._refusals.add(entry)

    def close(self) -> None:
        """Write what waits, for at most 10 s, and close the log. Idempotent."""
        self._refusals.close()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._gather()
            if batch:
                self._write(batch)
        self._log.close()

    def _gather(self) -> tuple[list[_Item], bool]:
        """What waits now, and whether more may come."""
        item = self._queue.get()
        batch: list[_Item] = []
        while item is not None:
            batch.append(item)
            if len(batch) == _BATCH:
                return batch, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _write(self, batch: list[_Item]) -> None:
        with self._lock:
            lost = self._lost
        entries = [entry for entry, _ in batch]
        if lost:
            entries.insert(0, AuditEntry(event="gap", at_ms=entries[0].at_ms, lost=lost))
        try:
            self._append(entries)
        except (DatabaseError, OSError) as error:
            self._fail(batch, str(error))
        except BaseException as error:
            if not is_fault(error):
                raise
            self._fail(batch, type(error).__name__)
        else:
            with self._lock:
                self._lost -= lost
            for _, done in batch:
                done.set_result(None)

    def _append(self, entries: list[AuditEntry]) -> None:
        for attempt in range(_BUSY_TRIES):
            try:
                head = self._log.append(entries)
            except DatabaseBusy:
                if attempt == _BUSY_TRIES - 1:
                    raise
                time.sleep(_BUSY_S)
            else:
                if time.monotonic() - self._head_at > _HEAD_EVERY_S:
                    self._head_at = time.monotonic()
                    _log.info("head %s", head.to_json())
                return

    def _fail(self, batch: list[_Item], reason: str) -> None:
        with self._lock:
            self._lost += len(batch)
        self._warnings.warn("audit", "the audit log cannot be written: %s", reason)
        for _, done in batch:
            done.set_exception(AuditFailed(reason))

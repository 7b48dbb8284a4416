"""What one source of signals is: a small reader of one thing that the system tells. No source lives here.

Keeps the values of all sources fresh, beside the requests: when each is read, by whom, and what is too old to count.

It does not know what a source reads, nor what its values are for.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

Value = float | bool | None
"""A signal's value; None is absent."""
MIB: Final = 1024 * 1024


class Source(Protocol):
    """One thing that the system tells; it is only ever read by one thread at a time."""

    @property
    def gives(self) -> tuple[str, ...]:
        """The signals that it reads, such as `device.battery`."""
        ...

    @property
    def every(self) -> float:
        """How often it is read, in intervals of the sampler."""
        ...

    def read(self) -> tuple[Value, ...]:
        """One value for each name in *gives*; it may block, which holds up nobody else."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


def within(value: float | None, least: float, most: float) -> float | None:
    """*value* where it can be true, None where no such device exists."""
    return value if value is not None and math.isfinite(value) and least <= value <= most else None


_log = logging.getLogger("hybrid_llm.sensors")
PATIENCE_S: Final = 0.25
"""How long a round waits for its sources before it goes on without the one that hangs, seconds."""
STALE_AFTER: Final = 3.0
"""After this many of its own intervals without a new value, a signal is absent."""
_LEEWAY_S: Final = 2.0
"""Added to that, for machines that are busy."""
_SLOWED: Final = 5.0
"""Where nobody has read for a while, intervals are this many times longer: a quiet app spares the battery."""


@dataclass(slots=True, eq=False)
class _Slot:
    """A source and its last values. `busy` is changed under the worker's lock only."""

    source: Source
    due: float = -math.inf
    busy: bool = False
    values: tuple[Value, ...] = ()
    taken: float = -math.inf
    failed: bool = False

    def take(self) -> None:
        """Read the source; one that breaks gives nothing, and says so once until it works again."""
        try:
            self.values = self.source.read()
            self.failed = False
        except Exception as error:  # noqa: BLE001  # a sensor is never a reason for an exception, whoever wrote it
            self.values = ()
            if not self.failed:
                _log.warning("reading %s failed: %s", ", ".join(self.source.gives), type(error).__name__)
            self.failed = True
        self.taken = time.monotonic()


class _Worker:
    """The thread that reads. Once it is dismissed it ends, as soon as the source that it reads lets it."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Sequence[_Slot]] = queue.SimpleQueue()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._dismissed = False
        self._thread = threading.Thread(target=self._run, name="hybrid-llm-sensors-read", daemon=True)
        self._thread.start()

    def read(self, slots: Sequence[_Slot]) -> bool:
        """Have *slots* read; False if that takes longer than patience lasts."""
        self._done.clear()
        self._inbox.put(slots)
        return self._done.wait(PATIENCE_S)

    def dismiss(self) -> None:
        """Begin no further source."""
        with self._lock:
            self._dismissed = True
        self._inbox.put(())

    def join(self) -> None:
        """Wait for its end, as long as patience lasts."""
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        while slots := self._inbox.get():
            for slot in slots:
                if not self._begin(slot):
                    return
                slot.take()
                slot.busy = False
            self._done.set()

    def _begin(self, slot: _Slot) -> bool:
        with self._lock:
            if self._dismissed:
                return False
            slot.busy = True
            return True


@dataclass(slots=True, eq=False)
class Sampler:
    """Reads *sources* every *interval* seconds times their own `every`, and gives what counts to *publish*.

    *publish* is called in the sampler's thread, after each round, with the signals that are known and the time, on the
    monotonic clock, until which they count. A source that hangs keeps its reader and nobody else: the others get a new
    one.
    """

    sources: Sequence[Source]
    publish: Callable[[Mapping[str, Value], float], None]
    interval: float
    quiet: float = 60.0
    """Seconds after which nobody is thought to read."""
    asked: bool = True
    """Set by whoever reads what was published."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; once."""
        self._thread = threading.Thread(target=self._run, name="hybrid-llm-sensors", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; the threads are gone when this returns, but for one that a hanging source keeps."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        slots = [_Slot(source) for source in self.sources]
        worker: _Worker | None = None
        quiet_since = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            quiet_since, self.asked = (now if self.asked else quiet_since), False
            interval = self.interval * (_SLOWED if now - quiet_since > self.quiet else 1.0)
            worker, complete = self._round(slots, worker, now, interval)
            self.publish(dict(_known(slots, interval)), time.monotonic() + _lasts(interval))
            if complete:
                self._stop.wait(_until_next(slots, interval))
        if worker is not None:
            worker.dismiss()
            worker.join()
        for slot in slots:
            if not slot.busy:
                slot.source.close()

    def _round(
        self, slots: Sequence[_Slot], worker: _Worker | None, now: float, interval: float
    ) -> tuple[_Worker | None, bool]:
        """Read what is due. Returns the reader to go on with, and False if one hangs and others still wait."""
        due = [slot for slot in slots if slot.due <= now and not slot.busy]
        if not due:
            return worker, True
        worker = worker or _Worker()
        if worker.read(due):
            for slot in due:
                slot.due = now + interval * slot.source.every
            return worker, True
        worker.dismiss()
        for slot in due:
            if slot.busy or slot.taken >= now:
                slot.due = now + interval * slot.source.every
        return None, False


def _known(slots: Sequence[_Slot], interval: float) -> Iterator[tuple[str, Value]]:
    """The signals that are told and fresh. Where two sources give one, the lower counts: false before true."""
    now = time.monotonic()
    found: dict[str, float | bool] = {}
    for slot in slots:
        if now - slot.taken <= _lasts(interval * slot.source.every):
            for name, value in zip(slot.source.gives, slot.values, strict=False):
                if value is not None:
                    found[name] = min(value, found.get(name, value))
    yield from found.items()


def _lasts(interval: float) -> float:
    return STALE_AFTER * interval + _LEEWAY_S


def _until_next(slots: Sequence[_Slot], interval: float) -> float:
    """Seconds until a source is due; a busy one is looked at again with the next."""
    now = time.monotonic()
    return max(0.0, min((slot.due - now for slot in slots if not slot.busy), default=interval))

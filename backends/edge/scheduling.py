"""Bounds what the device does at once: running and queued requests, their memory and deadlines, and stored prefixes.

Key-value caches of running requests and of ended ones share one memory limit; stored prefixes are evicted first.
Requests are admitted in order of arrival: one that waits for memory is not overtaken by a smaller one.
"""

from __future__ import annotations

import sched
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

from hybrid_llm.backends.text import shared_prefix
from hybrid_llm.core.threads import started

if TYPE_CHECKING:
    from numpy.typing import NDArray

WaitResult = Literal["admitted", "expired", "cancelled"]
SpareBytes = Callable[[int], object]
"""Called with the bytes that no running request uses, before any other thread can change them."""

BORDER: Final = 32
"""Prompts are computed in runs that end at multiples of this, and reused up to such a border, in tokens.

A cached and a fresh prompt then go through the same runs, so that answers do not depend on what was cached. Measured
with 135M parameters, runs of 32 read as fast as runs of 512.
"""
_LONGEST_SLEEP: Final = 3600.0
"""Seconds; a deadline may be infinite, but a wait on a condition may not."""
_MAX_ENTRIES: Final = 64


class EndCause(Enum):
    """Why a run ends before its answer is complete."""

    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    CLOSED = "closed"


class Slots:
    """At most *concurrency* running requests, *queue* waiting ones, and *memory* bytes in use."""

    def __init__(self, *, concurrency: int, queue: int, memory: int) -> None:
        self.concurrency, self.queue, self.memory = concurrency, queue, memory
        self.waiting: deque[Ticket] = deque()
        self.running: set[Ticket] = set()
        self.used = 0
        self.changed = threading.Condition()

    @property
    def active(self) -> int:
        """Running requests."""
        return len(self.running)

    @property
    def queued(self) -> int:
        """Waiting requests."""
        return len(self.waiting)

    def enter(self) -> Ticket | None:
        """Join the end of the queue; None when it is full. Never blocks."""
        with self.changed:
            if len(self.running) + len(self.waiting) >= self.concurrency + self.queue:
                return None
            ticket = Ticket(self)
            self.waiting.append(ticket)
            return ticket


class Ticket:
    """A request's position in the queue, then its slot. Call `leave` in a `finally`."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._bytes = 0
        self._cancelled = False

    def wait(self, size: int, expires: float, spare: SpareBytes = lambda _: None) -> WaitResult:
        """Block until a slot and *size* bytes are free, or until `time.monotonic()` reaches *expires*.

        *spare* is called on admission.
        """
        slots = self._slots
        with slots.changed:
            while not self._may_run(size):
                if self._cancelled:
                    return "cancelled"
                left = expires - time.monotonic()
                if left <= 0:
                    return "expired"
                slots.changed.wait(min(left, _LONGEST_SLEEP))
            slots.running.add(slots.waiting.popleft())
            self._bytes = size
            slots.used += size
            spare(slots.memory - slots.used)
            slots.changed.notify_all()
            return "admitted"

    def wait_for(self, work: Future[Any], expires: float) -> bool:
        """Block until *work* is done; False if the ticket is cancelled or the clock reaches *expires* before."""
        changed = self._slots.changed

        def wake(_: object) -> None:
            with changed:
                changed.notify_all()

        work.add_done_callback(wake)
        with changed:
            while not work.done() and not self._cancelled and (left := expires - time.monotonic()) > 0:
                changed.wait(min(left, _LONGEST_SLEEP))
        return work.done()

    def cancel(self) -> None:
        """Make the current `wait`, or the next one, return `cancelled`; from any thread."""
        with self._slots.changed:
            self._cancelled = True
            self._slots.changed.notify_all()

    def leave(self, spare: SpareBytes = lambda _: None) -> None:
        """Release queue position, slot and memory, then call *spare*. Idempotent."""
        slots = self._slots
        with slots.changed:
            if self in slots.waiting:
                slots.waiting.remove(self)
            slots.running.discard(self)
            slots.used -= self._bytes
            self._bytes = 0
            spare(slots.memory - slots.used)
            slots.changed.notify_all()

    def _may_run(self, size: int) -> bool:
        slots = self._slots
        if self._cancelled or slots.waiting[0] is not self:
            return False
        return len(slots.running) < slots.concurrency and slots.used + size <= slots.memory


class Watchdog:
    """Calls back at set instants of `time.monotonic()`, in a thread that starts with the first alarm."""

    def __init__(self) -> None:
        self._alarms = sched.scheduler(time.monotonic)  # thread-safe
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def alarm(self, at: float, call: Callable[[], None]) -> Iterator[None]:
        """Call *call* in the watchdog's thread at the instant *at*, unless the block is left before."""
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = started(self._watch, name="hybrid-llm-edge-watchdog")
        alarm = self._alarms.enterabs(at, 0, call)
        self._changed.set()
        try:
            yield
        finally:
            with suppress(ValueError):  # it has called
                self._alarms.cancel(alarm)

    def close(self) -> None:
        """End the thread; pending alarms are dropped. Idempotent."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        self._changed.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _watch(self) -> None:
        while not self._closed:
            left = self._alarms.run(blocking=False)
            self._changed.wait(_LONGEST_SLEEP if left is None else min(left, _LONGEST_SLEEP))
            self._changed.clear()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Entry:
    """The key-value cache of an ended request. Its buffers are never written again."""

    tenant: str | None
    session_id: str | None
    tokens: Sequence[int] = field(repr=False)
    """The tokens whose keys and values the buffers hold: of the prompt, and of the answer where steps can be reused."""
    buffers: Sequence[NDArray[Any]] = field(repr=False)
    size: int
    """Bytes of all buffers."""

    def covers(self, other: Entry) -> bool:
        """Whether *other* holds no more than the beginning of this one."""
        length = len(other.tokens)
        return self.tenant == other.tenant and shared_prefix(other.tokens, self.tokens, most=length) == length


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prefix:
    """What a new request starts from: the first *length* tokens of *buffers*, a list that its reader may empty."""

    length: int
    buffers: list[NDArray[Any]] = field(repr=False)


class PrefixCache:
    """Stores entries, most recently used last, and finds the longest prefix of a prompt. Thread-safe.

    A request is only given entries of its own tenant.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._lock = threading.Lock()
        self._closed = False

    @property
    def size(self) -> int:
        """Bytes stored."""
        return sum(entry.size for entry in self._entries)

    def claim(self, tenant: str | None, prompt: Sequence[int], room: int) -> Prefix | None:
        """Return the longest stored prefix of *prompt* up to a border; then evict down to *room* bytes."""
        with self._lock:
            found, shared = self._longest(tenant, prompt)
            prefix = None
            if found is not None:
                prefix = Prefix(length=shared, buffers=list(found.buffers))
                self._entries.remove(found)
                self._entries.append(found)
            self._evict(room)
            return prefix

    def put(self, entry: Entry, room: int) -> None:
        """Store *entry* as the most recent, in place of those that it covers; then evict down to *room* bytes."""
        with self._lock:
            if not self._closed and len(entry.tokens) >= BORDER:
                self._entries = [other for other in self._entries if not entry.covers(other)]
                self._entries.append(entry)
            self._evict(room)

    def forget(self, session_id: str, tenant: str | None) -> None:
        """Drop the entries of a session."""
        with self._lock:
            self._entries = [e for e in self._entries if (e.session_id, e.tenant) != (session_id, tenant)]

    def close(self) -> None:
        """Drop everything and store nothing from now on."""
        with self._lock:
            self._closed = True
            self._entries.clear()

    def _longest(self, tenant: str | None, prompt: Sequence[int]) -> tuple[Entry | None, int]:
        best, most = None, BORDER - 1
        for entry in self._entries:
            if entry.tenant == tenant:
                shared = shared_prefix(entry.tokens, prompt, most=len(prompt) - 1)
                best, most = (entry, shared) if shared > most else (best, most)
        return best, most - most % BORDER

    def _evict(self, room: int) -> None:
        while self._entries and (self.size > room or len(self._entries) > _MAX_ENTRIES):
            self._entries.pop(0)

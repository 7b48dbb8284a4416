"""Chooses how many threads compute: all of them on a quiet machine, one beside processes that are busy.

Threads that wait for each other in every operator lose more than they bring where another process takes one of their
processors: measured, two such threads of a busy machine wrote a third of the tokens of one. The arithmetic does not
depend on the number, since each element of a product is computed by one thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import psutil

from hybrid_llm.core.errors import BackendUnavailable
from hybrid_llm.core.lifetime import native
from hybrid_llm.core.log import log
from hybrid_llm.core.threads import in_thread

_INTERVAL: Final = 0.5
"""Seconds between two looks at the machine, while the model runs."""
_STALE: Final = 2.0
"""Seconds after which what was measured is about the past."""
_NEARLY: Final = 0.35
"""Processors that may be missing from a thread's own: small services run on every machine."""
_REST: Final = 5.0
"""Seconds between a change and one to more threads."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds, each from a start of its own: the clock, processors idle, processors used by this process."""

    at: float
    idle: float
    own: float

    def spare(self, before: Reading) -> float:
        """Processors that this process used or could have used since *before*."""
        return (self.idle - before.idle + self.own - before.own) / (self.at - before.at)


class Meter(Protocol):
    """Reads the machine."""

    def __call__(self) -> Reading:
        """The reading of now."""


def read_machine() -> Reading:
    """The machine by the operating system; 20 us on Linux."""
    times = psutil.cpu_times()
    return Reading(time.monotonic(), times.idle + getattr(times, "iowait", 0.0), time.process_time())


class Sessions:
    """The session of one model, opened anew with more or fewer threads as the machine allows. Thread-safe."""

    def __init__(
        self,
        open_with: Callable[[int], Any],
        most: int,
        meter: Meter | None = None,
        since: Reading | None = None,
    ) -> None:
        """Open the session.

        Args:
            open_with: Opens it with a number of threads.
            most: The most threads.
            meter: None keeps the number *most*.
            since: A reading of a moment ago, by which the first number is chosen.
        """
        self._open, self._meter = open_with, meter
        self._counts = sorted({1, max(1, most // 2), most})
        self._lock = threading.Lock()
        self._before = since
        self._threads = most if meter is None or since is None else self._first(meter(), since)
        self._current = open_with(self._threads)
        self._opening: Future[Any] | None = None
        self._changed = self._next = 0.0

    @property
    def threads(self) -> int:
        """Threads of the current session."""
        return self._threads

    def session(self) -> Any:
        """The session for the next run of the model; now and then, look whether its threads are the right number."""
        if self._meter is not None and time.monotonic() >= self._next and self._lock.acquire(blocking=False):
            try:
                if self._meter is not None:  # it may have been closed before the lock was taken
                    self._look(self._meter)
            finally:
                self._lock.release()
        return self._current

    def close(self) -> None:
        """Look no more, and wait until no session is being opened."""
        with self._lock:
            self._meter, opening = None, self._opening
        if opening is not None:
            wait([opening])

    def _look(self, meter: Meter) -> None:
        now, before = meter(), self._before
        self._before, self._next = now, time.monotonic() + _INTERVAL
        if before is None or self._opening is not None or not _INTERVAL / 2 <= now.at - before.at <= _STALE:
            return
        count = self._fitting(now.spare(before))
        if count < self._threads or (count > self._threads and now.at >= self._changed + _REST):
            self._changed = now.at
            self._opening = in_thread("hybrid-llm-edge-threads", partial(self._reopen, count))
            self._opening.add_done_callback(partial(self._opened, count))

    def _first(self, now: Reading, since: Reading) -> int:
        """The number to begin with; the operating system counts in hundredths of a second, so a moment says nothing."""
        return self._fitting(now.spare(since)) if now.at - since.at >= _INTERVAL / 2 else self._counts[-1]

    def _fitting(self, spare: float) -> int:
        return max(count for count in self._counts if count == 1 or count <= spare + _NEARLY)

    def _reopen(self, count: int) -> Any:
        with native:  # so that the exit of Python waits for it
            return self._open(count)

    def _opened(self, count: int, opening: Future[Any]) -> None:
        """Use the new session from the next run on; runs in progress end with the old one."""
        if (error := opening.exception()) is None:
            self._current, self._threads = opening.result(), count
        elif not isinstance(error, BackendUnavailable):  # which is the exit of Python
            log.warning("a session with %d threads cannot be opened: %s", count, type(error).__name__)
        self._opening = None

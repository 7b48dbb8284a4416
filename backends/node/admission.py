"""Decides whether one more request is let in: overload is an answer at once, not a slow death."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from hybrid_llm.backends.node.validation import NODE
from hybrid_llm.router.errors import BackendOverloaded

__all__ = ["Admission"]

_FIRST_GUESS_S = 1.0
_WEIGHT = 0.2


class Admission:
    """Counts requests in flight, the ones that wait in the engine included. Not for threads: one event loop's own."""

    def __init__(self, *, max_queue: int) -> None:
        self._max_queue = max_queue
        self._in_flight = 0
        self._duration_s = _FIRST_GUESS_S

    @property
    def in_flight(self) -> int:
        """Requests that were let in and have not ended."""
        return self._in_flight

    @contextmanager
    def place(self, slots: int) -> Generator[None, None, None]:
        """Hold a place for one request while *slots* run at a time.

        Raises:
            BackendOverloaded: all slots and the queue are full; `retry_after` is when a place should be free.
        """
        limit = slots + self._max_queue
        if self._in_flight >= limit:
            # Each request takes a slot for a while: one of them ends every duration / slots.
            retry_after = round(max(self._duration_s / max(slots, 1), 0.05), 3)
            text = f"the node is full: {limit} requests are running or waiting"
            raise BackendOverloaded(text, backend=NODE, retry_after=retry_after)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def took(self, seconds: float) -> None:
        """Learn how long a request held its slot."""
        self._duration_s += _WEIGHT * (seconds - self._duration_s)

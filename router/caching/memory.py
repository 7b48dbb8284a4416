"""A cache of answers in this process: the answer used longest ago gives way."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from hybrid_llm.core.clearance import Cleared, Purpose, require_clearance
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location
from hybrid_llm.router.caching.answers import CachedAnswer, encoded, entry_name


class MemoryCache:
    """An LRU cache in this process. Safe to use from any thread.

    Args:
        max_entries: How many answers it holds at most.
        max_bytes: How many bytes they take at most, as JSON.
        ttl_s: Seconds after which one expires.
        clock: Seconds, never backwards.

    Raises:
        ConfigError: a limit is not positive.
    """

    location: Final = Location.EDGE

    def __init__(
        self,
        *,
        max_entries: int = 1024,
        max_bytes: int = 64 << 20,
        ttl_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_entries < 1 or max_bytes < 1 or not ttl_s > 0.0:
            raise ConfigError("a cache needs max_entries and max_bytes of at least 1 and a ttl_s above 0")
        self._max = max_entries
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._entries: OrderedDict[bytes, tuple[float, int, CachedAnswer]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        """The answer to the same request of the same tenant, unless it has expired."""
        name = entry_name(require_clearance(cleared, self.location, Purpose.CACHE), self._key)
        with self._lock:
            stored, _, answer = self._entries.get(name, (0.0, 0, None))
            if answer is None:
                return None
            if self._clock() - stored >= self._ttl_s:
                self._drop(name)
                return None
            self._entries.move_to_end(name)
            return answer

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Store *answer*, replacing an older one; one that is larger than the whole cache is not stored."""
        name = entry_name(require_clearance(cleared, self.location, Purpose.CACHE), self._key)
        size = len(encoded(answer))
        with self._lock:
            self._drop(name)
            if size > self._max_bytes:
                return
            self._entries[name] = (self._clock(), size, answer)
            self._bytes += size
            while len(self._entries) > self._max or self._bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def close(self) -> None:
        """Drop every answer."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def _drop(self, name: bytes) -> None:
        if (entry := self._entries.pop(name, None)) is not None:
            self._bytes -= entry[1]

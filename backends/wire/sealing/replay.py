"""Refuses a sealed request that a node has seen before, with bounded memory. No I/O; the clock is injected.

A request says, sealed, when it was sealed. One that is older than the window, or from the future, is refused, so that
only those of the window must be remembered: 16 bytes each, at most *most*. When the memory is full, sealed requests are
refused as overload until the oldest leave the window; none is forgotten early.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from hybrid_llm.core.errors import BackendOverloaded, BackendUnavailable, DecryptionFailed

WINDOW_S: Final = 60.0
"""How far the clocks of app and node may be apart, travel included, seconds."""
MOST: Final = 65_536
"""Requests that are remembered: 11 MB, and over 1,000 sealed requests a second, for as long as one likes."""
SHARE: Final = 0.5
"""The part of them that one client may fill, so that others are still answered."""
_NODE: Final = "node"


class ReplayWindow:
    """Remembers the requests of the last *window_s* seconds and of the next, at most *most* of them."""

    def __init__(self, *, window_s: float = WINDOW_S, most: int = MOST, clock: Callable[[], float] = time.time) -> None:
        self._window, self._most, self._clock = window_s, most, clock
        self._began = clock()
        self._seen: set[bytes] = set()
        self._ends: list[tuple[float, bytes, str]] = []
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._seen)

    def admit(self, secret: bytes, issued: float, client: str = "") -> None:
        """Remember the request of *client* with *secret* that was sealed at *issued*, seconds since 1970.

        Requests without a *client* share the whole memory.

        Raises:
            DecryptionFailed: it was seen before, or was not sealed within the window.
            BackendUnavailable: it was sealed before this node began to remember, so it may have been answered already.
            BackendOverloaded: as many as can be remembered, of this client or of all, were sealed within the window.
        """
        now = self._clock()
        self._forget(now)
        if abs(now - issued) > self._window:
            text = f"the request was not sealed within {self._window:g} seconds of now: it is old, or a clock is wrong"
            raise DecryptionFailed(text)
        if issued < self._began:
            text = "the request was sealed before the node started"
            raise BackendUnavailable(text, backend=_NODE, reason="not_ready", retry_after=self._began - issued)
        name = sha256(secret).digest()[:16]
        if name in self._seen:
            raise DecryptionFailed("the sealed request was sent before: it is a replay")
        if len(self._seen) >= self._most or (client and self._held[client] >= self._most * SHARE):
            text = "the node remembers as many sealed requests as it can"
            raise BackendOverloaded(text, backend=_NODE, retry_after=max(self._ends[0][0] - now, 0.1))
        self._seen.add(name)
        self._held[client] += 1
        heapq.heappush(self._ends, (issued + self._window, name, client))

    def _forget(self, now: float) -> None:
        while self._ends and self._ends[0][0] < now:
            _, name, client = heapq.heappop(self._ends)
            self._seen.discard(name)
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]

"""The caches of the last sequences, for requests that begin alike: who shares what, and what is given up. No model.

What lies here counts towards the same memory limit as what runs, and is given up first, the oldest before the others.
A request sees what its own tenant left, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.text import LEAST_SHARED, TAIL, shared_prefix

if TYPE_CHECKING:
    from numpy.typing import NDArray


_MOST: Final = 64


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Entry:
    """One sequence that has ended. Its buffers are never written again."""

    tenant: str | None
    session_id: str | None
    tokens: Sequence[int] = field(repr=False)
    """Those whose keys and values the buffers hold."""
    buffers: Sequence[NDArray[Any]] = field(repr=False)
    size: int
    """Bytes of all buffers."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Start:
    """What a sequence begins with: the first *length* tokens of *buffers*, a list that its reader may empty."""

    length: int
    buffers: list[NDArray[Any]] = field(repr=False)


class PrefixCache:
    """Keeps entries, and finds the one that shares most. Safe to use from any thread."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._lock = threading.Lock()
        self._closed = False

    @property
    def size(self) -> int:
        """Bytes that lie here."""
        return sum(entry.size for entry in self._entries)

    def claim(self, tenant: str | None, prompt: Sequence[int], room: int) -> Start | None:
        """The longest known beginning of *prompt*, its last token excepted; then keep no more than *room* bytes.

        The entry it comes from leaves the shelf if little else is in it, or if there is no room for both.
        """
        with self._lock:
            found, shared = self._longest(tenant, prompt)
            if found is not None:
                self._entries.remove(found)
                self._entries.append(found)
            start = Start(length=shared, buffers=list(found.buffers)) if found is not None else None
            if found is not None and len(found.tokens) <= shared + TAIL:
                self._entries.pop()
            self._shrink(room)
            return start

    def put(self, entry: Entry, room: int) -> None:
        """Keep *entry*, as the newest, and no more than *room* bytes in all."""
        with self._lock:
            if not self._closed and len(entry.tokens) >= LEAST_SHARED:
                self._entries.append(entry)
            self._shrink(room)

    def forget(self, session_id: str, tenant: str | None) -> None:
        """Give up what a session left."""
        with self._lock:
            self._entries = [e for e in self._entries if (e.session_id, e.tenant) != (session_id, tenant)]

    def close(self) -> None:
        """Give up everything, and keep nothing from now on."""
        with self._lock:
            self._closed = True
            self._entries.clear()

    def _longest(self, tenant: str | None, prompt: Sequence[int]) -> tuple[Entry | None, int]:
        best, most = None, LEAST_SHARED - 1
        for entry in self._entries:
            if entry.tenant == tenant:
                shared = shared_prefix(entry.tokens, prompt, most=len(prompt) - 1)
                best, most = (entry, shared) if shared > most else (best, most)
        return best, most

    def _shrink(self, room: int) -> None:
        while self._entries and (self.size > room or len(self._entries) > _MOST):
            self._entries.pop(0)

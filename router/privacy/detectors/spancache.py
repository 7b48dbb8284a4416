"""Remembers what a model found in pieces of text, without the text: later turns repeat those of earlier turns."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Final

from hybrid_llm.router.privacy.detectors.labelled import Span

_BYTES: Final = 16


class SpanCache:
    """The spans of the pieces read last, by a MAC of each piece under a key of this process; safe for threads."""

    def __init__(self, size: int) -> None:
        """Keep up to *size* pieces; 0 keeps none."""
        self._size = size
        self._secret = secrets.token_bytes(_BYTES)
        self._spans: OrderedDict[bytes, tuple[Span, ...]] = OrderedDict()
        self._lock = Lock()

    def key(self, piece: str) -> bytes:
        """The MAC of *piece*."""
        data = piece.encode("utf-8", errors="surrogatepass")
        return hashlib.blake2b(data, key=self._secret, digest_size=_BYTES).digest()

    def get(self, keys: Iterable[bytes]) -> dict[bytes, tuple[Span, ...]]:
        """The spans of those of *keys* that are known."""
        with self._lock:
            found = {key: self._spans[key] for key in keys if key in self._spans}
            for key in found:
                self._spans.move_to_end(key)
        return found

    def put(self, spans: Mapping[bytes, tuple[Span, ...]]) -> None:
        """Remember *spans*; the pieces not used for longest are dropped."""
        with self._lock:
            self._spans.update(spans)
            while len(self._spans) > self._size:
                self._spans.popitem(last=False)

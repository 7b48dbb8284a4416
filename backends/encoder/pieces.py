"""The pieces of a text that a model reads one by one, and the memory of what it found in them.

A text is cut at the ends of lines and sentences where possible. Such a cut needs no overlap, as names do not cross it.
Where a piece has no such end, the next one repeats its last characters, so that every word is seen with context on both
sides. What was found is remembered without the text: later turns of a conversation repeat those of earlier turns.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import Final

from hybrid_llm.backends.encoder.labelled import Span

SIZE: Final = 400
"""Characters of a piece at most: enough context; the cost of attention grows with the square."""
OVERLAP: Final = 64
_LETTER: Final = re.compile(r"[^\W\d_]")
_ENDS: Final = (re.compile(r".*\n", re.DOTALL), re.compile(r".*(?:[.!?…]['\")\]]?\s|[。！？；])", re.DOTALL))
_GAP: Final = re.compile(r".*\s", re.DOTALL)
_MAC_BYTES: Final = 16


def pieces(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each piece of *text* that has a letter; pieces may overlap."""
    start = 0
    while start < len(text):
        end, following = _cut(text, start)
        if _LETTER.search(text, start, end):
            yield start, end
        start = following


def _cut(text: str, start: int) -> tuple[int, int]:
    """Where the piece that begins at *start* ends, and where the next begins, which is always later."""
    rest = len(text) - start
    if rest <= SIZE:
        return len(text), len(text)
    least, most = start + SIZE // 2, start + (SIZE if rest > SIZE * 3 // 2 else rest * 2 // 3)
    for ends in _ENDS:
        if found := ends.match(text, least, most):
            return found.end(), found.end()
    gap = _GAP.match(text, least, most)
    end = gap.end() if gap else most
    back = _GAP.match(text, end - OVERLAP * 2, end - OVERLAP)
    return end, back.end() if back else end - OVERLAP


class SpanCache:
    """The spans of the pieces read last, by a MAC of each piece under a key of this process; safe for threads."""

    def __init__(self, size: int) -> None:
        """Keep up to *size* pieces; 0 keeps none."""
        self._size = size
        self._secret = secrets.token_bytes(_MAC_BYTES)
        self._spans: OrderedDict[bytes, tuple[Span, ...]] = OrderedDict()
        self._lock = Lock()

    def key(self, piece: str) -> bytes:
        """The MAC of *piece*."""
        data = piece.encode("utf-8", errors="surrogatepass")
        return hashlib.blake2b(data, key=self._secret, digest_size=_MAC_BYTES).digest()

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

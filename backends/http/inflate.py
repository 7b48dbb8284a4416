"""The bytes of a body, inflated piece by piece: a few kilobytes of gzip can hold gigabytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Final

import httpx

ACCEPTED: Final = "gzip"
_PIECE: Final = 64 << 10
_GZIP: Final = 16 + zlib.MAX_WBITS


class Inflater:
    """Inflates the body of an answer with *headers*, at most 64 KiB at a time.

    Raises:
        httpx.DecodingError: it is in an encoding that was not asked for; so does `feed` where it is not in its own.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in (ACCEPTED, "identity"):
            raise httpx.DecodingError("the body is in an encoding that was not asked for")
        self._gzip = zlib.decompressobj(_GZIP) if encoding == ACCEPTED else None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what *piece* holds."""
        if self._gzip is None:
            yield piece
            return
        while piece and not self._gzip.eof:
            try:
                yield self._gzip.decompress(piece, _PIECE)
            except zlib.error:
                raise httpx.DecodingError("the body is no gzip") from None
            piece = self._gzip.unconsumed_tail

"""Picks the endpoint that gets a request: the one that has read its beginning already, else the quicker of two. No I/O.

Two endpoints are drawn and the one with the shorter expected wait is picked (power of two choices; Mitzenmacher, 2001).
An endpoint that has seen the session, or at least half of the prompt, is preferred while its share of the work is
bounded (consistent hashing with bounded loads; Mirrokni, Thorup and Zadimoghaddam, 2016), since it has that part in its
prefix cache. Less than half does not count: all endpoints soon hold a shared system prompt, and one would fill up.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from hybrid_llm.core.request import Request

_BLOCK_CHARACTERS: Final = 512
_MAX_BLOCKS: Final = 64
_REMEMBERED: Final = 16_384
"""Blocks, in about 3 MB: two million tokens, more than the KV memory of dozens of nodes holds."""
_BOUND: Final = 1.25
_SLACK: Final = 1.0
_WORTH: Final = 0.5
"""The share of a prompt's blocks that an endpoint must have read to be worth a longer wait."""


class Endpoint(Protocol):
    """What the picker needs to know of an endpoint."""

    @property
    def address(self) -> str:
        """`HOST:PORT`, unique among the endpoints."""

    @property
    def busy(self) -> float:
        """Requests in progress or waiting there, as a share of its slots."""

    @property
    def expected_ttft_ms(self) -> float:
        """Expected time to first token there, now, ms."""


E = TypeVar("E", bound=Endpoint)


def blocks_of(request: Request) -> tuple[bytes, ...]:
    """Return a hash of the session, else of every prefix of the prompt that ends after a multiple of 512 characters."""
    mac = hashlib.blake2b(digest_size=16)
    hashes: list[bytes] = []
    if request.session_id is not None:
        mac.update(f"{request.tenant}\x00{request.session_id}".encode())
        return (mac.digest(),)
    text = "\x00".join(f"{message.role}\x00{message.content}" for message in request.messages)
    for start in range(0, min(len(text), _MAX_BLOCKS * _BLOCK_CHARACTERS) - _BLOCK_CHARACTERS + 1, _BLOCK_CHARACTERS):
        mac.update(text[start : start + _BLOCK_CHARACTERS].encode("utf-8", "surrogatepass"))
        hashes.append(mac.digest())
    return tuple(hashes)


class Picker:
    """Remembers which endpoint has read what. Safe to use from any thread."""

    def __init__(self, *, draw: random.Random | None = None, remembered: int = _REMEMBERED) -> None:
        self._draw = draw or random.Random()  # noqa: S311  # a choice of endpoints is no secret
        self._remembered = remembered
        self._readers: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def pick(self, endpoints: Sequence[E], blocks: Sequence[bytes] = ()) -> E:
        """Return one of *endpoints*, of which there is at least one; *blocks* are the request's `blocks_of`."""
        with self._lock:
            picked = self._reader(endpoints, blocks) or self._quicker(endpoints)
            for block in blocks:
                self._readers[block] = picked.address
                self._readers.move_to_end(block)
            while len(self._readers) > self._remembered:
                self._readers.popitem(last=False)
        return picked

    def _reader(self, endpoints: Sequence[E], blocks: Sequence[bytes]) -> E | None:
        """The endpoint that has read the longest prefix, unless it is far busier than the others."""
        bound = _BOUND * sum(endpoint.busy for endpoint in endpoints) / len(endpoints) + _SLACK
        by_address = {endpoint.address: endpoint for endpoint in endpoints}
        least = math.ceil(_WORTH * len(blocks))
        for block in reversed(blocks[max(0, least - 1) :]):
            reader = by_address.get(self._readers.get(block, ""))
            if reader is not None:
                return reader if reader.busy <= bound else None
        return None

    def _quicker(self, endpoints: Sequence[E]) -> E:
        drawn = self._draw.sample(endpoints, min(2, len(endpoints)))
        return min(drawn, key=lambda endpoint: endpoint.expected_ttft_ms)

"""Which of several nodes gets a request: whoever has read its beginning already, else the quicker of two. No I/O.

Two nodes are drawn and the one with less expected waiting is taken (power of two choices; Mitzenmacher, 2001). A node
that has seen the session, or at least half of the prompt, is preferred while its share of the work is bounded
(consistent hashing with bounded loads; Mirrokni, Thorup and Zadimoghaddam, 2016), since it has read that part already.
Less than half binds nobody: a system prompt that all share is soon read everywhere, and would fill one node.
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
_MOST_BLOCKS: Final = 64
_REMEMBERED: Final = 65_536
_BOUND: Final = 1.25
_SLACK: Final = 1.0
_WORTH: Final = 0.5
"""The share of a prompt's beginnings that a node has read for which it is worth a longer wait there."""


class Seat(Protocol):
    """A node, as far as choosing looks at it."""

    @property
    def name(self) -> str:
        """What tells it from the others, for as long as there is this node."""
        ...

    @property
    def busy(self) -> float:
        """Requests that it works on or that wait there, as a share of its slots."""
        ...

    @property
    def waiting_ms(self) -> float:
        """Expected time to a first token there, now, ms."""
        ...


S = TypeVar("S", bound=Seat)


def blocks_of(request: Request) -> tuple[bytes, ...]:
    """Names of the beginnings of a request: the session first, then every 512 characters, each with all before it."""
    mac = hashlib.blake2b(digest_size=16)
    names: list[bytes] = []
    if request.session_id is not None:
        mac.update(f"{request.tenant}\x00{request.session_id}".encode())
        return (mac.digest(),)
    text = "\x00".join(f"{message.role}\x00{message.content}" for message in request.messages)
    for start in range(0, min(len(text), _MOST_BLOCKS * _BLOCK_CHARACTERS) - _BLOCK_CHARACTERS + 1, _BLOCK_CHARACTERS):
        mac.update(text[start : start + _BLOCK_CHARACTERS].encode("utf-8", "surrogatepass"))
        names.append(mac.digest())
    return tuple(names)


class Chooser:
    """Remembers which node has read what. Safe to use from any thread."""

    def __init__(self, *, draw: random.Random | None = None, remembered: int = _REMEMBERED) -> None:
        self._draw = draw or random.Random()  # noqa: S311  # a choice between nodes is no secret
        self._most = remembered
        self._readers: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def choose(self, seats: Sequence[S], blocks: Sequence[bytes] = ()) -> S:
        """One of *seats*, of which there is at least one; *blocks* names what the request begins with."""
        with self._lock:
            seat = self._reader(seats, blocks) or self._quicker(seats)
            for block in blocks:
                self._readers[block] = seat.name
                self._readers.move_to_end(block)
            while len(self._readers) > self._most:
                self._readers.popitem(last=False)
        return seat

    def _reader(self, seats: Sequence[S], blocks: Sequence[bytes]) -> S | None:
        """Who has read the longest beginning, if that node is not far busier than the others."""
        bound = _BOUND * sum(seat.busy for seat in seats) / len(seats) + _SLACK
        by_name = {seat.name: seat for seat in seats}
        least = math.ceil(_WORTH * len(blocks))
        for block in reversed(blocks[max(0, least - 1) :]):
            seat = by_name.get(self._readers.get(block, ""))
            if seat is not None:
                return seat if seat.busy <= bound else None
        return None

    def _quicker(self, seats: Sequence[S]) -> S:
        """The one with less waiting, of two that are drawn."""
        drawn = self._draw.sample(seats, min(2, len(seats)))
        return min(drawn, key=lambda seat: seat.waiting_ms)

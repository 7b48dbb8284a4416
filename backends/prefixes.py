"""How far two token sequences begin alike: what an engine need not compute again. Used by the node and by the edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["LEAST_SHARED", "TAIL", "shared_prefix"]

TAIL: Final = 32
"""Tokens behind a shared beginning that may be lost: the end of a turn comes back written otherwise."""
LEAST_SHARED: Final = 8
"""Fewer tokens are computed as fast as they are found and copied."""
_STRIDE: Final = 256


def shared_prefix(left: Sequence[int], right: Sequence[int], *, most: int) -> int:
    """How many tokens *left* and *right*, of the same type, begin with alike; not more than *most*."""
    end = min(len(left), len(right), most)
    for start in range(0, end, _STRIDE):
        stop = min(start + _STRIDE, end)
        if left[start:stop] != right[start:stop]:
            return next(index for index in range(start, stop) if left[index] != right[index])
    return max(end, 0)

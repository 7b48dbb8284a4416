"""Long work ends when its request does: between its pieces it looks at the deadline that its caller has set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, Token
from itertools import islice
from threading import Event
from typing import Final, TypeVar

T = TypeVar("T")
Check = Callable[[], None]
"""Raises DeadlineExceeded once the deadline is over, or the caller has left."""
PIECES: Final = 256
"""Small pieces of work between two looks."""
PART: Final = 1 << 16
"""Bytes that are searched at once with `re`, which takes up to 2 ms."""
_check: ContextVar[Check | None] = ContextVar("check", default=None)
caller_left: ContextVar[Event | None] = ContextVar("caller_left", default=None)
"""Set in a thread that works for an event loop: whether the caller has been cancelled, so that the work may end."""


def look() -> None:
    """Call the check of the work that this is part of, if it has one."""
    check = _check.get()
    if check is not None:
        check()


def begin(check: Check) -> Token[Check | None]:
    """What is done here from now on, until `end`, is done for a request with this *check*."""
    return _check.set(check)


def end(token: Token[Check | None]) -> None:
    """Undo the `begin` that returned *token*."""
    _check.reset(token)


def looked(items: Iterable[T], pieces: int = PIECES) -> Iterator[T]:
    """*items*, with a look at the deadline between each *pieces* of them."""
    left = iter(items)
    yield from islice(left, pieces)
    for item in left:
        look()
        yield item
        yield from islice(left, pieces - 1)


def bounded(pattern: re.Pattern[bytes], data: bytes, longest: int) -> Iterator[re.Match[bytes]]:
    """Like `finditer`, for a pattern that matches at most *longest* bytes, part by part: `re` stops all threads.

    Between two parts other threads may run, and there is a look at the deadline.
    """
    start = 0
    while start < len(data):
        part = behind = start + PART
        for match in pattern.finditer(data, start, part + longest + 1):
            if match.start() >= part:
                break
            behind = max(behind, match.end())
            yield match
        start = behind
        look()

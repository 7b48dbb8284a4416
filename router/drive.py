"""Run the async core for callers that have no event loop: the generators are stepped by hand, in the caller's thread.

The core awaits nothing but what is injected here, so one `send(None)` runs each step to its end (0.4 us; an event loop
in a background thread would cost 26 us).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator
from typing import Any, TypeVar

__all__ = ["blocking_sleep", "finish", "iterate", "stepped"]

T = TypeVar("T")


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine*, which never really waits, to its end and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("the core awaited something that a synchronous call cannot wait for")


async def blocking_sleep(seconds: float) -> None:
    """Sleep in the caller's thread."""
    time.sleep(seconds)


async def stepped(items: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Show a plain generator to the core as an async one; closing it closes the plain one, in the same step."""
    try:
        for item in items:
            yield item
    finally:
        items.close()


def iterate(items: AsyncIterator[T]) -> Generator[T, None, None]:
    """Show the core's async generator as a plain one."""
    try:
        while True:
            try:
                yield finish(_anext(items))
            except StopAsyncIteration:
                return
    finally:
        if isinstance(items, AsyncGenerator):
            finish(_aclose(items))


async def _anext(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def _aclose(items: AsyncGenerator[Any, Any]) -> None:
    await items.aclose()

"""How streams are closed and cross threads: async generators inside others, and chunks from a thread to a loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from typing import Any, Generic, Self, TypeVar

from hybrid_llm.core.generation import Chunk

T_co = TypeVar("T_co", covariant=True)
_Item = Chunk | BaseException | None


class Owned(Generic[T_co]):
    """The items of an async generator that its consumer alone closes, always, with `aclose`.

    An event loop closes the async generators that are left when it ends, and those that become garbage, in any order:
    an inner one while the outer one is closing it, which raises "asynchronous generator is already running". Asyncio
    learns of a generator by hooks that are read at its first step; these are switched off here for that moment.
    """

    __slots__ = ("_items", "_step")

    def __init__(self, items: AsyncGenerator[T_co, None]) -> None:
        self._items = items
        self._step = self._first

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[T_co]:
        return self._step()

    def _first(self) -> Awaitable[T_co]:
        self._step = self._items.__anext__  # from now on without this detour
        before = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=_leave_to_owner)
        try:
            return self._items.__anext__()
        finally:
            sys.set_asyncgen_hooks(*before)

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Close the generator."""
        return self._items.aclose()


def _leave_to_owner(_: AsyncGenerator[Any, Any]) -> None:
    """Do nothing: the owner is garbage too, the loop closes it, and it closes this one."""


class ThreadAnswer:
    """Made in the event loop, where `next` and `ended` are awaited; a thread calls `put`, and at last `end`.

    A consumer may leave at any time, and its loop may be closed: the thread is told, and nothing is logged.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[_Item] = asyncio.Queue()
        self._over = False

    def put(self, chunk: Chunk) -> bool:
        """Deliver *chunk*; False if there is no loop any more."""
        return self._deliver(chunk)

    def end(self, error: BaseException | None) -> None:
        """The answer is complete, or ended with *error*."""
        self._deliver(error)

    async def next(self) -> Chunk | None:
        """The next chunk; None after the last one. Raises what `end` was given."""
        item = await self._items.get()
        if isinstance(item, Chunk):
            return item
        self._over = True
        try:
            if item is not None:
                raise item
            return None
        finally:
            del item  # an error and the frame that raised it would hold each other

    async def ended(self) -> None:
        """Wait until the thread has ended the answer, whatever it still delivers."""
        while not self._over:
            self._over = not isinstance(await self._items.get(), Chunk)

    def _deliver(self, item: _Item) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the loop is closed
            return False
        return True

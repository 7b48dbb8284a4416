"""Async generators inside async generators: only the outermost is known to the event loop."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from typing import Any, Generic, Self, TypeVar

T_co = TypeVar("T_co", covariant=True)


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

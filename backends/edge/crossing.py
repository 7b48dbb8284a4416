"""An answer on its way from the thread that generates it to the event loop that consumes it."""

from __future__ import annotations

import asyncio

from hybrid_llm.core.generation import Chunk

_Item = Chunk | BaseException | None


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

"""Reads of gRPC's calls in an event loop, which end by themselves also where their task is cancelled.

gRPC frees the operations of a batch once it has reported them to whoever awaits them; an awaiter that is cancelled
leaves them for ever, 300 bytes a call (grpc/grpc#43360). So a task that is cancelled cancels the call, and leaves when
gRPC has reported that: within a millisecond, and without the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import coroutine
from typing import Any, Final

import grpc.aio

EOF: Final = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs do not know it
"""What follows the last message."""


@coroutine
def read(call: Any) -> Generator[Any, None, Any]:
    """Await the next message of *call*, or `EOF`. Raises as `call.read()` does."""
    reading = call.read()
    left: asyncio.CancelledError | None = None
    try:
        while True:
            waited = reading.send(None)
            waited._asyncio_future_blocking = False  # as a task says that it has taken what was awaited
            while not waited.done():
                try:
                    yield from _until(waited)
                except asyncio.CancelledError as error:
                    left = left or error
                    # `call.cancel()` would also cancel the task that sends the request, and its batch.
                    call._cancel("the caller has left")
    except StopIteration as end:
        if left is None:
            return end.value
    except (Exception, asyncio.CancelledError):
        if left is None:
            raise
    finally:
        reading.close()
    raise left


def _until(waited: asyncio.Future[Any]) -> Generator[Any, None, None]:
    """Wait for *waited* without being its awaiter, whose cancellation would be its own."""
    mine: asyncio.Future[None] = waited.get_loop().create_future()

    def end(_: asyncio.Future[Any]) -> None:
        if not mine.done():
            mine.set_result(None)

    waited.add_done_callback(end)
    yield from mine

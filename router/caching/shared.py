"""One request among identical ones: it generates the answer for all of them, or gets it as it is generated."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from contextlib import aclosing
from typing import Final

from hybrid_llm.core.generation import AttemptRecord, Chunk, Continuation
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.threads import owned
from hybrid_llm.router.caching.flights import Flight, Flights, Overlap
from hybrid_llm.router.caching.wakeups import Wakeup
from hybrid_llm.router.execution.answer import Run

_MOST_LEADERS: Final = 2
"""Leaders that a request follows, one after the other; then it generates the answer for itself."""


class SharedRun:
    """The chunks of one request, its own or those of an identical one in flight.

    Args:
        flights: The answers in progress.
        key: What distinguishes the request from others: two with one key get the same answer.
        attempts: How the answer is generated.
        metadata: The metadata of the request, with its deadline.
        wakeup: Makes what its caller waits with; None where it may not wait.
        again: Looks into the cache once more, if an answer was completed since.
        joined: Called with the last chunk, and the backend, of an answer for which no backend was called.
    """

    def __init__(
        self,
        flights: Flights,
        key: Hashable,
        attempts: Run,
        metadata: RequestMetadata,
        *,
        wakeup: Callable[[], Wakeup | None],
        again: Callable[[], Awaitable[Run | None]],
        joined: Callable[[str, Chunk], None],
    ) -> None:
        self._flights, self._key, self._metadata = flights, key, metadata
        self._attempts = attempts
        self._wakeup, self._again, self._joined = wakeup, again, joined
        self._source: Run = attempts
        self._flight: Flight | None = None
        self._waiting: Wakeup | None = None
        self._position = 0
        self._left = self._followed = False

    @property
    def answering(self) -> str:
        """The backend that answers, be it for another request; empty until one does."""
        return self._source.answering

    @property
    def cached(self) -> bool:
        """Whether no backend was called for this request."""
        return self._followed or self._source.cached

    @property
    def records(self) -> Sequence[AttemptRecord]:
        """The calls that were made for this request."""
        return self._attempts.records

    @property
    def continuations(self) -> Sequence[Continuation]:
        """Where the answer was continued, be it for another request."""
        return self._source.continuations

    def leave(self, then: Callable[[], None]) -> None:
        """The caller leaves, while another thread waits for a chunk; then do *then*."""
        self._left = True
        if (waiting := self._waiting) is not None:
            waiting.wake()
        then()

    def end(self, then: Callable[[], None]) -> None:
        """The request is over, its answer stored; do *then*."""
        if (flight := self._flight) is not None:
            self._flight = None
            self._flights.leave(self._key, flight, led=flight.source is self)
        then()

    async def run(self) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks. Raises what the attempts raise; errors of other requests are theirs alone."""
        wakeup, flight = self._wakeup(), Flight()
        if wakeup is not None:
            flight = self._flight = self._flights.join(self._key)
            for _ in range(_MOST_LEADERS):
                if flight.take_lead(self):
                    break
                async with aclosing(owned(self._follow(flight, wakeup))) as chunks:
                    async for chunk in chunks:
                        yield chunk
                if self._followed:
                    return
        async with aclosing(owned(self._generate(flight))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _follow(self, flight: Flight, wakeup: Wakeup) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of another request, until the last one or until that one stops."""
        self._waiting = wakeup
        flight.attach(wakeup)
        try:
            while True:
                wakeup.clear()
                is_free = flight.is_free()  # before the chunks are read: what is published last is not missed
                while (chunk := flight.chunk(self._position)) is not None:
                    self._take(flight, chunk)
                    yield chunk
                if is_free or self._followed:
                    return
                await self._wait(flight, wakeup)
        finally:
            flight.detach(wakeup)
            self._waiting = None

    def _take(self, flight: Flight, chunk: Chunk) -> None:
        """Note the next *chunk* of another request."""
        self._source = flight.source or self._source
        self._position += 1
        if chunk.finish_reason is not None:
            self._followed = True
            self._joined(self.answering, chunk)

    async def _wait(self, flight: Flight, wakeup: Wakeup) -> None:
        """Wait for a change, until the deadline of this request.

        Raises:
            DeadlineExceeded: it is over.
        """
        remaining, patience = self._metadata.remaining(), flight.patience_s
        if remaining <= 0.0:
            raise self._metadata.late(self.answering, phase="waiting for an identical request")
        await wakeup.wait(remaining if patience is None else min(remaining, patience))
        if self._left:
            raise CancelledError

    async def _generate(self, flight: Flight) -> AsyncGenerator[Chunk, None]:
        """Yield what is left of the answer, and publish it where this request leads."""
        given = flight.published()
        overlap = Overlap(given)
        try:
            for chunk in given[self._position :]:
                flight.pause(self)
                yield chunk
            flight.resume(self)
            self._source = (await self._again() if not given else None) or self._attempts
            async with aclosing(owned(self._source.run())) as chunks:
                async for each in chunks:
                    if (new := overlap.rest(each, self.answering)) is not None:
                        flight.publish(self, new)
                        flight.pause(self)
                        yield new
                        flight.resume(self)
        finally:
            flight.drop_lead(self)

"""One request among identical ones: it generates the answer for all of them, or gets it as it is generated."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from hybrid_llm.core.generation import AttemptRecord, Chunk, Continuation
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.threads import owned
from hybrid_llm.router.caching.flights import Flight, Flights, Overlap, Wakeup
from hybrid_llm.router.execution.answer import Run

_MOST_LEADERS: Final = 2
"""Leaders that a request follows, one after the other; then it generates the answer for itself."""


class SharedRun:
    """The chunks of one request, its own or those of an identical one in flight.

    *wakeup* makes what its caller waits with, or None where that must not wait; *joined* is called with the backend and
    the last chunk of an answer for which no backend was called.
    """

    def __init__(
        self,
        flights: Flights,
        flight: Flight,
        attempts: Run,
        metadata: RequestMetadata,
        wakeup: Callable[[], Wakeup | None],
        joined: Callable[[str, Chunk], None],
    ) -> None:
        self._flights, self._flight, self._attempts, self._metadata = flights, flight, attempts, metadata
        self._wakeup, self._joined = wakeup, joined
        self._source: Run = attempts
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
        return self._followed

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
        self._flights.leave(self._flight, self)
        then()

    async def run(self) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks. Raises what the attempts raise; errors of other requests are theirs alone."""
        wakeup, flight = self._wakeup(), self._flight
        for _ in range(_MOST_LEADERS if wakeup is not None else 0):
            if flight.take_lead(self):
                break
            assert wakeup is not None
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
                patience = flight.patience_s()  # before the chunks are read: what is published last is not missed
                while (chunk := flight.chunk(self._position)) is not None:
                    self._take(flight, chunk)
                    yield chunk
                if patience == 0.0 or self._followed:
                    return
                await self._wait(wakeup, patience)
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

    async def _wait(self, wakeup: Wakeup, patience: float | None) -> None:
        """Wait for a change, at most for *patience* seconds, until the deadline of this request.

        Raises:
            DeadlineExceeded: it is over.
        """
        remaining = self._metadata.remaining()
        if remaining <= 0.0:
            raise self._metadata.late(self.answering, phase="waiting for an identical request")
        await wakeup.wait(remaining if patience is None else min(remaining, patience))
        if self._left:
            raise CancelledError

    async def _generate(self, flight: Flight) -> AsyncGenerator[Chunk, None]:
        """Yield what is left of the answer, and publish it where this request leads."""
        published = flight.published()
        overlap = Overlap(published)
        try:
            for chunk in published[self._position :]:
                flight.pause(self)
                yield chunk
            flight.resume(self)
            self._source = self._attempts
            async with aclosing(owned(self._attempts.run())) as chunks:
                async for each in chunks:
                    if (new := overlap.rest(each, self.answering)) is not None:
                        flight.publish(self, new)
                        flight.pause(self)
                        yield new
                        flight.resume(self)
        finally:
            flight.drop_lead(self)

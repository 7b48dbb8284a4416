"""The streams by which an app pulls an answer. Importing this is quick: an event loop may be what imports it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final, Self, TypeVar

from hybrid_llm.core.errors import out_of_files
from hybrid_llm.core.tracebacks import scrubbed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from types import TracebackType

    from hybrid_llm.core.decision import Decision
    from hybrid_llm.core.generation import Chunk, Generation
    from hybrid_llm.core.lifetime import Origin
    from hybrid_llm.core.loops import LoopThread
    from hybrid_llm.router.execution.answer import Answer

T = TypeVar("T")
_GRACE_S: Final = 0.02
"""What an async caller waits beyond the deadline, so that the backend's own, better error arrives first."""


class Stream:
    """An iterator of `Chunk`. Leaving it early, through `close` or `with`, stops the work of the backend."""

    def __init__(self, answer: Answer, loop: LoopThread | None = None, *, owner: object = None) -> None:
        """Step *answer* in the caller's thread, or run it in *loop* where calls may be hedged.

        *owner*, the client, is referred to for as long as the stream is.
        """
        from hybrid_llm.core.lifetime import Origin, close_at_exit
        from hybrid_llm.router.execution.answer import iterate

        self._answer = answer
        self._owner = owner
        self._left = False
        self._turn = threading.Lock()
        """Held by whoever runs the steps: to close a generator that another thread runs may crash Python 3.11."""
        self._origin = Origin()
        self._steps = iterate(answer.chunks()) if loop is None else loop.iterate(lambda: AsyncStream.of(answer))
        close_at_exit(self)

    @property
    def decision(self) -> Decision:
        """Which backends are tried, and why; known before the first chunk."""
        return self._answer.decision

    @property
    def request_id(self) -> str:
        """The id of the request in logs and on the node."""
        return self._answer.metadata.request_id

    @property
    def backend(self) -> str:
        """The backend that answers; empty before the first chunk."""
        return self._answer.backend

    @property
    def generation(self) -> Generation:
        """The whole answer, after the last chunk; HybridLLMError before."""
        return self._answer.generation

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        self._check_origin()
        with self._turn:
            try:
                chunk = next(self._steps)
            except BaseException as error:
                if not self._left:
                    if (typed := out_of_files(error)) is not None:
                        raise typed from None
                    raise
            else:
                if not self._left:
                    return chunk
                self._steps.close()
        raise StopIteration

    def _check_origin(self) -> None:
        self._origin.check("this stream was opened")

    def collect(self) -> Generation:
        """Take the chunks that are left and close the stream; return the whole answer. Raises what iterating raises."""
        self._check_origin()
        with self:
            try:
                with self._turn:
                    for _ in self._steps:
                        pass
            except asyncio.CancelledError:
                if self._left:
                    from hybrid_llm.core.threads import closed_error

                    raise closed_error() from None
                raise
            return self.generation

    def close(self) -> None:
        """Stop generating, from any thread; for one that waits for a chunk the stream ends. Idempotent."""
        if not self._origin.is_here:
            return
        if not self._turn.acquire(blocking=False):
            self._left = True
            self._answer.leave()
            return
        try:
            self._steps.close()
        finally:
            self._turn.release()
        self._answer.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


async def _never() -> Answer:
    raise AssertionError("this stream is routed already")


class AsyncStream:
    """An async iterator of `Chunk`. Leaving it early (`aclose`, `async with`, cancellation) stops the work.

    The request is checked and routed by `async with`, or by the first chunk, which raise the errors of routing; from
    then on `decision` is known.
    """

    def __init__(self, start: Callable[[], Awaitable[Answer]], *, owner: object = None) -> None:
        """*start* routes the request; it is awaited once, when the stream is entered or its first chunk asked for.

        *owner*, the client, is referred to for as long as the stream is.
        """
        self._owner = owner
        self._start: Callable[[], Awaitable[Answer]] | None = start
        self._started: Answer | None = None
        self._chunks: AsyncGenerator[Chunk, None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: asyncio.Timeout | None = None
        self._closing: asyncio.Event | None = None
        self._origin: Origin | None = None

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """The stream of an answer that is routed."""
        stream = cls(_never)
        stream._begin(answer)
        return stream

    @property
    def decision(self) -> Decision:
        """Which backends are tried, and why; known once the stream is entered, or has its first chunk."""
        return self._answer.decision

    @property
    def request_id(self) -> str:
        """The id of the request in logs and on the node; known when `decision` is."""
        return self._answer.metadata.request_id

    @property
    def backend(self) -> str:
        """The backend that answers; empty before the first chunk."""
        return self._started.backend if self._started is not None else ""

    @property
    def generation(self) -> Generation:
        """The whole answer, after the last chunk; HybridLLMError before."""
        return self._answer.generation

    @property
    def _answer(self) -> Answer:
        if self._started is None:
            from hybrid_llm.core.errors import HybridLLMError

            raise HybridLLMError("the request is not routed yet: enter the stream with `async with`, or take a chunk")
        return self._started

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if self._start is not None:
            await self._route()
        answer, chunks = self._started, self._chunks
        if answer is None or chunks is None:  # closed before it was started
            raise StopAsyncIteration
        self._check_loop()
        if self._waiting is not None:
            from hybrid_llm.core.errors import HybridLLMError

            raise HybridLLMError("another task waits for a chunk of this stream: let one task take them all")
        if answer.is_whole:  # only bookkeeping is left: an answer that is there is not late
            return await anext(chunks)
        return await self._in_time(answer, anext(chunks))

    def _check_loop(self) -> None:
        """Raise UnsupportedRuntime in another event loop than that of the first chunk: the backend's call is there."""
        if self._origin is not None:
            self._origin.check("this stream was opened")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            from hybrid_llm.core.errors import UnsupportedRuntime

            raise UnsupportedRuntime("this stream began in another event loop: take all its chunks there")

    async def _in_time(self, answer: Answer, work: Awaitable[T]) -> T:
        """Wait for *work* until the deadline, or until the stream is closed."""
        try:
            async with asyncio.timeout(max(0.0, answer.metadata.remaining()) + _GRACE_S) as self._waiting:
                return await work
        except TimeoutError:
            if self._closing is not None:
                raise StopAsyncIteration from None
            raise answer.late() from None
        except (OSError, ImportError) as error:
            raise out_of_files(error) or error from None
        finally:
            self._waiting = None
            if self._closing is not None:
                self._closing.set()

    @scrubbed
    async def _route(self) -> None:
        start, self._start = self._start, None
        if start is not None:
            self._begin(await start())

    def _begin(self, answer: Answer) -> None:
        from hybrid_llm.core.lifetime import Origin

        self._origin = Origin()
        self._start, self._started, self._chunks = None, answer, answer.chunks()

    async def collect(self) -> Generation:
        """Do as `Stream.collect` does, without blocking the event loop."""
        async with self:
            await self._in_time(self._answer, self._complete())  # one timer for all chunks
            async for _ in self:
                pass
            return self.generation

    async def _complete(self) -> None:
        """Take the chunks up to the last one."""
        assert self._chunks is not None
        self._check_loop()
        async for _ in self._chunks:
            if self._answer.is_whole:
                return

    async def aclose(self) -> None:
        """Stop generating. Idempotent."""
        self._start = None
        if self._origin is not None and not self._origin.is_here:
            return
        if self._started is not None and self._chunks is not None:
            if self._waiting is not None:  # another task waits for a chunk: it gets the end of the stream
                self._closing = asyncio.Event()
                self._waiting.reschedule(asyncio.get_running_loop().time())
                await self._closing.wait()
            await self._chunks.aclose()
            self._started.abandon()

    async def __aenter__(self) -> Self:
        await self._route()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

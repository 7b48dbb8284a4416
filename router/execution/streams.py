"""What `stream` and `astream` return: the decision is known at once, the pieces come by iteration, close cancels."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import DeadlineExceeded
from hybrid_llm.core.generation import Chunk, Generation
from hybrid_llm.router.execution.answer import Answer
from hybrid_llm.router.execution.drivers import LoopThread, iterate

_GRACE_S: Final = 0.02


class _Progress:
    """What both kinds of stream show of the answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._chunks = answer.chunks()

    @property
    def decision(self) -> Decision:
        """Who is asked, and why: known before the first chunk."""
        return self._answer.decision

    @property
    def request_id(self) -> str:
        """The id that logs and the node know the request by."""
        return self._answer.metadata.request_id

    @property
    def backend(self) -> str:
        """Who answers; empty before the first chunk."""
        return self._answer.backend

    @property
    def generation(self) -> Generation:
        """The whole answer, after the last chunk; HybridLLMError before."""
        return self._answer.generation


class Stream(_Progress):
    """An iterator of `Chunk`. Leaving it early through `close` or `with` stops the backend's work."""

    def __init__(self, answer: Answer, loop: LoopThread | None = None) -> None:
        """Step *answer* in the caller's thread, or in *loop* where it needs several things at once."""
        super().__init__(answer)
        self._steps = iterate(self._chunks) if loop is None else loop.iterate(lambda: AsyncStream(answer))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        return next(self._steps)

    def close(self) -> None:
        """Stop; what has not been generated never is."""
        self._steps.close()
        self._answer.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class AsyncStream(_Progress):
    """An async iterator of `Chunk`. Leaving it early through `aclose`, `async with` or cancellation stops the work."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if self._answer.is_whole:  # what is left to do is short, and whoever has the answer is not late
            return await anext(self._chunks)
        metadata = self._answer.metadata
        try:
            async with asyncio.timeout(max(0.0, metadata.remaining()) + _GRACE_S):
                return await anext(self._chunks)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the deadline of {metadata.deadline:g} s is over", backend=self.backend, elapsed=metadata.deadline
            ) from None

    async def aclose(self) -> None:
        """Stop; what has not been generated never is."""
        await self._chunks.aclose()
        self._answer.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

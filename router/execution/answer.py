"""One answer in progress: counts and times what the attempts yield, then tells the hooks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Protocol

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import Chunk, Continuation, FinishReason, Generation, Timings, Usage
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.router.cache import Replay
from hybrid_llm.router.execution.scrub import scrub_traceback
from hybrid_llm.router.observability.hooks import AttemptRecord, Hook, RequestEvent, emit

Parse = Callable[[str], object] | None
"""Makes an object of an answer that follows a schema."""

Over = Callable[[Generation | None], None]
"""Told once when an answer that began is over: the whole of it, or None where it is not complete."""


class Run(Protocol):
    """Where the pieces of one answer come from: `Attempts`, or what a cache kept."""

    @property
    def metadata(self) -> RequestMetadata:
        """What is known of the request."""
        ...

    @property
    def decision(self) -> Decision:
        """Who is asked, and why."""
        ...

    @property
    def answering(self) -> str:
        """Who answers; empty until someone does."""
        ...

    @property
    def records(self) -> Sequence[AttemptRecord]:
        """What was tried."""
        ...

    @property
    def continuations(self) -> Sequence[Continuation]:
        """Where the answer was continued."""
        ...

    def run(self) -> AsyncGenerator[Chunk, None]:
        """The pieces."""
        ...


class Answer:
    """The answer to one request. `chunks` runs it; `generation` is there once it is complete."""

    def __init__(self, run: Run, signals: Signals, *, hooks: Iterable[Hook], over: Over, parse: Parse) -> None:
        self._run = run
        self._signals = signals
        self._hooks = hooks
        self._over = over
        self._parse = parse
        self._parts: list[str] = []
        self._tokens = 0
        self._first_at = 0.0
        self._last_at = 0.0
        self._final: Chunk | None = None
        self._generation: Generation | None = None
        self._error = "cancelled"
        self._begun = False

    @property
    def metadata(self) -> RequestMetadata:
        """What is known of the request."""
        return self._run.metadata

    @property
    def decision(self) -> Decision:
        """Who is asked, and why."""
        return self._run.decision

    @property
    def backend(self) -> str:
        """Who answers; empty until someone does."""
        return self._run.answering

    @property
    def is_whole(self) -> bool:
        """Whether its last piece is there."""
        return self._final is not None

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Yield the pieces of the answer; errors are those of `Attempts.run`."""
        self._begun, pieces = True, self._run.run()
        try:
            async for chunk in pieces:
                self._take(chunk)
                yield chunk
        except HybridLLMError as error:
            self._error = type(error).__name__
            scrub_traceback(error)
            raise
        except asyncio.CancelledError as error:
            scrub_traceback(error)
            raise
        finally:
            try:
                await pieces.aclose()
            finally:
                self._end()

    def abandon(self) -> None:
        """Nobody will ask for the pieces; one whose pieces were asked for ends with them. Twice is once."""
        if not self._begun:
            self._begun = True
            self._end()

    def _end(self) -> None:
        try:
            self._over(self.generation if not self._error else None)
        finally:
            emit(self._hooks, self._event())

    def _take(self, chunk: Chunk) -> None:
        self._last_at = time.monotonic()
        self._first_at = self._first_at or self._last_at
        self._parts.append(chunk.text)
        self._tokens += chunk.tokens
        if chunk.finish_reason is not None:
            self._final, self._error = chunk, ""

    def _usage(self) -> Usage:
        reported = self._final.usage if self._final is not None else None
        return reported or Usage(prompt_tokens=self.metadata.prompt_tokens, completion_tokens=self._tokens)

    def _tpot_ms(self) -> float:
        """Per token behind the first; 0 where there is none."""
        further = self._usage().completion_tokens - 1
        return (self._last_at - self._first_at) * 1e3 / further if further > 0 else 0.0

    def _timings(self) -> Timings:
        created = self.metadata.created
        own = self._final.timings if self._final is not None else None
        return Timings(
            queue_ms=own.queue_ms if own is not None else 0.0,
            ttft_ms=max(0.0, self._first_at - created) * 1e3,
            tpot_ms=self._tpot_ms(),
            total_ms=(time.monotonic() - created) * 1e3,
        )

    def _finish_reason(self) -> FinishReason | None:
        return self._final.finish_reason if self._final is not None else None

    @property
    def generation(self) -> Generation:
        """The whole answer.

        Raises:
            HybridLLMError: it is not complete.
        """
        if self._generation is None:
            self._generation = self._complete()
        return self._generation

    def _complete(self) -> Generation:
        reason = self._finish_reason()
        if reason is None:
            raise HybridLLMError("the answer is not complete: iterate to its end first")
        return Generation(
            text="".join(self._parts),
            finish_reason=reason,
            usage=self._usage(),
            timings=self._timings(),
            backend=self.backend,
            decision=self.decision,
            request_id=self.metadata.request_id,
            continuations=tuple(self._run.continuations),
            parse=self._parse,
            cached=isinstance(self._run, Replay),
        )

    def _event(self) -> RequestEvent:
        if self._error == "cancelled" and self.metadata.remaining() <= 0.0:
            self._error = "DeadlineExceeded"  # the event loop cancels what is late
        whole = self._generation
        return RequestEvent(
            metadata=self.metadata,
            signals=self._signals,
            decision=self.decision,
            backend=self.backend if not self._error else "",
            attempts=tuple(self._run.records),
            finish_reason=self._finish_reason(),
            usage=whole.usage if whole is not None else self._usage(),
            timings=whole.timings if whole is not None else self._timings(),
            error=self._error,
            continuations=tuple(self._run.continuations),
            cached=isinstance(self._run, Replay),
        )

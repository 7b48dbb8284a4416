"""One answer in progress, whoever pulls it.

The core is async and awaits only what is injected. An async caller pulls it in its event loop. For a sync caller its
generators are stepped in the caller's thread: one `send(None)` runs each step to its end, which costs 0.4 us, while a
background event loop would cost 26 us.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import DeadlineExceeded, HybridLLMError
from hybrid_llm.core.generation import (
    AnswerParts,
    AttemptRecord,
    Chunk,
    Continuation,
    Generation,
    Timings,
    Usage,
)
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.core.threads import owned
from hybrid_llm.core.tracebacks import scrub_traceback
from hybrid_llm.router.execution.call import Routed, Trail
from hybrid_llm.router.observability.hooks import Hook, RequestEvent, emit

T = TypeVar("T")
_NO_CHUNK: Final = Chunk(tokens=0)
"""In place of the last chunk until that has arrived."""
Keep = Callable[[Generation], Awaitable[None]]
"""Awaited with a whole answer, which may be cached."""
Screen = Callable[[AsyncGenerator[Chunk, None]], AsyncGenerator[Chunk, None]]
"""Passes on the chunks of an answer that an app may have."""


class Run(Protocol):
    """Where the chunks of one answer come from: `Attempts`, a cached answer, or one that identical requests share."""

    @property
    def answering(self) -> str:
        """The backend that answers; empty until one does."""
        ...

    @property
    def records(self) -> Sequence[AttemptRecord]:
        """The calls that were made."""
        ...

    @property
    def continuations(self) -> Sequence[Continuation]:
        """Where the answer was continued."""
        ...

    @property
    def cached(self) -> bool:
        """Whether the answer comes from a cache."""
        ...

    def run(self) -> AsyncGenerator[Chunk, None]:
        """The chunks."""
        ...


class Answer:
    """The answer to one request: `chunks` runs it, `generation` is its result once complete.

    *over* is called once when it is over, however it ended; *leave* ends it while another thread waits for a chunk;
    *notice* is what to say of a task, signals and a backend's name, *follows* whether that backend follows priorities;
    *screen* judges the chunks; *trail* is what the calls give away and cost.
    """

    def __init__(
        self,
        run: Run,
        routed: Routed,
        *,
        hooks: Iterable[Hook],
        over: Callable[[], None],
        keep: Keep | None = None,
        leave: Callable[[], None] = lambda: None,
        notice: Callable[[str, Signals, str], str] = lambda *_: "",
        follows: Callable[[str], bool] = lambda _: False,
        screen: Screen | None = None,
        trail: Trail | None = None,
    ) -> None:
        self._run = run
        self._routed = routed
        self._hooks = hooks
        self._over = over
        self._keep = keep
        self._notice = notice
        self._follows = follows
        self._screen = screen
        self._trail = trail or Trail()
        self.leave: Final = leave
        self._parts = AnswerParts()
        self._tokens = 0
        self._first_at = 0.0
        self._last_at = 0.0
        self._final = _NO_CHUNK
        self._generation: Generation | None = None
        self._error = "cancelled"
        self._begun = False

    @property
    def metadata(self) -> RequestMetadata:
        """The metadata of the request."""
        return self._routed.metadata

    @property
    def decision(self) -> Decision:
        """Which backends are tried, in which order, and why."""
        return self._routed.decision

    @property
    def backend(self) -> str:
        """The backend that answers; empty until one does."""
        return self._run.answering

    @property
    def is_whole(self) -> bool:
        """Whether the last chunk has arrived."""
        return self._final.finish_reason is not None

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of the answer. Raises what `Attempts.run` raises."""
        run = self._run.run()
        self._begun, pieces = True, owned(run if self._screen is None else self._screen(run))
        try:
            async for chunk in pieces:
                if chunk.tool_calls:
                    chunk = _identified(chunk)
                self._take(chunk)
                yield chunk
        except BaseException as error:
            if isinstance(error, HybridLLMError):
                self._error = type(error).__name__
            scrub_traceback(error)
            raise
        finally:
            try:
                await pieces.aclose()
                if self._keep is not None and not self._error:
                    await self._keep(self.generation)
            finally:
                self._end()

    def late(self) -> DeadlineExceeded:
        """The error of a caller that waited until the deadline."""
        return self.metadata.late(self.backend, phase="the answer")

    def abandon(self) -> None:
        """End an answer that was never iterated; any other one ends with its chunks. Idempotent."""
        if not self._begun:
            self._begun = True
            self._end()

    def _end(self) -> None:
        try:
            self._over()
        finally:
            emit(self._hooks, self._event())

    def _take(self, chunk: Chunk) -> None:
        self._last_at = time.monotonic()
        self._first_at = self._first_at or self._last_at
        self._parts.add(chunk)
        self._tokens += chunk.tokens
        if chunk.finish_reason is not None:
            self._final, self._error = chunk, ""

    def _usage(self) -> Usage:
        return self._final.usage or Usage(prompt_tokens=self.metadata.prompt_tokens, completion_tokens=self._tokens)

    def _tpot_ms(self) -> float:
        """Mean time per token after the first; 0 if there is none."""
        further = self._usage().completion_tokens - 1
        return (self._last_at - self._first_at) * 1e3 / further if further > 0 else 0.0

    def _timings(self) -> Timings:
        created = self.metadata.created
        own = self._final.timings
        return Timings(
            queue_ms=own.queue_ms if own is not None else 0.0,
            ttft_ms=max(0.0, self._first_at - created) * 1e3,
            tpot_ms=self._tpot_ms(),
            total_ms=(time.monotonic() - created) * 1e3,
        )

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
        reason = self._final.finish_reason
        if reason is None:
            raise HybridLLMError("the answer is not complete: iterate to its end first")
        return Generation(
            text=self._parts.text,
            finish_reason=reason,
            usage=self._usage(),
            timings=self._timings(),
            backend=self.backend,
            decision=self.decision,
            request_id=self.metadata.request_id,
            tool_calls=tuple([call for call in self._parts.tool_calls if call.is_whole]),
            reasoning=self._parts.reasoning,
            logprobs=self._parts.logprobs,
            attempts=tuple(self._run.records),
            continuations=tuple(self._run.continuations),
            parse=self._routed.parse,
            cached=self._run.cached,
            priority=self._priority(),
            notice=self._notice(self.metadata.task, self._routed.signals, self.backend),
            warnings=self._final.warnings,
            declared=self._routed.assessment.declared,
            departures=tuple(self._trail.departures),
            cost=self._trail.cost,
        )

    def _priority(self) -> int | None:
        asked = self._routed.assessment.request.priority
        return asked if asked is not None and not self._run.cached and self._follows(self.backend) else None

    def _event(self) -> RequestEvent:
        if self._error == "cancelled" and self.metadata.remaining() <= 0.0:
            self._error = "DeadlineExceeded"  # cancelled by the timeout of `AsyncStream`, not by the app
        whole = self.generation if not self._error else None
        return RequestEvent(
            metadata=self.metadata,
            signals=self._routed.signals,
            decision=self.decision,
            backend=self.backend if not self._error else "",
            attempts=tuple(self._run.records),
            finish_reason=self._final.finish_reason,
            usage=whole.usage if whole is not None else self._usage(),
            timings=whole.timings if whole is not None else self._timings(),
            error=self._error,
            continuations=tuple(self._run.continuations),
            cached=self._run.cached,
            warnings=self._final.warnings,
            declared=self._routed.assessment.declared,
            departures=tuple(self._trail.departures),
            cost=self._trail.cost,
            trace=self._routed.trace,
        )


def _identified(chunk: Chunk) -> Chunk:
    """*chunk* with an id of ours for each call that begins: what a backend calls it does not matter."""
    deltas = [replace(each, id=f"call_{secrets.token_hex(12)}" if each.name else "") for each in chunk.tool_calls]
    return replace(chunk, tool_calls=tuple(deltas))


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine*, which awaits nothing that suspends, to its end and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("the core awaited something that suspends, which a synchronous call cannot")


async def blocking_sleep(seconds: float) -> None:
    """Sleep in the caller's thread."""
    time.sleep(seconds)


async def stepped(items: Iterable[T]) -> AsyncGenerator[T, None]:
    """Present a plain generator or iterable as an async generator; closing it closes the plain one, if it can be."""
    try:
        for item in items:
            yield item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def iterate(items: AsyncIterator[T]) -> Generator[T, None, None]:
    """Present an async generator of the core as a plain one."""
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

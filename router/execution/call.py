"""One call of one backend: cleared, opened, timed, charged, and its answer restored."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import (
    BackendError,
    BackendUnavailable,
    HybridLLMError,
    OutputInvalid,
    RequestRejected,
    SecurityError,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk, Departure, FinishReason, Timings, Usage
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.protocols import Abortable, Backend
from hybrid_llm.core.request import Location, PartialAnswer, Request, RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.core.threads import Aside, Items, at_once, owned
from hybrid_llm.core.tools import ToolCallDelta
from hybrid_llm.core.tracebacks import guarded, is_fault, keeps_frames, scrub_traceback, sever
from hybrid_llm.policies import Policy
from hybrid_llm.router.fleet import Fleet
from hybrid_llm.router.output import CallCheck, OutputParser
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.signals.predictor import Stopwatch
from hybrid_llm.router.spending.charge import Bill, Charge

if TYPE_CHECKING:
    from hybrid_llm.router.observability.tracing import RequestTrace

_log = logging.getLogger("hybrid_llm")
Sleep = Callable[[float], Awaitable[None]]
Opener = Callable[[Backend, Cleared], AsyncGenerator[Chunk, None]]
"""Starts the stream of a backend: its `astream`, or its `stream` stepped for a caller without an event loop."""
Parse = OutputParser | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """A request that is assessed and decided, and not yet sent. Only the guard's *assessment* holds its texts."""

    assessment: Assessment
    metadata: RequestMetadata
    signals: Signals
    decision: Decision
    policy: Policy
    parse: Parse = None
    check_calls: CallCheck | None = None
    trace: RequestTrace | None = None
    """What follows the request, if anything does."""


@dataclass(slots=True)
class Trail:
    """What the calls of one request gave away and cost, noted as they are made."""

    departures: list[Departure] = field(default_factory=list)
    bills: list[Bill] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """What is booked so far, in the currency of the prices."""
        return sum([bill.cost for bill in self.bills])

    def note(self, backend: Backend, assessment: Assessment, bill: Bill | None, *, sealed: bool) -> None:
        """A call of *backend* begins."""
        if bill is not None:
            self.bills.append(bill)
        if backend.location is not Location.EDGE:
            hidden = assessment.pseudonymised is not None
            counts = assessment.replaced
            left = Departure(backend=backend.name, pseudonymised=hidden, replaced=counts, sealed=sealed)
            self.departures.append(left)


@dataclass(slots=True)
class BackendCalls:
    """The calls that the attempts of one request make, until its caller leaves."""

    routed: Routed
    guard: PrivacyGuard
    fleet: Fleet
    open_stream: Opener
    sleep: Sleep
    aside: Aside = at_once
    trail: Trail = field(default_factory=Trail)
    _left: bool = False

    def leave(self) -> None:
        """The caller leaves, while another thread waits for a chunk: end the running calls, and begin none."""
        self._left = True
        for backend in self.fleet.backends.values():
            if isinstance(backend, Abortable):
                guarded(
                    partial(backend.abort, self.routed.metadata.request_id), f"aborting a request on {backend.name}"
                )

    def _check_caller(self) -> None:
        if self._left:
            raise CancelledError

    async def stream(self, name: str, partial: PartialAnswer) -> AsyncGenerator[Chunk, None]:
        """Call backend *name*, continuing from *partial*; nothing happens before the first chunk is asked for.

        Raises:
            RequestRejected: the backend's location may not see the partial answer.
            QuotaExceeded: the tenant's budget does not pay for the call.
            PrivacyViolation: the request is not cleared for the location; else the errors of the backend.
        """
        self._check_caller()
        backend, routed = self.fleet.backends[name], self.routed
        assessment = await self._assess(backend, partial)
        try:
            cleared = self.guard.clear(assessment, backend.location)
            restorer = self.guard.restorer(assessment, backend.location)
            charge = _charge(name, assessment.request, partial)
            async with self.fleet.spending.bill(charge, routed.policy.objectives, self.sleep, self.aside) as bill:
                self.trail.note(backend, assessment, bill, sealed=routed.signals.backends[name].sealed)
                watch, fault = Stopwatch(), ""
                try:
                    async with _Closing(owned(self.open_stream(backend, cleared)), name) as chunks:
                        check = ChunkCheck(name, len(partial.tool_calls))
                        received, resumed = watch.received, watch.resumed  # bound once: this loop runs per token
                        async for chunk in chunks:
                            check(chunk)
                            received(chunk)
                            if bill is not None:
                                bill.received(chunk)
                            yield chunk if restorer is None else restorer.restore(chunk)
                            resumed()
                except (BackendError, SecurityError) as error:
                    self._check_caller()
                    sever(error)
                    raise
                except BaseException as error:
                    if not is_fault(error):
                        raise
                    scrub_traceback(error)
                    fault = type(error).__name__  # not its text, which may hold the prompt
                finally:
                    self.fleet.learn(name, charge.prompt_tokens, routed.signals.backends[name], watch.measured())
                if fault:  # raised here, where the original error is no longer its context
                    raise _untyped(name, fault, watch)
        finally:
            if assessment is not routed.assessment:
                self.guard.release(assessment)

    async def _assess(self, backend: Backend, partial: PartialAnswer) -> Assessment:
        """A partial answer is assessed anew: what one location wrote may not go to another."""
        if not partial:
            return self.routed.assessment
        assess, routed = self.guard.assess_continuation, self.routed
        assessment = await self.aside(lambda: assess(routed.assessment, partial, routed.policy), self.guard.release)
        if backend.location not in assessment.allowed:
            self.guard.release(assessment)
            message = f"{backend.name} may not see the partial answer"
            raise RequestRejected(message, backend=backend.name, reason="unsupported")
        return assessment


def _untyped(name: str, fault: str, watch: Stopwatch) -> BackendError:
    """What it means that backend *name* raised *fault*, which is no class of ours."""
    if not watch.has_first:
        return BackendUnavailable(f"{name} raised {fault}", backend=name, reason="raised")
    message = f"{name} raised {fault} after {watch.tokens} tokens"
    return StreamInterrupted(message, backend=name, received_tokens=watch.tokens)


class _Closing:
    """The stream of a backend, closed on exit. A failure to close is logged: the answer, or its error, is there."""

    def __init__(self, chunks: Items[Chunk], name: str) -> None:
        self._chunks, self._name = chunks, name

    async def __aenter__(self) -> Items[Chunk]:
        return self._chunks

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            await self._chunks.aclose()
        except BaseException as failure:
            if not is_fault(failure):
                raise
            _log.warning("closing a stream of %s failed with %s", self._name, type(failure).__name__)


class ChunkCheck:
    """Checks what *backend* yields, which may be anything; the app has *count* tool calls already."""

    def __init__(self, backend: str, count: int) -> None:
        self._backend, self._count = backend, count

    def __call__(self, chunk: Chunk) -> None:
        """Return if *chunk* is the next one of an answer.

        Raises:
            TypeError: it is no chunk.
            OutputInvalid: it has a piece of a tool call that was not begun.
        """
        sound = isinstance(chunk, Chunk) and isinstance(chunk.text, str) and isinstance(chunk.tokens, int)
        sound = sound and isinstance(chunk.reasoning, str) and isinstance(chunk.tool_calls, tuple)
        sound = sound and (chunk.logprobs == () or _are_logprobs(chunk.logprobs))
        if not sound or (chunk.finish_reason is not None and not _is_last(chunk)):
            raise TypeError("a backend yields records of the type Chunk")
        for delta in chunk.tool_calls:
            self._check_call(delta)

    def _check_call(self, delta: ToolCallDelta) -> None:
        if not isinstance(delta, ToolCallDelta) or not isinstance(delta.arguments, str):
            raise TypeError("tool calls come as records of the type ToolCallDelta")
        if delta.index == self._count and delta.name and isinstance(delta.name, str):
            self._count += 1
        elif delta.index != self._count - 1 or delta.index < 0 or delta.name:
            text = f"{self._backend} sent a piece of a tool call that has no beginning"
            raise OutputInvalid(text, backend=self._backend, reason="tool_call")


def _are_logprobs(items: object) -> bool:
    return isinstance(items, tuple) and all(isinstance(each, TokenLogprob) for each in items)


def _is_last(chunk: Chunk) -> bool:
    return (
        isinstance(chunk.finish_reason, FinishReason)
        and isinstance(chunk.usage, Usage | None)
        and isinstance(chunk.timings, Timings | None)
    )


def _charge(name: str, request: Request, partial: PartialAnswer) -> Charge:
    return Charge(
        backend=name,
        tenant=request.tenant,
        prompt_tokens=request.prompt_tokens + partial.tokens,
        max_tokens=request.max_tokens,
    )


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """One call of one backend: its *stream*, when it *began*, and then its *first* chunk or its *error*."""

    name: str
    stream: Items[Chunk]
    began: float
    hedge: bool = False
    """It was started beside a slow one."""
    tokens: int = 0
    """Tokens so far."""
    first: Chunk | None = None
    error: HybridLLMError | None = None

    async def next(self) -> Chunk:
        """The next chunk.

        Raises:
            StreamInterrupted: the stream ended, and its last chunk had no finish reason.
            BackendUnavailable: it ended without a chunk.
        """
        try:
            chunk = await anext(self.stream)
        except StopAsyncIteration:
            raise self._cut() from None
        self.tokens += chunk.tokens
        return chunk

    def _cut(self) -> BackendError:
        name, message = self.name, f"{self.name} ended its stream without a finish reason"
        if self.first is None:
            return BackendUnavailable(message, backend=name, reason="no_answer")
        return StreamInterrupted(message, backend=name, received_tokens=self.tokens)

    async def begin(self) -> None:
        """Wait for *first* or *error*."""
        try:
            self.first = await self.next()
        except HybridLLMError as error:
            # From Python 3.12 on, the frames of its traceback keep those of their callers, which hold the error.
            self.error = error if keeps_frames() else error.with_traceback(None)


class Race(Protocol):
    """The attempts of one round."""

    @property
    def running(self) -> int:
        """How many attempts have neither a chunk nor an error yet."""
        ...

    def start(self, attempt: Attempt) -> None:
        """Let *attempt* run."""
        ...

    async def ready(self, timeout: float | None) -> Attempt | None:
        """An attempt that has its first chunk or has failed; None after *timeout* seconds."""
        ...

    async def stop(self) -> list[Attempt]:
        """Cancel what still runs, and return it."""
        ...


class OneByOne:
    """A race of one, without hedges: `ready` waits for the attempt that was started, however long it takes.

    It awaits nothing of asyncio, so that a synchronous caller can step it.
    """

    def __init__(self) -> None:
        self._attempts: list[Attempt] = []

    @property
    def running(self) -> int:
        """Attempts that were started and not waited for yet."""
        return len(self._attempts)

    def start(self, attempt: Attempt) -> None:
        """Let *attempt* run once it is waited for."""
        self._attempts.append(attempt)

    async def ready(self, timeout: float | None) -> Attempt | None:  # noqa: ARG002  # there is nothing to hedge with
        """The attempt, with its first chunk or its error."""
        await self._attempts[0].begin()
        return self._attempts.pop(0)

    async def stop(self) -> list[Attempt]:
        """What was waited for when the caller left; its stream is closed already."""
        stopped, self._attempts = self._attempts, []
        return stopped

"""Who is called, in which order, how often: the attempts of one request. It does no I/O and decides no policy.

Written once, as an async generator over injected backends and an injected sleep, it serves async callers directly and
sync callers through `router.drive`. It awaits nothing of asyncio.

The order of the decision is followed exactly. A backend that fails before its first token hands over to the next at
once; when everyone has failed and someone may recover, the round is repeated after a jittered pause (full jitter;
Brooker, *Exponential Backoff and Jitter*, 2015), as far as the deadline and the retry budget allow. After the first
token nothing is repeated: a broken stream ends in `StreamInterrupted`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hybrid_llm.router.breaker import CircuitBreaker, RetryBudget
from hybrid_llm.router.errors import (
    AllBackendsFailed,
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    ProtocolMismatch,
    RequestRejected,
    StreamInterrupted,
)
from hybrid_llm.router.hooks import AttemptRecord
from hybrid_llm.router.types import Chunk, Decision, Facts

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Attempts", "Sleep"]

Sleep = Callable[[float], Awaitable[None]]
_BREAKING = (BackendUnavailable, StreamInterrupted, ProtocolMismatch)
_ELSEWHERE = frozenset({"context_overflow", "unsupported"})


class _RoundFailed(Exception):
    """Internal: everyone in the order has failed once more."""


@dataclass(slots=True, kw_only=True)
class Attempts:
    """The attempts of one request.

    Afterwards *records* tells what was tried, *answering* who answered, *began* when that backend was called, on
    *clock*.
    """

    facts: Facts
    """What is known of the request; its texts are the guard's, and the streams carry them."""
    decision: Decision
    open_stream: Callable[[str], AsyncGenerator[Chunk, None]]
    """Starts the stream of one backend by name; nothing happens before its first `anext`."""
    sleep: Sleep
    breakers: Mapping[str, CircuitBreaker]
    budget: RetryBudget
    retries: int
    clock: Callable[[], float] = time.monotonic
    records: list[AttemptRecord] = field(default_factory=list)
    failures: dict[str, BackendError] = field(default_factory=dict)
    answering: str = ""
    began: float = 0.0

    async def run(self) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of the first backend that answers.

        Raises:
            AllBackendsFailed: nobody answered.
            DeadlineExceeded: the time is over.
            StreamInterrupted: the answer broke off.
            SecurityError: trust is broken; nothing else was tried.
        """
        self.budget.deposit()
        stream, chunk = await self._first()
        async with aclosing(stream):
            try:
                while chunk.finish_reason is None:
                    self._check_deadline()
                    yield chunk
                    chunk = await self._next(stream)
            except BackendError as error:
                self._failed(self.answering, error)
                raise
        self._succeeded()
        yield chunk

    async def _next(self, stream: AsyncGenerator[Chunk, None]) -> Chunk:
        try:
            return await anext(stream)
        except StopAsyncIteration:
            raise StreamInterrupted(
                f"{self.answering} ended its stream without a finish reason", backend=self.answering
            ) from None

    async def _first(self) -> tuple[AsyncGenerator[Chunk, None], Chunk]:
        """Go down the order until someone gives a first chunk; repeat the round while that makes sense."""
        try:
            return await self._round()
        except _RoundFailed as failed:
            return await self._repeat(failed)

    async def _repeat(self, failed: _RoundFailed) -> tuple[AsyncGenerator[Chunk, None], Chunk]:
        """Hand over to tenacity, whose first attempt is the round that failed: success at once pays nothing for it."""
        from tenacity import AsyncRetrying, retry_if_exception_type

        made = [failed]

        async def attempt() -> tuple[AsyncGenerator[Chunk, None], Chunk]:
            if made:
                raise made.pop()
            return await self._round()

        rounds = AsyncRetrying(
            sleep=self.sleep,
            wait=self._pause,
            stop=self._give_up,
            retry=retry_if_exception_type(_RoundFailed),
            reraise=True,
        )
        try:
            return await rounds(attempt)
        except _RoundFailed:
            raise AllBackendsFailed(
                f"all backends failed: {_summary(self.failures)}", decision=self.decision, failures=self.failures
            ) from None

    async def _round(self) -> tuple[AsyncGenerator[Chunk, None], Chunk]:
        for name in self._candidates():
            self._check_deadline()
            if not self.breakers[name].admit():
                self._note(name, BackendUnavailable(f"{name}: its circuit breaker is open", backend=name))
                continue
            try:
                return await self._open(name)
            except BackendError as error:
                self._failed(name, error)
                if not _may_go_elsewhere(error):
                    raise
        raise _RoundFailed

    def _candidates(self) -> list[str]:
        """The order of the decision, less those that a repetition cannot help."""
        return [name for name in self.decision.order if name not in self.failures or self.failures[name].retryable]

    async def _open(self, name: str) -> tuple[AsyncGenerator[Chunk, None], Chunk]:
        self.answering, self.began = name, self.clock()
        stream = self.open_stream(name)
        return stream, await self._next(stream)

    def _failed(self, name: str, error: BackendError) -> None:
        self._note(name, error, (self.clock() - self.began) * 1e3)
        if isinstance(error, _BREAKING):
            self.breakers[name].failed()

    def _note(self, name: str, error: BackendError, elapsed_ms: float = 0.0) -> None:
        self.records.append(AttemptRecord(backend=name, error=type(error).__name__, elapsed_ms=elapsed_ms))
        self.failures[name] = error

    def _succeeded(self) -> None:
        elapsed_ms = (self.clock() - self.began) * 1e3
        self.records.append(AttemptRecord(backend=self.answering, elapsed_ms=elapsed_ms))
        self.breakers[self.answering].succeeded()

    def _check_deadline(self) -> None:
        if self.facts.remaining(self.clock()) <= 0.0:
            name = self.answering or next(iter(self.decision.order))
            raise DeadlineExceeded(
                f"the deadline of {self.facts.deadline:g} s is over", backend=name, elapsed=self.facts.deadline
            )

    def _pause(self, state: RetryCallState) -> float:
        from tenacity import wait_random_exponential

        asked = [e.retry_after or 0.0 for e in self.failures.values() if isinstance(e, BackendOverloaded)]
        return max(wait_random_exponential(multiplier=0.05, max=2.0)(state), *asked, 0.0)

    def _give_up(self, state: RetryCallState) -> bool:
        if state.attempt_number > self.retries or not self._candidates():
            return True
        late = state.upcoming_sleep >= self.facts.remaining(self.clock())
        return late or not self.budget.withdraw()


def _may_go_elsewhere(error: BackendError) -> bool:
    """Whether another backend may do better: not when the request itself is at fault, or its time is over."""
    if isinstance(error, RequestRejected):
        return error.reason in _ELSEWHERE
    return not isinstance(error, DeadlineExceeded)


def _summary(failures: Mapping[str, BackendError]) -> str:
    return "; ".join(f"{name}: {error}" for name, error in failures.items())

"""Which backend is called, when and how often: the attempts of one request. No I/O, and no policy of its own.

An async generator over injected backends, an injected sleep and an injected race. It awaits nothing of asyncio, so
that async callers run it directly and sync callers step it (`router.execution.answer`). One deadline and one retry
budget hold for all of it:

- **Fall back.** The order of the decision is followed exactly. A backend that fails before its first token is followed
  by the next at once.
- **Retry.** When every backend has failed and one may recover, the round is repeated after a pause (full jitter;
  Brooker, *Exponential Backoff and Jitter*, 2015).
- **Hedge.** When a call is slow, the next backend of the order is called beside it; the first token wins, and the other
  call is cancelled (Dean and Barroso, *The Tail at Scale*, 2013).
- **Continue.** An answer that breaks off is continued by a backend that the decision allows: the text so far becomes
  the beginning of the answer there. As long as each call brings the answer forward, the same endpoint may go on with it
  again and again, and answers that broke off together pay together.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    HybridLLMError,
    OutputInvalid,
    ProtocolMismatch,
    RequestRejected,
    StreamInterrupted,
)
from hybrid_llm.core.generation import AnswerParts, AttemptRecord, Chunk, Continuation, FinishReason, Usage
from hybrid_llm.core.health import Health, RetryBudget
from hybrid_llm.core.request import PartialAnswer, RequestMetadata
from hybrid_llm.core.threads import Aside, at_once, owned
from hybrid_llm.core.tracebacks import scrub_traceback
from hybrid_llm.router.execution.allowance import Allowance
from hybrid_llm.router.execution.call import Attempt, OneByOne, Parse, Race, Sleep

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from hybrid_llm.router.output import CallCheck

_FAILURES = (BackendUnavailable, StreamInterrupted, ProtocolMismatch)
"""Errors that count against the health of a backend; the others are no evidence about it."""
_MOST_HEDGES = 2
_UNFIT = frozenset({"context_overflow", "message_too_large", "unsupported"})
"""Reasons of a rejection for which another backend may still do."""


class _RoundFailed(Exception):
    """Every backend in the order has failed once more."""


def _never(_: str) -> float | None:
    return None


@dataclass(slots=True, kw_only=True)
class Attempts:
    """The attempts of one request.

    Afterwards *records* has what was tried, *answering* the backend that answered, *began* when it was called, on
    *clock*, and *continuations* where the answer was continued.
    """

    cached: ClassVar[bool] = False
    metadata: RequestMetadata
    decision: Decision
    open_stream: Callable[[str, PartialAnswer], AsyncGenerator[Chunk, None]]
    """Starts the stream of one backend, continuing from a partial answer; it does nothing before its first `anext`."""
    sleep: Sleep
    breakers: Mapping[str, Health]
    budget: RetryBudget
    """What every call beyond the first of each backend, and every hedge, draws on."""
    retries: int
    """Further calls of each backend after its first."""
    nodes: Mapping[str, int] = field(default_factory=dict)
    """How many nodes a backend has, where there are several: each is called once before the next backend is."""
    is_ready: Callable[[str], bool] = lambda _: True
    """Whether a backend reports that it can be called. While it reports that it cannot, its breaker is not needed."""
    continue_streams: bool = False
    parse: Parse = None
    """Refuses a whole answer that does not follow the output schema."""
    check_calls: CallCheck | None = None
    """Refuses tool calls that do not follow the tools of the request."""
    aside: Aside = at_once
    """How an answer is checked that takes long: an event loop must not wait for it."""
    race: Callable[[], Race] = OneByOne
    patience: Callable[[str], float | None] = _never
    """Seconds without a first token after which a call of a backend is hedged; None for never."""
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    """A number from 0 to 1 for the jitter of each pause; a simulation injects its own, so that it can be repeated."""
    records: list[AttemptRecord] = field(default_factory=list)
    failures: dict[str, BackendError] = field(default_factory=dict)
    continuations: list[Continuation] = field(default_factory=list)
    answering: str = ""
    began: float = 0.0
    _parts: AnswerParts = field(default_factory=AnswerParts)
    _tokens: int = 0
    _held: int = 0
    _allowance: Allowance = field(init=False, repr=False)

    async def run(self) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of the first backend that answers, and of those that continue its answer.

        Raises:
            AllBackendsFailed: no backend answered.
            DeadlineExceeded: the deadline passed.
            StreamInterrupted: the answer broke off, and no backend continued it.
            OutputInvalid: the whole answer does not follow the output schema; its chunks were yielded.
            SecurityError: trust is broken; nothing else was tried.
        """
        self.budget.deposit()
        self._allowance = Allowance(budget=self.budget, retries=self.retries, nodes=self.nodes)
        attempt = await self._first_chunk(self._candidates)
        while True:
            async with aclosing(attempt.stream):
                try:
                    chunk = self._opening(attempt)
                    while chunk.finish_reason is None:
                        self._take(chunk)
                        yield chunk
                        self._check_deadline()
                        chunk = await attempt.next()
                    break
                except BackendError as error:
                    broken = error
                    self._failed(attempt, error)
                except BaseException as error:  # the caller left, or trust is broken
                    self._record(attempt, type(error).__name__ if isinstance(error, HybridLLMError) else "Cancelled")
                    self.breakers[attempt.name].abandoned()
                    raise
            successor = None if self._is_full() else await self._continue(attempt, broken)
            broken.__traceback__ = None  # it leads back to this frame, which would keep both alive
            if successor is None:
                yield await self._checked(attempt, Chunk(tokens=0, finish_reason=FinishReason.LENGTH))
                return
            attempt = successor
        self._succeeded(attempt)
        yield await self._checked(attempt, chunk)

    def _take(self, chunk: Chunk) -> None:
        # A token whose text is held back (it may begin a stop sequence) counts as given once its text is.
        self._held += chunk.tokens
        if self._parts.add(chunk):
            self._tokens += self._held
            self._held = 0

    def _opening(self, attempt: Attempt) -> Chunk:
        """The first chunk, for which the race has waited."""
        self._check_deadline()
        assert attempt.first is not None
        return attempt.first

    async def _continue(self, broken: Attempt, error: BackendError) -> Attempt:
        """The call that continues the answer of *broken*: another node, another backend, or the same one again."""
        if not self.continue_streams or not _may_go_elsewhere(error):
            raise self._final(error)
        if (delivered := self._tokens - (self.continuations[-1].tokens if self.continuations else 0)) > 0:
            again = self.metadata.prompt_tokens + self._tokens
            self._allowance.note_progress(broken.began, delivered=delivered, again=again)
        attempt, is_spent = None, partial(self._is_spent, broken.name)
        try:
            attempt = await self._first_chunk(lambda: sorted(self._candidates(), key=is_spent))
        except AllBackendsFailed as failed:
            scrub_traceback(failed)
        if attempt is None:  # raised here, so that AllBackendsFailed is not its context
            raise self._final(error)
        self._held = 0
        at = len(self._partial_answer().text)
        self.continuations.append(Continuation(at=at, tokens=self._tokens, backend=attempt.name))
        return attempt

    def _is_spent(self, broken: str, name: str) -> bool:
        """Whether *name* is the backend that broke off, and has no other node."""
        return name == broken and self._allowance.called_all(name)

    def _partial_answer(self) -> PartialAnswer:
        return self._parts.partial(self._tokens)

    def _is_full(self) -> bool:
        """Whether all `max_tokens` are there, and only the last chunk is missing."""
        return self.continue_streams and self._tokens >= self.metadata.max_tokens

    async def _first_chunk(self, names: Callable[[], list[str]]) -> Attempt:
        """Go down *names* until a call gives a first chunk; repeat the round as long as that makes sense."""
        state: RetryCallState | None = None
        while True:
            try:
                return await self._round(names())
            except _RoundFailed:
                state = _next_state(state)
            state.upcoming_sleep = self._pause(state)
            if self._gives_up(state):
                message = "; ".join(f"{name}: {error}" for name, error in self.failures.items())
                raise AllBackendsFailed(
                    f"all backends failed: {message}", decision=self.decision, failures=self.failures
                )
            await self.sleep(state.upcoming_sleep)

    async def _round(self, names: Iterable[str]) -> Attempt:
        """Call *names* one after the other, or the next beside a slow one, until a first chunk arrives."""
        waiting, race = deque(names), self.race()
        try:
            while waiting or race.running:
                if not race.running:
                    self._start(race, waiting.popleft())
                elif (attempt := await race.ready(self._hedge_delay(waiting, race))) is None:
                    self._start_hedge(race, waiting)
                elif attempt.error is None:
                    self.answering, self.began = attempt.name, attempt.began
                    return attempt
                else:
                    self._failed(attempt, attempt.error)
                    if not _may_go_elsewhere(attempt.error):
                        raise self._final(attempt.error)
            raise _RoundFailed
        finally:
            for attempt in await race.stop():
                if attempt.error is not None:
                    scrub_traceback(attempt.error)
                self._record(attempt, "Cancelled")
                self._hung_or_abandoned(attempt, is_late=self.metadata.remaining(self.clock()) <= 0.0)

    def _hedge_delay(self, waiting: deque[str], race: Race) -> float | None:
        """Seconds until the next backend is called beside the running ones; None to wait for these alone."""
        may = waiting and race.running <= _MOST_HEDGES and self.budget.pays()
        return self.patience(self.answering) if may else None

    def _start_hedge(self, race: Race, waiting: deque[str]) -> None:
        """Call the next backend beside the slow ones; a different one once two nodes of the same are slow."""
        if self.budget.withdraw():
            others = (name for name in waiting if name != self.answering)
            name = next(others, waiting[0]) if race.running > 1 else waiting[0]
            waiting.remove(name)
            self._start(race, name, paid=True)

    def _start(self, race: Race, name: str, *, paid: bool = False) -> None:
        """Call *name*, unless its breaker is open or the call is a retry that nothing pays for."""
        self._check_deadline()
        if not self._admits(name):
            self._refuse(name, "its circuit breaker is open", "breaker_open")
        elif not self._allowance.allows(name, now=self.clock(), paid=paid):
            self._refuse(name, "no further call is allowed: retries or retry budget are used up", "no_retry_left")
        else:
            self._allowance.note_call(name)
            self.answering = name
            stream = owned(self.open_stream(name, self._partial_answer()))
            race.start(Attempt(name=name, stream=stream, began=self.clock(), hedge=paid))

    def _admits(self, name: str) -> bool:
        """Whether its breaker lets a call start; one that serves is also called where no other backend is left."""
        if self.breakers[name].admit():
            return True
        others = (other for other in self._candidates() if other != name)
        return self.breakers[name].serves and not any(self.breakers[other].admits for other in others)

    def _refuse(self, name: str, why: str, reason: str) -> None:
        error = BackendUnavailable(f"{name}: {why}", backend=name, reason=reason)
        self.records.append(AttemptRecord(backend=name, error=type(error).__name__, reason=reason))
        self.failures.setdefault(name, error)

    def _candidates(self) -> list[str]:
        """The order of the decision, each backend once per node, without those that a retry cannot help."""
        able = [name for name in self.decision.order if name not in self.failures or self.failures[name].retryable]
        return [name for name in able for _ in range(self._allowance.copies(name))]

    def _failed(self, attempt: Attempt, error: HybridLLMError) -> None:
        reason = error.reason if isinstance(error, BackendError) else ""
        self._record(attempt, type(error).__name__, reason)
        scrub_traceback(error)
        if isinstance(error, BackendError):
            self.failures[attempt.name] = error
        if attempt.began < self.breakers[attempt.name].lost_at:  # its connection may have taken others with it
            self._allowance.note_lost(attempt.began)
        if isinstance(error, _FAILURES) and self._allowance.called_all(attempt.name):
            self._count_failure(attempt.name)
        else:
            self._hung_or_abandoned(attempt, is_late=isinstance(error, DeadlineExceeded))

    def _count_failure(self, name: str) -> None:
        # A backend that reports itself as not ready also reports when it is back: nothing is left for the breaker.
        if self.is_ready(name):
            self.breakers[name].failed()
        else:
            self.breakers[name].abandoned()

    def _final(self, error: HybridLLMError) -> HybridLLMError:
        """*error*, which ends the request; it is dropped from *failures*, since its frames lead back to them."""
        self.failures = {name: other for name, other in self.failures.items() if other is not error}
        return error

    def _hung_or_abandoned(self, attempt: Attempt, *, is_late: bool) -> None:
        """Count a call without a first token as failed if the deadline passed and it had half of the time at least."""
        had_time = self.clock() - attempt.began >= self.metadata.deadline / 2
        if is_late and attempt.first is None and had_time:
            self._count_failure(attempt.name)
        else:
            self.breakers[attempt.name].abandoned()

    def _record(self, attempt: Attempt, error: str = "", reason: str = "") -> None:
        self.records.append(
            AttemptRecord(
                backend=attempt.name,
                error=error,
                reason=reason,
                tokens=attempt.tokens,
                elapsed_ms=(self.clock() - attempt.began) * 1e3,
                hedge=attempt.hedge,
            )
        )

    async def _checked(self, attempt: Attempt, last: Chunk) -> Chunk:
        """The *last* chunk of an answer that is what was asked for, completed.

        Raises:
            OutputInvalid: it is not. No other backend is tried: the app may have read it.
        """
        invalid = await self._invalid(attempt.name, last)
        if invalid is not None:
            self.records[-1] = replace(self.records[-1], error=type(invalid).__name__, reason=invalid.reason)
            raise invalid
        return self._completed(last)

    async def _invalid(self, name: str, last: Chunk) -> OutputInvalid | None:
        """Why the answer is not what was asked for, as far as it goes."""
        is_cut = last.finish_reason not in (FinishReason.STOP, FinishReason.TOOL_CALLS)
        if self.check_calls is None and (is_cut or self.parse is None):
            return None
        self._parts.add(last)
        from hybrid_llm.router.output import refusal

        return await refusal(self.check_calls, self.parse, self._parts, name, self.aside, cut=is_cut)

    def _succeeded(self, attempt: Attempt) -> None:
        """Record the call: the backend is well, also if its answer is not what was asked for."""
        self._record(attempt)
        self.breakers[attempt.name].succeeded()

    def _completed(self, last: Chunk) -> Chunk:
        """The last chunk; of an answer in several parts, with the completion tokens of all of them."""
        if not self.continuations:
            return last
        usage = last.usage or Usage(prompt_tokens=self.metadata.prompt_tokens)
        completed = self.continuations[-1].tokens + usage.completion_tokens
        return replace(last, usage=replace(usage, completion_tokens=completed))

    def _check_deadline(self) -> None:
        if self.metadata.remaining(self.clock()) <= 0.0:
            raise self.metadata.late(self.answering or self.decision.order[0])

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next round: full jitter, or what a backend asked for if that is longer."""
        from tenacity import wait_exponential

        hints = (BackendOverloaded, BackendUnavailable)
        asked = [e.retry_after or 0.0 for e in self.failures.values() if isinstance(e, hints)]
        return max(wait_exponential(multiplier=0.05, max=2.0)(state) * self.draw(), *asked, 0.0)

    def _gives_up(self, state: RetryCallState) -> bool:
        from tenacity import stop_after_attempt

        if stop_after_attempt(self.retries + 1)(state) or not self._candidates():
            return True
        return state.upcoming_sleep >= self.metadata.remaining(self.clock()) or not self._allowance.pays()


def _next_state(state: RetryCallState | None) -> RetryCallState:
    """Count one more failed round, for tenacity's strategies, which are imported only once a round has failed."""
    from tenacity import AsyncRetrying, RetryCallState

    if state is None:
        return RetryCallState(AsyncRetrying(), None, (), {})
    state.prepare_for_next_attempt()
    return state


def _may_go_elsewhere(error: HybridLLMError) -> bool:
    """Whether another backend may do better: not if the request is at fault, the deadline over or trust broken."""
    if not isinstance(error, BackendError):
        return False
    if isinstance(error, RequestRejected):
        return error.reason in _UNFIT
    return not isinstance(error, DeadlineExceeded)

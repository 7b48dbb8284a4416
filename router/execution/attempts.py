"""Who is called, in which order, how often: the attempts of one request. It does no I/O and decides no policy.

Written once, as an async generator over injected backends, an injected sleep and an injected race, it serves async
callers directly and sync callers through `router.execution.answer`. It awaits nothing of asyncio. One deadline and
one retry budget hold for all of it:

- **Fall back.** The order of the decision is followed exactly. A backend that fails before its first token hands over
  to the next at once.
- **Retry.** When everyone has failed and someone may recover, the round is repeated after a jittered pause (full
  jitter; Brooker, *Exponential Backoff and Jitter*, 2015).
- **Hedge.** A backend that is silent for too long gets a hedge, the next of the order; the first token wins, the other
  is cancelled (Dean and Barroso, *The Tail at Scale*, 2013).
- **Continue.** An answer that breaks off is continued by whoever the decision allows: the text so far becomes the
  beginning of the answer there.
"""

from __future__ import annotations

import random
import time
from collections import Counter, deque
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
    ProtocolMismatch,
    RequestRejected,
    StreamInterrupted,
    scrub_traceback,
)
from hybrid_llm.core.generation import Chunk, Continuation, FinishReason, Usage
from hybrid_llm.core.health import Health, RetryBudget
from hybrid_llm.core.request import PartialAnswer, RequestMetadata
from hybrid_llm.router.execution.call import Sleep
from hybrid_llm.router.execution.hedging import Attempt, OneByOne, Race
from hybrid_llm.router.observability.hooks import AttemptRecord

if TYPE_CHECKING:
    from tenacity import RetryCallState


_BREAKING = (BackendUnavailable, StreamInterrupted, ProtocolMismatch)
_MOST_RIVALS = 2
_ELSEWHERE = frozenset({"context_overflow", "unsupported"})


class _RoundFailed(Exception):
    """Internal: everyone in the order has failed once more."""


def _never(_: str) -> float | None:
    return None


@dataclass(slots=True, kw_only=True)
class Attempts:
    """The attempts of one request.

    Afterwards *records* tells what was tried, *answering* who answered, *began* when that backend was called, on
    *clock*, and *continuations* where the answer was continued.
    """

    metadata: RequestMetadata
    """What is known of the request; its texts are the guard's, and the streams carry them."""
    decision: Decision
    open_stream: Callable[[str, PartialAnswer], AsyncGenerator[Chunk, None]]
    """Starts the stream of one backend by name, behind what was given; nothing happens before its first `anext`."""
    sleep: Sleep
    breakers: Mapping[str, Health]
    budget: RetryBudget
    """Pays for every call beyond the first of each backend, and for every hedge."""
    retries: int
    """Further calls of each backend after its first."""
    nodes: Mapping[str, int] = field(default_factory=dict)
    """How many nodes stand behind a backend, where it is more than one: each may be asked once before the next one."""
    is_ready: Callable[[str], bool] = lambda _: True
    """Whether a backend says of itself that it can be asked; where it does not, its breaker need not find that out."""
    continue_streams: bool = False
    race: Callable[[], Race] = OneByOne
    patience: Callable[[str], float | None] = _never
    """Seconds of silence after which a backend gets a hedge; None where it never does."""
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    """A number from 0 to 1 for the jitter of each pause; a simulation injects its own, so that it can be repeated."""
    records: list[AttemptRecord] = field(default_factory=list)
    failures: dict[str, BackendError] = field(default_factory=dict)
    continuations: list[Continuation] = field(default_factory=list)
    answering: str = ""
    cached: ClassVar[bool] = False
    began: float = 0.0
    _calls: Counter[str] = field(default_factory=Counter)
    _parts: list[str] = field(default_factory=list)
    _tokens: int = 0
    _held: int = 0

    async def run(self) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of the first backend that answers, and of those that continue it.

        Raises:
            AllBackendsFailed: nobody answered.
            DeadlineExceeded: the time is over.
            StreamInterrupted: the answer broke off, and nobody continued it.
            SecurityError: trust is broken; nothing else was tried.
        """
        self.budget.deposit()
        lane = await self._settle(self._candidates)
        while True:
            async with aclosing(lane.stream):
                try:
                    chunk = self._opening(lane)
                    while chunk.finish_reason is None:
                        self._take(chunk)
                        yield chunk
                        self._check_deadline()
                        chunk = await lane.next()
                    break
                except BackendError as error:
                    broken = error
                    self._failed(lane, error)
                except BaseException:  # the caller left, or trust is broken
                    self.breakers[lane.name].abandoned()
                    raise
            heir = None if self._is_full() else await self._continue(lane.name, broken)
            broken.__traceback__ = None  # it is mended, and leads back here
            if heir is None:
                yield self._completed(Chunk(tokens=0, finish_reason=FinishReason.LENGTH))
                return
            lane = heir
        self._succeeded(lane)
        yield self._completed(chunk)

    def _take(self, chunk: Chunk) -> None:
        """Note what is given now; a token whose text is held back is given with the text."""
        self._held += chunk.tokens
        if chunk.text:
            self._parts.append(chunk.text)
            self._tokens += self._held
            self._held = 0

    def _opening(self, lane: Attempt) -> Chunk:
        """The lane's first chunk, which the race has waited for."""
        self._check_deadline()
        assert lane.first is not None
        return lane.first

    async def _continue(self, name: str, error: BackendError) -> Attempt:
        """Who takes over the answer of *name*: another node, another backend, the same again; or *error* stands."""
        if not self.continue_streams or not _may_go_elsewhere(error):
            raise self._final(error)
        lane = None
        try:
            lane = await self._settle(lambda: sorted(self._candidates(), key=partial(self._is_spent, name)))
        except AllBackendsFailed as nobody:
            scrub_traceback(nobody)  # and it is not the context of what is raised: its failures hold that
        if lane is None:
            raise self._final(error)
        self._held = 0
        self.continuations.append(Continuation(at=len(self._given().text), tokens=self._tokens, backend=lane.name))
        return lane

    def _is_spent(self, broken: str, name: str) -> bool:
        """Whether *name* is the one that broke off, and has no other node."""
        return name == broken and self._calls[name] >= self._copies(name)

    def _copies(self, name: str) -> int:
        return self.nodes.get(name, 1)

    def _given(self) -> PartialAnswer:
        return PartialAnswer(text="".join(self._parts), tokens=self._tokens)

    def _is_full(self) -> bool:
        """All tokens that were asked for are there, and only the end was cut off."""
        return self.continue_streams and self._tokens >= self.metadata.max_tokens

    async def _settle(self, names: Callable[[], list[str]]) -> Attempt:
        """Go down *names* until someone gives a first chunk; repeat the round while that makes sense."""
        try:
            return await self._round(names())
        except _RoundFailed as failed:
            return await self._repeat(failed, names)

    async def _repeat(self, failed: _RoundFailed, names: Callable[[], list[str]]) -> Attempt:
        """Hand over to tenacity, whose first attempt is the round that failed: success at once pays nothing for it."""
        from tenacity import AsyncRetrying, retry_if_exception_type

        made = [failed]

        async def attempt() -> Attempt:
            if made:
                raise made.pop()
            return await self._round(names())

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
        finally:
            rounds.iter_state.reset()  # what it was to do next holds it, and this

    async def _round(self, names: Iterable[str]) -> Attempt:
        """Call *names* one after the other, or the next one beside a silent one, until a first chunk is there."""
        waiting, race = deque(names), self.race()
        try:
            while waiting or race.running:
                if not race.running:
                    self._start(race, waiting.popleft())
                elif (lane := await race.ready(self._patience(waiting, race))) is None:
                    self._start_hedge(race, waiting)
                elif lane.error is None:
                    self.answering, self.began = lane.name, lane.began
                    return lane
                else:
                    self._failed(lane, lane.error)
                    if not _may_go_elsewhere(lane.error):
                        raise self._final(lane.error)
            raise _RoundFailed
        finally:
            for lane in await race.stop():
                if lane.error is not None:
                    scrub_traceback(lane.error)
                self._ended(lane, "Cancelled")
                self._hung_or_abandoned(lane, is_late=self.metadata.remaining(self.clock()) <= 0.0)

    def _patience(self, waiting: deque[str], race: Race) -> float | None:
        """How long to wait until the next one starts beside the one that runs; None until something happens."""
        may = waiting and race.running <= _MOST_RIVALS and self.budget.pays()
        return self.patience(self.answering) if may else None

    def _start_hedge(self, race: Race, waiting: deque[str]) -> None:
        """Call the next one beside those that are silent: another backend once two nodes of one are.

        Who cannot be paid for now still has its turn when the others have failed.
        """
        if self.budget.withdraw():
            others = (name for name in waiting if name != self.answering)
            name = next(others, waiting[0]) if race.running > 1 else waiting[0]
            waiting.remove(name)
            self._start(race, name, paid=True)

    def _start(self, race: Race, name: str, *, paid: bool = False) -> None:
        """Call *name*, unless its breaker is open, or it is not its first call and nothing pays for another."""
        self._check_deadline()
        calls, free = self._calls[name], self._copies(name)
        if not self.breakers[name].admit():
            self._refuse(name, "its circuit breaker is open")
        elif calls >= (self.retries + 1) * free or not (paid or calls < free or self.budget.withdraw()):
            self._refuse(name, "no further call is allowed: retries or retry budget are used up")
        else:
            self._calls[name] += 1
            self.answering = name
            stream = self.open_stream(name, self._given())
            race.start(Attempt(name=name, stream=stream, began=self.clock(), hedge=paid))

    def _refuse(self, name: str, why: str) -> None:
        error = BackendUnavailable(f"{name}: {why}", backend=name)
        self.records.append(AttemptRecord(backend=name, error=type(error).__name__))
        self.failures.setdefault(name, error)

    def _candidates(self) -> list[str]:
        """The order of the decision, a backend once for each of its nodes, less those that a repetition cannot help."""
        able = [name for name in self.decision.order if name not in self.failures or self.failures[name].retryable]
        return [name for name in able for _ in range(self._copies(name))]

    def _failed(self, lane: Attempt, error: HybridLLMError) -> None:
        self._ended(lane, type(error).__name__)
        scrub_traceback(error)
        if isinstance(error, BackendError):
            self.failures[lane.name] = error
        if isinstance(error, _BREAKING) and self._calls[lane.name] >= self._copies(lane.name):
            self._tell_breaker(lane.name)
        else:
            self._hung_or_abandoned(lane, is_late=isinstance(error, DeadlineExceeded))

    def _tell_breaker(self, name: str) -> None:
        """*name* has failed; if it says so itself, it also says when it is back, and the breaker stays out of it."""
        breaker = self.breakers[name]
        if self.is_ready(name):
            breaker.failed()
        else:
            breaker.abandoned()

    def _final(self, error: HybridLLMError) -> HybridLLMError:
        """*error*, which ends the request, and is kept here no more: what leads to it from its frames is no circle."""
        self.failures = {name: other for name, other in self.failures.items() if other is not error}
        return error

    def _hung_or_abandoned(self, lane: Attempt, *, is_late: bool) -> None:
        """A backend that let a request's time pass without a word has failed, if it had a fair share of that time."""
        fair = self.clock() - lane.began >= self.metadata.deadline / 2
        if is_late and lane.first is None and fair:
            self._tell_breaker(lane.name)
        else:
            self.breakers[lane.name].abandoned()

    def _ended(self, lane: Attempt, error: str = "") -> None:
        elapsed_ms = (self.clock() - lane.began) * 1e3
        self.records.append(AttemptRecord(backend=lane.name, error=error, elapsed_ms=elapsed_ms, hedge=lane.hedge))

    def _succeeded(self, lane: Attempt) -> None:
        self._ended(lane)
        self.breakers[lane.name].succeeded()

    def _completed(self, last: Chunk) -> Chunk:
        """The last chunk; of an answer in several parts, with the tokens of all of them."""
        if not self.continuations:
            return last
        usage = last.usage or Usage(prompt_tokens=self.metadata.prompt_tokens)
        return replace(
            last, usage=replace(usage, completion_tokens=self.continuations[-1].tokens + usage.completion_tokens)
        )

    def _check_deadline(self) -> None:
        if self.metadata.remaining(self.clock()) <= 0.0:
            name = self.answering or next(iter(self.decision.order))
            raise DeadlineExceeded(
                f"the deadline of {self.metadata.deadline:g} s is over", backend=name, elapsed=self.metadata.deadline
            )

    def _pause(self, state: RetryCallState) -> float:
        from tenacity import wait_exponential

        hints = (BackendOverloaded, BackendUnavailable)
        asked = [e.retry_after or 0.0 for e in self.failures.values() if isinstance(e, hints)]
        return max(wait_exponential(multiplier=0.05, max=2.0)(state) * self.draw(), *asked, 0.0)

    def _give_up(self, state: RetryCallState) -> bool:
        if state.attempt_number > self.retries or not self._candidates():
            return True
        return state.upcoming_sleep >= self.metadata.remaining(self.clock()) or not self.budget.pays()


def _may_go_elsewhere(error: HybridLLMError) -> bool:
    """Whether another backend may do better: not when the request is at fault, its time is over or trust is broken."""
    if not isinstance(error, BackendError):
        return False
    if isinstance(error, RequestRejected):
        return error.reason in _ELSEWHERE
    return not isinstance(error, DeadlineExceeded)


def _summary(failures: Mapping[str, BackendError]) -> str:
    return "; ".join(f"{name}: {error}" for name, error in failures.items())

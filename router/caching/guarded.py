"""Caches whole answers. A cache takes cleared requests only, and stores nothing that their tags forbid.

Only an identical request that is decoded greedily hits, so that a cached answer is what the model would generate again.
There is no cache by meaning: to an embedding, "safe" and "unsafe" are neighbours.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from hybrid_llm.core.clearance import Cleared, Purpose
from hybrid_llm.core.errors import HybridLLMError, OutputInvalid, PrivacyViolation
from hybrid_llm.core.generation import AttemptRecord, Chunk, Continuation, FinishReason, Generation, Usage
from hybrid_llm.core.request import PartialAnswer
from hybrid_llm.core.savings import Savings
from hybrid_llm.core.threads import Aside, at_once
from hybrid_llm.core.tracebacks import guarded, is_fault
from hybrid_llm.router.caching.answers import AnswerCache, CachedAnswer, SavingsBook, entry_name
from hybrid_llm.router.caching.flights import Flight, Flights, Wakeup
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.caching.shared import SharedRun
from hybrid_llm.router.execution.answer import Run
from hybrid_llm.router.execution.call import Routed
from hybrid_llm.router.fleet import Fleet
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.request import SHORT

_log = logging.getLogger("hybrid_llm.cache")
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Replay:
    """A cached answer in place of the attempts of a request: one chunk, and no backend is called."""

    answer: CachedAnswer
    records: list[AttemptRecord] = field(default_factory=list)
    continuations: tuple[Continuation, ...] = ()
    cached: ClassVar[bool] = True

    @property
    def answering(self) -> str:
        """The backend that gave the answer when it was cached."""
        return self.answer.backend

    async def run(self) -> AsyncGenerator[Chunk, None]:
        """Yield the whole answer at once."""
        answer = self.answer
        yield Chunk(
            text=answer.text,
            logprobs=answer.logprobs,
            tokens=answer.usage.completion_tokens,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
        )


class GuardedCache:
    """An `AnswerCache` behind the privacy guard: it is given only what the guard clears for its location.

    A cache that raises costs no request its answer; a missing clearance still raises PrivacyViolation. Identical
    requests that are in flight at once share one answer, under the same conditions.
    """

    def __init__(self, cache: AnswerCache, guard: PrivacyGuard, fleet: Fleet) -> None:
        self._cache = cache
        self._guard = guard
        self._fleet = fleet
        self._flights = Flights()
        self._key = secrets.token_bytes(32)
        self._savings = Savings()
        self._lock = threading.Lock()

    @property
    def savings(self) -> Savings:
        """What it was asked by this client, and what its hits saved."""
        return self._savings

    def find(self, routed: Routed) -> Replay | Flight | None:
        """The cached answer, else the answer in progress that the request has joined; None where neither may be.

        That is joined before the cache is read: what is not in flight any more is stored. A cached answer must come
        from the backend that would be called first, of the same model, under the same policy.
        """
        cleared = self._clear(routed.assessment, routed.decision.order[0])
        if cleared is None:
            return None
        flight = self._join(cleared, routed)
        replay = self._replay(cleared, routed)
        if replay is None:
            self._count(Savings(misses=1))
            return flight
        if flight is not None:
            self._flights.leave(flight)
        answer = replay.answer
        self._count(self._saved(answer.backend, answer.usage) + Savings(hits=1, ms=round(answer.took_ms)))
        return replay

    def _join(self, cleared: Cleared, routed: Routed) -> Flight | None:
        """Join identical requests; not where the answer could not be taken over exactly in its middle."""
        request = routed.assessment.request
        if request.tools or request.logprobs is not None:
            return None
        model = routed.parse.model if routed.parse is not None else None
        name = entry_name(cleared.request, self._key)
        return self._flights.join((name, routed.decision.order, routed.policy.digest, model))

    def share(self, flight: Flight, routed: Routed, attempts: Run, wakeup: Callable[[], Wakeup | None]) -> SharedRun:
        """The request among those in *flight*."""
        return SharedRun(self._flights, flight, attempts, routed.metadata, wakeup, self._count_joined)

    def _count_joined(self, backend: str, last: Chunk) -> None:
        self._count(self._saved(backend, last.usage or Usage()) + Savings(joined=1))

    def _saved(self, backend: str, usage: Usage) -> Savings:
        """What it would have taken *backend* to answer once more."""
        read, written = usage.prompt_tokens, usage.completion_tokens
        price = self._fleet.spending.prices.get(backend)
        spend = price.cost(read, written) if price is not None else 0
        return Savings(prompt_tokens=read, completion_tokens=written, spend=spend)

    def _count(self, savings: Savings) -> None:
        with self._lock:
            self._savings += savings
        if isinstance(self._cache, SavingsBook):
            book = self._cache.book
            self._try("book", lambda: book(savings, self._fleet.spending.currency))

    def _replay(self, cleared: Cleared, routed: Routed) -> Replay | None:
        backend = routed.decision.order[0]
        answer = self._try("get", lambda: self._cache.get(cleared))
        if not isinstance(answer, CachedAnswer) or answer.backend != backend:
            return None
        if answer.model != self._fleet.model(backend) or answer.policy != routed.policy.digest:
            return None
        return Replay(answer=answer) if _is_valid(answer, routed) else None

    @property
    def is_quick(self) -> bool:
        """Whether an event loop may wait for the cache: what an app's own does is not known."""
        return isinstance(self._cache, MemoryCache)

    async def keep(self, routed: Routed, aside: Aside, generation: Generation) -> None:
        """Do as `store` does, with *aside* where that takes long. The answer is there, even if there is no time left.

        Raises:
            PrivacyViolation: a clearance is missing.
        """
        here = self.is_quick and len(generation.text) <= SHORT
        try:
            await (at_once if here else aside)(lambda: self.store(routed, generation), lambda _: None)
        except HybridLLMError as error:  # the deadline is over, or the client was closed
            if isinstance(error, PrivacyViolation):
                raise

    def store(self, routed: Routed, generation: Generation) -> None:
        """Store a whole answer of text, where the tags of the request and of what is found in the answer allow it."""
        if generation.cached or generation.tool_calls or generation.reasoning:
            return
        if not self._may_store(routed, generation.text):
            return
        callees = [attempt.backend for attempt in generation.attempts]
        cleared = self._clear(routed.assessment, generation.backend, *callees)
        if cleared is None:
            return
        answer = CachedAnswer(
            text=generation.text,
            finish_reason=generation.finish_reason,
            usage=generation.usage,
            backend=generation.backend,
            logprobs=generation.logprobs,
            model=self._fleet.model(generation.backend),
            policy=routed.policy.digest,
            took_ms=generation.timings.total_ms,
        )
        self._try("put", lambda: self._cache.put(cleared, answer))

    def close(self) -> None:
        """Close the cache; what is on a disk stays there."""
        guarded(self._cache.close, "closing the cache")

    def _clear(self, assessment: Assessment, *backends: str) -> Cleared | None:
        """The request as the cache may see it; None where it may not, or where the next answer of one may differ.

        In a session, pseudonyms of earlier requests are restored too: such an answer belongs to that session alone.
        """
        if assessment.lease is not None and assessment.request.session_id is not None:
            return None
        sampling = assessment.request.sampling
        greedy = all(self._fleet.is_greedy(name, sampling) for name in backends)
        if not greedy or self._cache.location not in assessment.cacheable:
            return None
        return self._guard.clear(assessment, self._cache.location, Purpose.CACHE)

    def _may_store(self, routed: Routed, text: str) -> bool:
        """Whether the tags of what the detectors find in the answer allow the cache's location too."""
        assessment = self._guard.assess_continuation(routed.assessment, PartialAnswer(text=text), routed.policy)
        self._guard.release(assessment)
        return self._cache.location in assessment.cacheable

    def _try(self, what: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except PrivacyViolation:
            raise
        except BaseException as error:  # an app's cache may fail in any way; the request is answered anyway
            if not is_fault(error):
                raise
            _log.warning("%s of the cache failed with %s", what, type(error).__name__)
            return None


def _is_valid(answer: CachedAnswer, routed: Routed) -> bool:
    """Whether the answer is what the request asks for: an app's cache may return anything."""
    if routed.assessment.request.logprobs is not None and answer.text and not answer.logprobs:
        return False
    if routed.parse is None or answer.finish_reason is not FinishReason.STOP:
        return True
    try:
        routed.parse(answer.text, answer.backend)
    except OutputInvalid:
        return False
    return True

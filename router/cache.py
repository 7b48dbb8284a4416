"""Caches whole answers. A cache takes cleared requests only, and stores nothing that their tags forbid.

Only an identical request that is decoded greedily hits, so that a cached answer is what the model would generate again.
There is no cache by meaning: to an embedding, "safe" and "unsafe" are neighbours.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, fields
from typing import ClassVar, Final, Protocol, TypeVar

from hybrid_llm.core.clearance import Cleared, Purpose, require_clearance
from hybrid_llm.core.errors import ConfigError, HybridLLMError, OutputInvalid, PrivacyViolation
from hybrid_llm.core.generation import AttemptRecord, Chunk, Continuation, FinishReason, Generation, Usage
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.request import Location, PartialAnswer, Request, Sampling
from hybrid_llm.core.threads import Aside, at_once
from hybrid_llm.core.tracebacks import guarded, is_fault
from hybrid_llm.router.execution.call import Routed
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.request import SHORT

_log = logging.getLogger("hybrid_llm.cache")
T = TypeVar("T")
_SAMPLING: Final = tuple(f.name for f in fields(Sampling) if f.name != "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """A complete answer and the backend that gave it. Its text never shows in `repr`."""

    text: str = field(repr=False)
    finish_reason: FinishReason
    usage: Usage
    backend: str
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)


class Cache(Protocol):
    """Stores answers at *location*. Both methods require a clearance for it and for `Purpose.CACHE`."""

    @property
    def location(self) -> Location:
        """Where the answers are stored, as privacy tags see it."""

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        """The cached answer to the same request; PrivacyViolation without a clearance."""

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Store *answer*; PrivacyViolation without a clearance."""

    def close(self) -> None:
        """Drop every answer."""


class MemoryCache:
    """An LRU cache in this process. Safe to use from any thread.

    Args:
        max_entries: How many answers it holds at most.
        ttl_s: Seconds after which one expires.
        clock: Seconds, never backwards.

    Raises:
        ConfigError: a limit is not positive.
    """

    location: Final = Location.EDGE

    def __init__(
        self, *, max_entries: int = 1024, ttl_s: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if max_entries < 1 or not ttl_s > 0.0:
            raise ConfigError("a cache needs max_entries of at least 1 and a ttl_s above 0")
        self._max = max_entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._entries: OrderedDict[bytes, tuple[float, CachedAnswer]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        """The answer to the same request of the same tenant, unless it has expired."""
        key = self._name(require_clearance(cleared, self.location, Purpose.CACHE))
        with self._lock:
            stored, answer = self._entries.get(key, (0.0, None))
            if answer is None:
                return None
            if self._clock() - stored >= self._ttl_s:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return answer

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Store *answer*, replacing an older one."""
        key = self._name(require_clearance(cleared, self.location, Purpose.CACHE))
        with self._lock:
            self._entries[key] = self._clock(), answer
            self._entries.move_to_end(key)
            if len(self._entries) > self._max:
                self._entries.popitem(last=False)

    def close(self) -> None:
        """Drop every answer."""
        with self._lock:
            self._entries.clear()

    def _name(self, request: Request) -> bytes:
        """What distinguishes two requests: texts, roles, tags, limits, options, tenant; not the id, nor the time."""
        mac = hashlib.blake2b(key=self._key, digest_size=32)
        sampling = [repr(getattr(request.sampling, name)) for name in _SAMPLING]
        names = [str(len(request.privacy)), request.task, repr(request.tenant), str(request.max_tokens)]
        names.append(repr(request.logprobs))
        for part in (*sampling, *names, request.shape(), *sorted(request.privacy), *request.visible_text()):
            data = part.encode("utf-8", "surrogatepass")
            mac.update(len(data).to_bytes(8, "big"))
            mac.update(data)
        return mac.digest()


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


class AnswerCache:
    """A `Cache` behind the privacy guard: it is given only what the guard clears for its location.

    A cache that raises costs no request its answer; a missing clearance still raises PrivacyViolation.
    """

    def __init__(self, cache: Cache, guard: PrivacyGuard, is_greedy: Callable[[str, Sampling], bool]) -> None:
        self._cache = cache
        self._guard = guard
        self._is_greedy = is_greedy

    def replay(self, routed: Routed) -> Replay | None:
        """The cached answer, if it came from the backend that would be called first."""
        cleared = self._clear(routed.assessment, routed.decision.order[0])
        answer = self._try("get", lambda: self._cache.get(cleared)) if cleared is not None else None
        if not isinstance(answer, CachedAnswer) or answer.backend != routed.decision.order[0]:
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
        if generation.tool_calls or generation.reasoning or not self._may_store(routed, generation.text):
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
        )
        self._try("put", lambda: self._cache.put(cleared, answer))

    def close(self) -> None:
        """Drop every answer."""
        guarded(self._cache.close, "closing the cache")

    def _clear(self, assessment: Assessment, *backends: str) -> Cleared | None:
        """The request as the cache may see it; None where it may not, or where the next answer of one may differ."""
        sampling = assessment.request.sampling
        greedy = all(self._is_greedy(name, sampling) for name in backends)
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

"""Answers that were given before: a cache takes cleared requests only, and keeps nothing that their tags forbid.

Only an identical request hits, drawn greedily, so that an answer is what the model would say again. A cache by meaning
is not here: "safe" and "unsafe" are neighbours to an embedding.

Which answers are kept, and which are given again: the cache behind the privacy guard.
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
from typing import Final, Protocol

from hybrid_llm.core.clearance import Cleared, Purpose, require_clearance
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.core.generation import Chunk, Continuation, FinishReason, Generation, Usage
from hybrid_llm.core.request import Location, PartialAnswer, Request, RequestMetadata, Sampling
from hybrid_llm.policies import Policy
from hybrid_llm.router.observability.hooks import AttemptRecord
from hybrid_llm.router.privacy import Assessment, PrivacyGuard

_log = logging.getLogger("hybrid_llm.cache")
_SAMPLING: Final = tuple(f.name for f in fields(Sampling) if f.name != "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """A complete answer, and the backend that gave it. Its text never shows in `repr`."""

    text: str = field(repr=False)
    finish_reason: FinishReason
    usage: Usage
    backend: str


class Cache(Protocol):
    """Keeps answers at *location*. Both methods demand a clearance for that place and for `Purpose.CACHE`."""

    @property
    def location(self) -> Location:
        """Where the answers lie, as privacy tags see it."""
        ...

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        """The answer to the same request; PrivacyViolation without a clearance."""
        ...

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Keep *answer*; PrivacyViolation without a clearance."""
        ...

    def close(self) -> None:
        """Forget everything."""
        ...


def is_repeatable(request: Request) -> bool:
    """Whether the same request draws the same answer again."""
    return request.sampling.temperature == 0.0


class MemoryCache:
    """Answers in this process, the least recently used given up first. Safe to use from any thread.

    Args:
        max_entries: How many answers are kept.
        ttl_s: Seconds for which one is good.
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
        """The answer to the same request of the same tenant, while it is fresh."""
        key = self._name(require_clearance(cleared, self.location, Purpose.CACHE))
        with self._lock:
            kept, answer = self._entries.get(key, (0.0, None))
            if answer is None:
                return None
            if self._clock() - kept >= self._ttl_s:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return answer

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Keep *answer* in place of an older one."""
        key = self._name(require_clearance(cleared, self.location, Purpose.CACHE))
        with self._lock:
            self._entries[key] = self._clock(), answer
            self._entries.move_to_end(key)
            if len(self._entries) > self._max:
                self._entries.popitem(last=False)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def _name(self, request: Request) -> bytes:
        """What tells two requests apart: texts, roles, tags, limits, sampling, tenant; not the id, nor the time."""
        mac = hashlib.blake2b(key=self._key, digest_size=32)
        sampling = [repr(getattr(request.sampling, name)) for name in _SAMPLING]
        counts = [str(len(part)) for part in (request.privacy, request.tools, request.sampling.stop)]
        names = [request.task, repr(request.tenant), str(request.max_tokens), str(request.output_schema is None)]
        roles = ",".join(message.role for message in request.messages)
        for part in (*sampling, *counts, *names, roles, *sorted(request.privacy), *request.visible_text()):
            data = part.encode("utf-8", "surrogatepass")
            mac.update(len(data).to_bytes(8, "big"))
            mac.update(data)
        return mac.digest()


class Forgiving:
    """A cache that may fail: then it has nothing, and keeps nothing. A clearance that is missing is raised still."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    @property
    def location(self) -> Location:
        """Where the answers lie."""
        return self._cache.location

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        """The answer, or None where the cache fails."""
        try:
            return self._cache.get(cleared)
        except PrivacyViolation:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a cache does, the request is answered
            _failed("get", error)
            return None

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Keep *answer*, unless the cache fails."""
        try:
            self._cache.put(cleared, answer)
        except PrivacyViolation:
            raise
        except Exception as error:  # noqa: BLE001  # as in `get`
            _failed("put", error)

    def close(self) -> None:
        """Forget everything."""
        self._cache.close()


def _failed(what: str, error: Exception) -> None:
    _log.warning("%s of the cache failed with %s", what, type(error).__name__)


@dataclass(slots=True, kw_only=True)
class Replay:
    """A cached answer in the place of the attempts of a request: one chunk, and nobody is called."""

    metadata: RequestMetadata
    decision: Decision
    answer: CachedAnswer
    records: list[AttemptRecord] = field(default_factory=list)
    continuations: tuple[Continuation, ...] = ()
    began: float = field(default_factory=time.monotonic)

    @property
    def answering(self) -> str:
        """The backend that gave the answer, then."""
        return self.answer.backend

    async def run(self) -> AsyncGenerator[Chunk, None]:
        """Yield the whole answer at once."""
        answer = self.answer
        yield Chunk(
            text=answer.text,
            tokens=answer.usage.completion_tokens,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
        )


class AnswerCache:
    """The answers that *cache* keeps of requests that *guard* has judged; without a cache there are none."""

    def __init__(self, cache: Cache | None, guard: PrivacyGuard) -> None:
        self._cache = Forgiving(cache) if cache is not None else None
        self._guard = guard

    def answer(self, assessment: Assessment, backend: str) -> CachedAnswer | None:
        """The answer that *backend*, which would be asked first, gave to the same request."""
        if self._cache is None:
            return None
        cleared = self._cleared(self._cache, assessment)
        kept = self._cache.get(cleared) if cleared is not None else None
        return kept if kept is not None and kept.backend == backend else None

    def keep(self, assessment: Assessment, policy: Policy, generation: Generation) -> None:
        """Keep a whole answer, where the tags of the request and of what is found in the answer allow it."""
        if self._cache is None or not self._may_hold(self._cache, assessment, policy, generation.text):
            return
        cleared = self._cleared(self._cache, assessment)
        if cleared is not None:
            answer = CachedAnswer(
                text=generation.text,
                finish_reason=generation.finish_reason,
                usage=generation.usage,
                backend=generation.backend,
            )
            self._cache.put(cleared, answer)

    def close(self) -> None:
        """Forget everything."""
        if self._cache is not None:
            self._cache.close()

    def _cleared(self, cache: Forgiving, assessment: Assessment) -> Cleared | None:
        """The request as the cache may see it; None where it may not, or where the answer would not be the same."""
        if not is_repeatable(assessment.request) or cache.location not in assessment.cacheable:
            return None
        return self._guard.clear(assessment, cache.location, Purpose.CACHE)

    def _may_hold(self, cache: Forgiving, assessment: Assessment, policy: Policy, text: str) -> bool:
        """Whether the tags of what is found in *text* allow the place too."""
        judged = self._guard.assess_continuation(assessment, PartialAnswer(text=text), policy)
        self._guard.release(judged)
        return cache.location in judged.cacheable

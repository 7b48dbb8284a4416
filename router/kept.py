"""Which answers are kept, and which are given again: the cache behind the privacy guard."""

from __future__ import annotations

from hybrid_llm.policies import Policy
from hybrid_llm.router.cache import Cache, CachedAnswer, Forgiving, is_repeatable
from hybrid_llm.router.clearance import Cleared, Purpose
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.types import Generation, Given

__all__ = ["Kept"]


class Kept:
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
        if not is_repeatable(assessment.request) or cache.location not in assessment.keepable:
            return None
        return self._guard.clear(assessment, cache.location, Purpose.CACHE)

    def _may_hold(self, cache: Forgiving, assessment: Assessment, policy: Policy, text: str) -> bool:
        """Whether the tags of what is found in *text* allow the place too."""
        judged = self._guard.assess_behind(assessment, Given(text=text), policy)
        self._guard.release(judged)
        return cache.location in judged.keepable

"""The log of requests: fallbacks, hedges and continuations as warnings, every request at the level INFO."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from hybrid_llm.core.generation import AttemptRecord
from hybrid_llm.core.log import Repeated, log
from hybrid_llm.router.observability.hooks import RequestEvent

_NOT_MADE: Final = "Cancelled"


class RequestLog:
    """A hook that every client has: what a user may not see in an answer can be seen in the log."""

    def __init__(self, repeated: Repeated | None = None) -> None:
        self._repeated = repeated or Repeated()

    def __call__(self, event: RequestEvent) -> None:
        """Log *event*; a request that went as planned costs nothing where INFO is off."""
        if len(event.attempts) > 1 or event.continuations:
            self._unplanned(event)
        if log.isEnabledFor(logging.INFO):
            log.info("%s", _summary(event))

    def _unplanned(self, event: RequestEvent) -> None:
        answered, failed = event.backend, [one for one in event.attempts if one.error not in ("", _NOT_MADE)]
        others = list(dict.fromkeys(one.backend for one in failed if one.backend != answered))
        if answered and others:
            self._repeated.warn(
                f"fallback {others} {answered}",
                "request %s: fell back to %s: %s", event.request_id, answered, described(failed),
            )  # fmt: skip
        hedges = [one.backend for one in event.attempts if one.hedge]
        if hedges:
            self._repeated.warn(
                f"hedge {hedges[0]}",
                "request %s: no first token in time; %s was called beside the slow call, and %s answered",
                event.request_id, ", ".join(hedges), answered or "none",
            )  # fmt: skip
        for one in event.continuations:
            self._repeated.warn(
                f"continuation {one.backend}",
                "request %s: the answer broke off after %d tokens and was continued by %s",
                event.request_id, one.tokens, one.backend,
            )  # fmt: skip


def described(attempts: Iterable[AttemptRecord]) -> str:
    """*attempts* in one line: `cloud BackendUnavailable after 3 ms, ...`."""
    each = (
        f"{one.backend} {one.error}{f' ({one.reason})' if one.reason else ''} after {one.elapsed_ms:.0f} ms"
        for one in attempts
    )
    return ", ".join(each)


def _summary(event: RequestEvent) -> str:
    if event.error:
        return f"request {event.request_id}: {event.error}; {described(event.attempts) or 'no backend was called'}"
    how = "from the cache" if event.cached else f"in {event.timings.total_ms:.0f} ms"
    first, tokens = event.timings.ttft_ms, event.usage.completion_tokens
    return f"request {event.request_id}: {event.backend} answered {how}, first token {first:.0f} ms, {tokens} tokens"

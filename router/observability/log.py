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
        if len(event.attempts) > 1:
            self._unplanned(event)
        if log.isEnabledFor(logging.INFO):
            log.info("%s", _summary(event))

    def _unplanned(self, event: RequestEvent) -> None:
        """One line for each backend that took the answer over from others: why it was not another one."""
        before: list[AttemptRecord] = []
        tokens = 0
        for one in event.attempts:
            if not one.error or one.tokens:
                self._taken_over(event.request_id, before, one, tokens)
                before.clear()
                tokens += one.tokens
            before.append(one)
        if any(one.hedge for one in before):
            self._hedged(event.request_id, before, "none")

    def _taken_over(self, request_id: str, before: list[AttemptRecord], by: AttemptRecord, tokens: int) -> None:
        """*by* answered after *before*, of which the first had given *tokens* tokens."""
        failed = [one for one in before if one.error != _NOT_MADE]
        if tokens:
            self._repeated.warn(
                f"continuation {by.backend}",
                "request %s: the answer broke off after %d tokens and was continued by %s: %s",
                request_id, tokens, by.backend, described(failed),
            )  # fmt: skip
        elif any(one.hedge for one in [*before, by]):
            self._hedged(request_id, [*before, by], by.backend)
        elif others := [one for one in failed if one.backend != by.backend]:
            self._repeated.warn(
                f"fallback {[one.backend for one in others]} {by.backend}",
                "request %s: fell back to %s: %s", request_id, by.backend, described(failed),
            )  # fmt: skip

    def _hedged(self, request_id: str, calls: list[AttemptRecord], answered: str) -> None:
        hedges = [one.backend for one in calls if one.hedge]
        self._repeated.warn(
            f"hedge {hedges[0]}",
            "request %s: no first token in time; %s was called beside the slow call, and %s answered",
            request_id, ", ".join(hedges), answered,
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

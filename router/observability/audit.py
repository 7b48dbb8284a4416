"""The audit log of an app: a record before each request is answered, and one when it is over; never a text."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from typing import Literal

from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.writer import AuditFailed, AuditWriter
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import AuditUnavailable
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.rights.grants import CALLER
from hybrid_llm.router.observability.hooks import ClientStatus, Refusal, RequestEvent


class AuditHook:
    """Writes to *writer*, which it owns."""

    def __init__(self, writer: AuditWriter) -> None:
        self._writer = writer
        self._callers: dict[str, str] = {}
        """Id of a request that runs -> who asked; its end may come in another task."""

    def admit(self, request: RequestMetadata, decision: Decision) -> None:
        """Record that *request* will be answered as *decision* says.

        Raises:
            AuditUnavailable: it cannot be recorded, and must be.
        """
        if identity := CALLER.get():
            self._callers[request.request_id] = identity
        written = self._writer.record(_entry("begin", request, decision, identity))
        if not self._writer.required:
            return
        try:
            written.result(max(0.0, request.remaining()))
        except (AuditFailed, FutureTimeout):
            raise AuditUnavailable("the audit log cannot be written, and every request must be recorded") from None

    def __call__(self, event: RequestEvent) -> None:
        """Record how a request ended."""
        identity = self._callers.pop(event.metadata.request_id, "")
        entry = _entry("end", event.metadata, event.decision, identity)
        self._writer.record(
            replace(
                entry,
                backend=event.backend,
                outcome=event.error or "ok",
                finish_reason=str(event.finish_reason or ""),
                prompt_tokens=event.usage.prompt_tokens,
                completion_tokens=event.usage.completion_tokens,
            )
        )

    @property
    def lost(self) -> int:
        """Records that could not be written, and that no later one tells of yet."""
        return self._writer.lost

    def refused(self, refusal: Refusal) -> None:
        """Record a request that the client never had."""
        self._writer.refuse(
            AuditEntry(
                event="refused",
                at_ms=time.time_ns() // 1_000_000,
                request_id=refusal.request_id,
                identity=refusal.identity,
                tenant=refusal.tenant,
                address=refusal.address,
                outcome=refusal.code,
            )
        )

    def attach(self, status: Callable[[], ClientStatus]) -> None:
        """Do nothing: the log is open."""

    def detach(self, status: Callable[[], ClientStatus]) -> None:  # noqa: ARG002  # the Protocol's signature
        """The client is closed: close the log."""
        self.close()

    def close(self) -> None:
        """Write what waits, and close the log. Idempotent."""
        self._writer.close()


def _entry(event: Literal["begin", "end"], request: RequestMetadata, decision: Decision, identity: str) -> AuditEntry:
    return AuditEntry(
        event=event,
        at_ms=time.time_ns() // 1_000_000,
        call=request.request_id,
        request_id=request.request_id,
        identity=identity,
        tenant=request.tenant or "",
        task=request.task or "",
        tags=tuple(sorted(decision.tags)),
        decision=f"{decision.digest} {decision.rule}".strip(),
    )

"""What a node records of each call in its audit log; never a text."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from dataclasses import dataclass, field
from typing import Final

from hybrid_llm.backends.audit.entries import AuditEntry, Event
from hybrid_llm.backends.audit.writer import AuditFailed, AuditWriter
from hybrid_llm.backends.node.requests import NODE, Answer
from hybrid_llm.core.errors import BackendUnavailable
from hybrid_llm.core.request import Request

_RETRY_S: Final = 2.0
_UNRECORDED: Final = frozenset({"BackendUnavailable", "ProtocolMismatch", "cancelled"})
"""Refusals for which the caller can do nothing."""


@dataclass(slots=True)
class AuditedCall:
    """One call as the log sees it."""

    identity: str
    tenant: str = ""
    address: str = ""
    """The host, where the call is refused."""
    request_id: str = ""
    model: str = ""
    task: str = ""
    tags: tuple[str, ...] = ()
    id: str = ""
    """Empty until the call began."""

    def describe(self, request: Request) -> None:
        """Take from *request* what a log may have."""
        self.tenant = request.tenant or self.tenant
        self.request_id, self.task = request.request_id, request.task or ""
        self.tags = tuple(sorted(request.privacy))


@dataclass(slots=True)
class NodeAudit:
    """The audit log of one node, which it owns."""

    writer: AuditWriter
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _start: str = field(default_factory=lambda: secrets.token_hex(4))

    async def begin(self, call: AuditedCall) -> None:
        """Record that *call* was admitted, before any work is done for it.

        Raises:
            BackendUnavailable: it cannot be recorded, and must be.
        """
        call.id = f"{self._start}-{next(self._numbers)}"
        written = self.writer.record(_entry("begin", call))
        if not self.writer.required:
            return
        try:
            await asyncio.wrap_future(written)
        except AuditFailed:
            raise BackendUnavailable(
                "the audit log cannot be written", backend=NODE, retry_after=_RETRY_S, reason="not_ready"
            ) from None

    def end(self, call: AuditedCall, outcome: str, answer: Answer | None, prompt_tokens: int) -> None:
        """Record how *call* ended; one that never began was refused."""
        if not call.id:
            if outcome not in _UNRECORDED:
                self.writer.refuse(_entry("refused", call, address=call.address, outcome=outcome))
            return
        self.writer.record(
            _entry(
                "end",
                call,
                outcome=outcome,
                finish_reason=str(answer.finish_reason or "") if answer else "",
                prompt_tokens=prompt_tokens,
                completion_tokens=answer.tokens if answer else 0,
            )
        )


def _entry(event: Event, call: AuditedCall, **ended: int | str) -> AuditEntry:
    return AuditEntry(
        event=event,
        at_ms=time.time_ns() // 1_000_000,
        call=call.id,
        request_id=call.request_id,
        identity=call.identity,
        tenant=call.tenant,
        model=call.model,
        task=call.task,
        tags=call.tags,
        **ended,  # type: ignore[arg-type]  # the names are those above
    )

"""Reports what a gateway refuses before its client has it, with who asked as far as that is known; never a text.

A layer of ASGI around everything: a route that forgets to report is reported by its status.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid_llm.core.log import Repeated
from hybrid_llm.router.observability.hooks import Refusal

_log: Final = logging.getLogger("hybrid_llm.gateway")
_REFUSAL_S: Final = 10.0
"""A host that is refused for one reason is a WARNING once in this time, seconds."""
_UNAUTHORISED: Final = frozenset({401, 403})
_REFUSED: Final = 400


@dataclass(slots=True)
class Asking:
    """What is known of a request while it is answered."""

    identity: str = ""
    tenant: str = ""
    request_id: str = ""
    sealed: bool = False
    """Whether its body came sealed."""
    code: str = ""
    """Of its failure."""
    recorded: bool = False
    """Whether the client had it, whose own record says how it ended."""


_ASKING: Final[ContextVar[Asking]] = ContextVar("hybrid_llm_gateway_asking")


def asking() -> Asking:
    """The request that runs; what is set on it is reported if it is refused."""
    return _ASKING.get(None) or Asking()


class Refusals:
    """An ASGI application: *inner*, whose refusals are logged, and reported to *report*."""

    def __init__(self, inner: ASGIApp, report: Callable[[Refusal], None]) -> None:
        self._inner, self._report = inner, report
        self._warnings = Repeated(every_s=_REFUSAL_S, between=logging.DEBUG, logger=_log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        one = Asking()
        _ASKING.set(one)  # each request has a task of its own
        await self._inner(scope, receive, partial(self._sent, one, (scope.get("client") or ("",))[0], send))

    async def _sent(self, one: Asking, host: str, send: Send, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= _REFUSED and not one.recorded:
            self._refused(one, host, message["status"])
        await send(message)

    def _refused(self, one: Asking, host: str, status: int) -> None:
        code = one.code or f"http_{status}"
        if status in _UNAUTHORISED:
            self._warnings.warn(f"{code} {host}", "refused a request of %s: %d %s", host or "unknown", status, code)
        self._report(
            Refusal(code=code, identity=one.identity, tenant=one.tenant, address=host, request_id=one.request_id)
        )

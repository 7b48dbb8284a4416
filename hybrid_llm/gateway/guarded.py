"""Puts every route of a gateway behind its rights, in one place: a route that is forgotten is refused, not open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hybrid_llm.core.rights.grants import CALLER, Operation
from hybrid_llm.gateway.exchange import headers_of, told
from hybrid_llm.gateway.gateway import Gateway
from hybrid_llm.gateway.rights import CALL, GatewayRights, operation_of


class Guarded:
    """An ASGI application: *inner*, the application of one route, for those who may do *operation*."""

    def __init__(self, inner: ASGIApp, gateway: Gateway, rights: GatewayRights, operation: Operation | None) -> None:
        self._inner, self._gateway, self._rights, self.operation = inner, gateway, rights, operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            call = await self._rights.admit(self._gateway, headers_of(scope), self.operation)
            CALL.set(call)
            CALLER.set(call.admitted.caller.identity)
        except Exception as error:  # noqa: BLE001  # whatever fails has a status
            failure = told(error, scope["path"])
            is_anthropic = scope["path"].startswith("/v1/messages")
            document = failure.as_anthropic() if is_anthropic else failure.as_openai()
            answer = JSONResponse(document, failure.status, {**failure.headers, **self._gateway.farewell})
            await answer(scope, receive, send)
            return
        await self._inner(scope, receive, send)


def guard(routes: Sequence[Route], gateway: Gateway, endpoints: Mapping[str, str]) -> None:
    """Put every one of *routes* behind the rights of *gateway*, if it has any."""
    if gateway.rights is not None:
        for route in routes:
            route.app = Guarded(route.app, gateway, gateway.rights, operation_of(route.path, endpoints))

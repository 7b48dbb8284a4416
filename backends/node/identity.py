"""Who calls: an interceptor that lets nothing through but mutual TLS 1.3 with an identity of ours, health included."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from hybrid_llm.backends.node.admission import NODE
from hybrid_llm.backends.wire.certificates import TRUST_DOMAIN
from hybrid_llm.backends.wire.status import ERROR_KEY, encode
from hybrid_llm.backends.wire.tls import tls13_required
from hybrid_llm.core.errors import AuthenticationFailed, HybridLLMError, PermissionDenied, RequestRejected

_log = logging.getLogger(__name__)
_Parse = Callable[[bytes], Any]
_TLS13 = "TLSv1.3"
_CLIENT = f"{TRUST_DOMAIN}/client/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end of a connection, as TLS proved it. *identity* is the SPIFFE-style URI."""

    identity: str
    tls_version: str
    tls_group: str


PEER: ContextVar[Peer] = ContextVar("hybrid_llm_peer")
"""The peer of the call that is being handled; set before its handler runs."""


def peer_of(facts: Mapping[str, Any], *, only_tls13: bool = False) -> Peer:
    """Read who calls from gRPC's `auth_context`; *only_tls13*: the handshake lets nothing older through.

    gRPC tells the version from 1.85 on. Where it does not tell, only such a handshake is proof of it.

    Raises:
        AuthenticationFailed: no TLS 1.3, no client certificate, or one without an identity of ours.
        PermissionDenied: the identity is not a client's.
    """
    version = _first(facts, "ssl_tls_version") or (_TLS13 if only_tls13 and facts else "")
    if version != _TLS13:
        raise AuthenticationFailed(f"TLS 1.3 is demanded, this is {version or 'none'}", backend=NODE)
    identities = [uri for uri in map(_text, facts.get("peer_uri", ())) if uri.startswith(TRUST_DOMAIN + "/")]
    if len(identities) != 1:
        raise AuthenticationFailed(f"the client's certificate has no identity under {TRUST_DOMAIN}", backend=NODE)
    if not identities[0].startswith(_CLIENT):
        raise PermissionDenied(f"{identities[0]} is not a client", backend=NODE)
    return Peer(
        identity=identities[0], tls_version=version, tls_group=_first(facts, "ssl_negotiated_key_exchange_group")
    )


def _first(facts: Mapping[str, Any], key: str) -> str:
    return next(map(_text, facts.get(key, ())), "")


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def conclude(context: Any, error: HybridLLMError, trailing: tuple[tuple[str, str | bytes], ...] = ()) -> None:
    """Give a call of many answers the status of *error*, by the one table, for when its handler returns.

    Nothing is raised through gRPC, whose frames would hold the error, and with it the request, in a circle.
    """
    status = encode(error)
    context.set_code(status.code)
    context.set_details(status.message)
    context.set_trailing_metadata((*trailing, (ERROR_KEY, status.detail)))


async def _abort(context: Any, error: HybridLLMError) -> None:
    """End a call with *error* at once."""
    status = encode(error)
    await context.abort(status.code, status.message, ((ERROR_KEY, status.detail),))


class IdentityInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Checks the peer of every call before its handler runs."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of a call."""
        handler = await continuation(handler_call_details)
        return None if handler is None else _guarded(handler)


def _guarded(handler: Any) -> Any:
    """The same handler behind the check. A single request is parsed only once its sender is known."""
    kind = ("stream" if handler.request_streaming else "unary") + (
        "_stream" if handler.response_streaming else "_unary"
    )
    behaviour = getattr(handler, kind)
    parse = None if handler.request_streaming else handler.request_deserializer
    return getattr(grpc, f"{kind}_rpc_method_handler")(
        _guard_stream(behaviour, parse) if handler.response_streaming else _guard_unary(behaviour, parse),
        request_deserializer=handler.request_deserializer if handler.request_streaming else None,
        response_serializer=handler.response_serializer,
    )


def _guard_unary(behaviour: Callable[..., Awaitable[Any]], parse: _Parse | None) -> Callable[[Any, Any], Any]:
    async def guarded(request: Any, context: Any) -> Any:
        return await behaviour(await _admit(request, context, parse), context)

    return guarded


def _guard_stream(behaviour: Callable[..., Any], parse: _Parse | None) -> Callable[[Any, Any], Any]:
    async def guarded(request: Any, context: Any) -> None:
        answer = behaviour(await _admit(request, context, parse), context)
        if not isinstance(answer, AsyncGenerator):
            await answer
            return
        async with aclosing(answer) as pieces:
            async for piece in pieces:
                await context.write(piece)

    return guarded


async def _admit(request: Any, context: Any, parse: _Parse | None) -> Any:
    """Return the request of a peer that may call; ends the call of any other."""
    try:
        PEER.set(peer_of(context.auth_context(), only_tls13=tls13_required()))
        return parse(request) if parse else request
    except (AuthenticationFailed, PermissionDenied) as error:
        _log.warning("refused %s: %s", context.peer(), error)
        await _abort(context, error)
    except DecodeError:
        text = "the request is not a message of this protocol"
        await _abort(context, RequestRejected(text, backend=NODE, reason="invalid_argument"))

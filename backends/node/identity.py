"""Authenticates callers: an interceptor that demands mutual TLS 1.3 and a client identity on every call, health too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import ExitStack, aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from hybrid_llm.backends.node.intake import LEAVING_S, NO_MESSAGE, Intake
from hybrid_llm.backends.node.requests import NODE, unexpected
from hybrid_llm.backends.node.revoked import RevokedPeers
from hybrid_llm.backends.node.rights import CLIENT, OPERATIONS, CallRights, NodeRights, OpenCall
from hybrid_llm.backends.wire.certificates import TRUST_DOMAIN
from hybrid_llm.backends.wire.status import ERROR_KEY, encode
from hybrid_llm.backends.wire.tls import tls13_required
from hybrid_llm.core.errors import (
    AuthenticationFailed,
    BackendError,
    HybridLLMError,
    PermissionDenied,
    RequestRejected,
    SecurityError,
)
from hybrid_llm.core.log import Repeated
from hybrid_llm.core.rights.grants import Operation

_REFUSAL_S = 10.0
"""A client that is refused for one reason is a WARNING once in this time, seconds."""
_refusals = Repeated(every_s=_REFUSAL_S, between=logging.DEBUG, logger=logging.getLogger(__name__))
_TLS13 = "TLSv1.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The authenticated client of a call. *identity* is the SPIFFE-style URI of its certificate, or of its token."""

    identity: str
    address: str
    """As gRPC has it, such as `ipv4:192.0.2.7:43210`."""
    tls_version: str
    tls_group: str
    tenant: str = ""
    """The customer that a token names."""
    rights: CallRights = field(default_factory=OpenCall)
    """What the call may do."""


PEER: ContextVar[Peer] = ContextVar("hybrid_llm_peer")
"""The peer of the current call; set before its handler runs."""


def peer_of(auth_context: Mapping[str, Any], *, address: str = "", only_tls13: bool = False) -> Peer:
    """Authenticate a caller.

    Args:
        auth_context: gRPC's record of the handshake. It holds the TLS version from gRPC 1.85 on.
        address: Where the call comes from, for the log.
        only_tls13: The handshake refuses older versions, so that a missing version means TLS 1.3.

    Raises:
        AuthenticationFailed: no TLS 1.3, no client certificate, or one without an identity of our trust domain.
        PermissionDenied: the identity is not a client's.
    """
    version = _first(auth_context, "ssl_tls_version") or (_TLS13 if only_tls13 and auth_context else "")
    if version != _TLS13:
        raise AuthenticationFailed(f"TLS 1.3 is required, the call has {version or 'none'}", backend=NODE)
    identities = [uri for uri in map(_text, auth_context.get("peer_uri", ())) if uri.startswith(TRUST_DOMAIN + "/")]
    if len(identities) != 1:
        raise AuthenticationFailed(f"the client's certificate has no identity under {TRUST_DOMAIN}", backend=NODE)
    if not identities[0].startswith(CLIENT):
        raise PermissionDenied("this certificate is not a client's", backend=NODE)
    group = _first(auth_context, "ssl_negotiated_key_exchange_group")
    return Peer(identity=identities[0], address=address, tls_version=version, tls_group=group)


def _first(auth_context: Mapping[str, Any], key: str) -> str:
    return next(map(_text, auth_context.get(key, ())), "")


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def set_error(context: Any, error: HybridLLMError, trailing: tuple[tuple[str, str | bytes], ...] = ()) -> None:
    """Set the status of *error* on a streaming call; it takes effect when the handler returns."""
    # Raising instead would leave the error, and with it the request, in a reference cycle of gRPC's frames.
    status = encode(error)
    context.set_code(status.code)
    context.set_details(status.message)
    context.set_trailing_metadata((*trailing, (ERROR_KEY, status.detail)))


async def _abort(context: Any, error: HybridLLMError) -> None:
    """End a call with *error* at once."""
    status = encode(error)
    await context.abort(status.code, status.message, ((ERROR_KEY, status.detail),))


class IdentityInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Authenticates every call before its request is read, and holds it to its *rights* and the limits of *intake*."""

    def __init__(
        self,
        intake: Intake,
        rights: NodeRights | None = None,
        revoked: RevokedPeers | None = None,
        on_refused: OnRefused | None = None,
    ) -> None:
        self._intake = intake
        self._rights = rights or NodeRights()
        self._revoked = revoked
        self._on_refused = on_refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of a call."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        refused = self._on_refused if OPERATIONS.get(method) is Operation.GENERATE else None
        return None if handler is None else _guarded(handler, self._intake, partial(self._admit, method), refused)

    async def _admit(self, method: str, context: Any, held: ExitStack) -> Peer:
        """The authenticated peer of a call of *method*, which it may call; *held* lasts as long as the call.

        `PEER` is as much of it as is known, also when the call is refused.
        """
        peer = peer_of(context.auth_context(), address=context.peer(), only_tls13=tls13_required())
        PEER.set(peer)
        if self._revoked is not None:
            held.enter_context(self._revoked.call(peer.address, context.auth_context()))
        metadata = context.invocation_metadata() or ()
        caller = await self._rights.caller(peer.identity, metadata)
        PEER.set(peer := replace(peer, identity=caller.identity, tenant=caller.tenant or ""))
        return replace(peer, rights=self._rights.admit(caller, method, metadata))


Admit = Callable[[Any, ExitStack], Awaitable[Peer]]
OnRefused = Callable[[Any, Peer, HybridLLMError], None]
"""Takes the context of a call of `Generate`, its caller as far as it is known, and why it was refused."""


def _guarded(handler: Any, intake: Intake, admit: Admit, refused: OnRefused | None = None) -> Any:
    """*handler* behind authentication and limits.

    To gRPC every request becomes a stream: it hands a single message to a handler only when all of it has arrived.
    """
    answers = "stream" if handler.response_streaming else "unary"
    behaviour = getattr(handler, f"{'stream' if handler.request_streaming else 'unary'}_{answers}")
    parse = None if handler.request_streaming else handler.request_deserializer

    async def guarded(requests: Any, context: Any) -> Any:
        try:
            with ExitStack() as held:
                request = await _admitted(requests, context, parse, intake, held, admit, refused)
                return await _answered(behaviour(request, context), context, intake)
        except grpc.aio.InternalError:  # an operation on this call failed: the client has left
            await asyncio.sleep(LEAVING_S)
            raise
        except asyncio.CancelledError:
            if context.time_remaining() != 0.0:
                intake.connections.fault(context.peer(), _client())
            raise
        except grpc.aio.BaseError:  # this call is over already
            raise
        except Exception as error:  # noqa: BLE001 - gRPC would send its text, which may quote the request
            failure = _failure(error, context.peer())
        if failure is None:
            return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this node does not implement this RPC")
        return await _abort(context, failure)

    return getattr(grpc, f"stream_{answers}_rpc_method_handler")(
        guarded,
        request_deserializer=handler.request_deserializer if handler.request_streaming else None,
        response_serializer=handler.response_serializer,
    )


async def _admitted(
    requests: Any,
    context: Any,
    parse: Callable[[bytes], Any] | None,
    intake: Intake,
    held: ExitStack,
    admit: Admit,
    refused: OnRefused | None,
) -> Any:
    """Return the parsed request of an authenticated peer within its limits; abort any other call."""
    try:
        peer = await admit(context, held)
        PEER.set(peer)
        held.enter_context(intake.call(peer.identity))
        if parse is None:
            return requests
        reservation = held.enter_context(intake.reserved(peer.identity))
        return parse(await intake.read(context.read, reservation, peer.address))
    except DecodeError:
        error: HybridLLMError = RequestRejected(NO_MESSAGE, backend=NODE, reason="invalid_argument")
    except (BackendError, SecurityError) as refusal:
        error = refusal
    event = f"{type(error).__name__} {context.peer().rpartition(':')[0]}"
    caller = PEER.get(None) or Peer(identity="", address=context.peer(), tls_version="", tls_group="")
    _refusals.warn(event, "refused a call of %s, %s: %s", caller.address, caller.identity or "no identity", error)
    if refused is not None:
        refused(context, caller, error)
    return await _abort(context, error)


def _failure(error: Exception, peer: str) -> HybridLLMError | None:
    """What the client at *peer* may see of an *error* that is not of ours; None for an RPC that is not implemented."""
    if isinstance(error, NotImplementedError):  # by gRPC's own servicers, for RPCs that only their descriptors have
        return None
    if isinstance(error, DecodeError):  # of one of a stream of requests, which gRPC parses as they are read
        return RequestRejected(NO_MESSAGE, backend=NODE, reason="invalid_argument")
    return unexpected(error, peer)


def _client() -> str:
    """The identity of the current call, if it is authenticated."""
    peer = PEER.get(None)
    return peer.identity if peer else ""


async def _answered(answer: Any, context: Any, intake: Intake) -> Any:
    if not isinstance(answer, AsyncGenerator):
        return await answer
    async with aclosing(answer) as messages:
        async for message in messages:
            await intake.write(context.write(message), context.peer(), _client())
    return None


class OneLine(logging.Filter):
    """Shortens what gRPC logs of a call to one line, not too often: its tracebacks may quote the request."""

    def __init__(self) -> None:
        super().__init__()
        self._log = Repeated(every_s=_REFUSAL_S, between=logging.DEBUG, logger=logging.getLogger(__name__))

    def filter(self, record: logging.LogRecord) -> bool:
        """Log the class of the error instead of *record*, if it has one."""
        if not record.exc_info or record.exc_info[0] is None:
            return True
        name = record.exc_info[0].__name__
        self._log.warn(name, "a call ended in gRPC with %s", name)
        return False

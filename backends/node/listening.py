"""The node's listener: a `grpc.aio` server with mutual TLS, health and reflection around the front."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from importlib.metadata import PackageNotFoundError, version

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hybrid_llm.backends.node.answer import Tokenizer
from hybrid_llm.backends.node.engine import AsyncEngine
from hybrid_llm.backends.node.identity import IdentityInterceptor
from hybrid_llm.backends.node.server import NodeConfig
from hybrid_llm.backends.node.servicer import Front
from hybrid_llm.backends.wire.channels import server_credentials, server_options
from hybrid_llm.backends.wire.handshake import Address
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.protos.hybrid_pb2_grpc import add_HybridLLMServicer_to_server

_SERVICE = pb.DESCRIPTOR.services_by_name["HybridLLM"].full_name
_HEALTH_INTERVAL_S = 0.1


class Listener:
    """Opens the port; *engine* may still be loading.

    Raises:
        ConfigError: the certificates do not let us serve, or the address cannot be listened on.
    """

    def __init__(self, config: NodeConfig, engine: AsyncEngine, tokenizer: Tokenizer) -> None:
        self._engine = engine
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined] # the stubs lack it
        self._watch: asyncio.Task[None] | None = None
        credentials = server_credentials(config.tls)
        self._server = grpc.aio.server(
            interceptors=(IdentityInterceptor(),),
            options=server_options(
                max_message_bytes=config.max_message_bytes, max_connection_age=config.max_connection_age
            ),
        )
        front = self._front = Front(
            engine, tokenizer, max_queue=config.max_queue, max_deadline=config.max_deadline, version=_version()
        )
        add_HybridLLMServicer_to_server(front, self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        endpoint = Address.parse(config.listen, lowest_port=0)
        _check_free(endpoint)
        self.port = _bind(self._server, endpoint, credentials)
        """The port that is listened on."""

    async def open(self) -> None:
        """Take calls. Health says NOT_SERVING until the engine is healthy."""
        await self.tell_health()
        await self._server.start()
        self._watch = asyncio.create_task(self._watch_health())

    async def close(self, grace: float) -> None:
        """Refuse new calls and give running ones *grace* seconds. A second call with less grace shortens it."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        self._front.stopping = True
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL_S)
            await self.tell_health()

    async def tell_health(self) -> None:
        """Say now whether the engine is healthy, rather than at the next look."""
        statuses = health_pb2.HealthCheckResponse
        status = statuses.SERVING if self._engine.healthy else statuses.NOT_SERVING
        for service in ("", _SERVICE):
            await self._health.set(service, status)


def _check_free(endpoint: Address) -> None:
    """Try the port with a plain socket first: gRPC says only that it failed."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((endpoint.host, endpoint.port))
    except socket.gaierror:
        raise ConfigError(f"cannot listen on {endpoint}: {endpoint.host} does not resolve") from None
    except OSError as error:
        raise ConfigError(f"cannot listen on {endpoint}: {_why(error)}") from None


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop the other program or choose another port"
    if error.errno == errno.EACCES:
        return "this user may not; ports below 1024 need a privilege"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    return str(error.strerror)


def _bind(server: grpc.aio.Server, endpoint: Address, credentials: grpc.ServerCredentials) -> int:
    try:
        return server.add_secure_port(str(endpoint), credentials)
    except RuntimeError:
        raise ConfigError(f"cannot listen on {endpoint}: it was taken a moment ago") from None


def _version() -> str:
    try:
        return version("hybrid-llm")
    except PackageNotFoundError:
        return "unknown"

"""A node: listens with mutual TLS, loads the model, and serves until it is stopped gracefully.

gRPC is imported when a node starts and not with this module: only before its first import can TLS 1.3 be required in
the handshake (`require_tls13`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.adapters import verify_signatures
from hybrid_llm.backends.audit.spec import AuditSpec
from hybrid_llm.backends.node.engine import Engine, EngineConfig
from hybrid_llm.backends.node.engines import ENGINES
from hybrid_llm.backends.node.intake import Intake, IntakeLimits
from hybrid_llm.backends.node.observers import Observers
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.backends.wire.expiry import expiries
from hybrid_llm.backends.wire.handshake import Address
from hybrid_llm.backends.wire.tls import check_pair, require_tls13
from hybrid_llm.core.checked import Checked
from hybrid_llm.core.database import DatabaseAddress
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import MapOf, Number, Whole, key
from hybrid_llm.core.limits import DEADLINE_S
from hybrid_llm.core.rights.counters import open_counters
from hybrid_llm.core.rights.gate import Gate
from hybrid_llm.core.rights.grants import RightsSource
from hybrid_llm.core.rights.quotas import Quotas
from hybrid_llm.core.telemetry import TelemetrySpec

if TYPE_CHECKING:
    import grpc.aio

    from hybrid_llm.backends.node.rights import NodeRights
    from hybrid_llm.backends.node.servicer import NodeServicer

_log = logging.getLogger(__name__)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_RELOAD: Final = getattr(signal, "SIGHUP", None)
"""Missing on Windows."""
_HEALTH_INTERVAL_S: Final = 0.1
_CAUSES: Final = {
    errno.EADDRINUSE: "the port is in use; stop the other program or choose another port",
    errno.EACCES: "permission denied; ports below 1024 need a privilege",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig(Checked):
    """The model that a node serves, its address, certificates and limits."""

    engine: EngineConfig
    """The model and its resources; `engine.max_slots` requests are answered concurrently."""
    tls: TLSFiles
    """The node's certificate, and the authority that signs its clients' certificates."""
    chat_template: str | None = None
    """A template in place of the model folder's; a folder that has none is refused without."""
    listen: str = "127.0.0.1:7443"
    """`HOST:PORT`; port 0 takes a free one. The default is reachable from this machine only."""
    max_queue: int = key(
        Whole(),
        "Maximum requests that wait for a slot; more are rejected with a time to retry after. The limit shrinks while "
        "requests wait for longer than an answer takes.",
        default=64,
    )
    max_deadline: float = key(
        DEADLINE_S, "Maximum duration of a call, seconds; also that of calls without a deadline.", default=600.0
    )
    max_message_bytes: int = key(Whole(1), "Size of the largest message, bytes.", default=4 * 1024 * 1024)
    max_connection_age: float = key(
        Number(0.001, 1e6),
        "Seconds after which clients must reconnect, so that replaced certificates take effect.",
        default=3600.0,
    )
    intake: IntakeLimits = field(default=IntakeLimits())
    """What callers may hold of the node."""
    weights: Mapping[str, float] = key(
        MapOf(Number(0.001, 1000.0)),
        "Shares of the engine's tokens by the names of clients' certificates, while several have work; 1 for others.",
        default=MappingProxyType({}),
    )
    telemetry: TelemetrySpec | None = None
    """Where calls are reported to OpenTelemetry; by default nowhere."""
    sealed: Path | None = None
    """A folder of sealing keys (`hybrid-llm certs seal-key`); with it the node takes sealed requests."""
    only_sealed: bool = False
    """Refuse requests that are not sealed."""
    rights: RightsSource | None = None
    """Who may do what, and with which weight; without it every authenticated client may do everything."""
    quotas: DatabaseAddress | None = None
    """A file or a PostgreSQL database that remembers what of the quotas is used; without it a restart forgets."""
    metrics: str | None = None
    """`HOST:PORT` at which Prometheus reads the node's metrics; by default nowhere."""
    audit: AuditSpec | None = None
    """The node's audit log; by default none."""

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.rights is not None and self.weights:
            raise ConfigError("weights come from the rights file where there is one: move them there")


class NodeServer:
    """Serves one model. *engine* defaults to the one that `config.engine` names, *tokenizer* to the model folder's."""

    def __init__(
        self, config: NodeConfig, engine: Engine | None = None, *, tokenizer: ChatTokenizer | None = None
    ) -> None:
        self._config = config
        self._engine = engine
        self._tokenizer = tokenizer
        self._listener: _Listener | None = None
        self._rights: NodeRights | None = None
        self._observers: Observers | None = None

    async def start(self) -> int:
        """Listen, then load the model; returns the port. Calls that arrive earlier get `BackendUnavailable`.

        Raises:
            ConfigError: the certificates, the address, the model folder or the telemetry is unusable; the message says
                what to do.
            UntrustedModel: the model is not what a trusted signer signed.
            EngineDied: the engine crashed while it loaded.
        """
        if not require_tls13():
            _log.warning("gRPC was imported before the node: TLS 1.2 is refused per call, not in the handshake")
        config = self._config.engine
        if config.trust is not None:  # before anything of it is read; the engine's process verifies at each start too
            await asyncio.to_thread(verify_signatures, config.model, config.trust, config.adapters.values())
        if self._tokenizer is None:
            template = self._config.chat_template
            self._tokenizer = await asyncio.to_thread(ChatTokenizer.load, config.model, template)
        if self._engine is None:
            self._engine = ENGINES.get(config.engine)(config, on_progress=lambda _: None)
        engine = self._engine
        try:
            self._observers = self._observe(engine)
            self._rights = _open_rights(self._config)
            self._listener = _Listener(self._config, engine, self._tokenizer, self._rights, self._observers)
            await self._listener.open()
            await engine.start()
            await self._listener.update_health()
        except BaseException:
            await self.stop(0.0)
            raise
        _log.info("serving on port %d", self._listener.port)
        return self._listener.port

    async def stop(self, grace: float = 10.0) -> None:
        """Refuse new calls, let running ones finish within *grace* seconds, then close the engine. Idempotent."""
        listener, self._listener = self._listener, None
        try:
            if listener is not None:
                await listener.close(grace)
        finally:
            if self._engine is not None:
                await self._engine.close()
            if self._rights is not None:
                await asyncio.to_thread(self._rights.close)
            if self._observers is not None:
                await asyncio.to_thread(self._observers.close)

    def _observe(self, engine: Engine) -> Observers:
        config, tls = self._config, self._config.tls
        return Observers.open(
            engine,
            telemetry=config.telemetry,
            metrics=config.metrics,
            audit=config.audit,
            version=_version(),
            expiries=lambda: expiries(cert=tls.cert, ca=tls.ca, crl=tls.crl, sealing=config.sealed),
            quota_failures=lambda: 0 if self._rights is None else self._rights.quota_failures,
        )

    def reload(self) -> None:
        """Load the rights file and the sealing keys if they changed, and check the certificate files.

        It logs whether the next handshake uses them. No call is interrupted.
        """
        if self._rights is not None:
            self._rights.reload()
        try:
            found = check_pair(self._config.tls, "node")
        except ConfigError as error:
            _log.error("reload: new connections use the last certificates that were good: %s", error)
        else:
            until = f"{found.not_after:%Y-%m-%d %H:%M} UTC"
            _log.info("reload: new connections use %s, valid until %s", self._config.tls.cert, until)
        if self._listener is not None:
            self._listener.sealing.reload()

    async def serve_forever(self, *, grace: float = 10.0, on_ready: Callable[[int], None] | None = None) -> None:
        """Start, and serve until SIGTERM or SIGINT; a second one ends the grace period. SIGHUP is `reload`.

        Args:
            grace: Seconds that running calls have to finish.
            on_ready: Called with the port once the model is loaded.
        """
        loop = asyncio.get_running_loop()
        signals: asyncio.Queue[None] = asyncio.Queue()
        for number in _SIGNALS:
            loop.add_signal_handler(number, signals.put_nowait, None)
        if _RELOAD is not None:
            loop.add_signal_handler(_RELOAD, self.reload)
        try:
            await self._serve_until(signals, on_ready or (lambda _: None))
            await self._stop_or_hurry(signals, grace)
        finally:
            for number in (*_SIGNALS, *filter(None, (_RELOAD,))):
                loop.remove_signal_handler(number)
            await self.stop(0.0)

    async def _serve_until(self, signals: asyncio.Queue[None], on_ready: Callable[[int], None]) -> None:
        starting, signalled = asyncio.create_task(self.start()), asyncio.create_task(signals.get())
        try:
            await asyncio.wait({starting, signalled}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                on_ready(starting.result())
                await signalled
        finally:
            starting.cancel()
            signalled.cancel()
            await asyncio.wait({starting, signalled})

    async def _stop_or_hurry(self, signals: asyncio.Queue[None], grace: float) -> None:
        listener = self._listener  # `stop` clears the attribute; a second close with less grace shortens the first
        stopping, hurry = asyncio.create_task(self.stop(grace)), asyncio.create_task(signals.get())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if listener is not None and not stopping.done():
            await listener.close(0.0)
        hurry.cancel()
        await stopping


class _Listener:
    """The `grpc.aio` server with the service, health and reflection. The engine may still be loading."""

    def __init__(
        self,
        config: NodeConfig,
        engine: Engine,
        tokenizer: ChatTokenizer,
        rights: NodeRights,
        observers: Observers,
    ) -> None:
        """Bind the port; ConfigError if the certificates or the address are unusable."""
        from grpc_health.v1 import health

        from hybrid_llm.backends.node.identity import IdentityInterceptor, OneLine
        from hybrid_llm.backends.node.requests import Admission
        from hybrid_llm.backends.node.revoked import RevokedPeers
        from hybrid_llm.backends.node.sealing import Sealing
        from hybrid_llm.backends.node.servicer import NodeServicer
        from hybrid_llm.backends.wire.channels import server_credentials
        from hybrid_llm.protos import hybrid_pb2 as pb

        self._engine = engine
        self._service: str = pb.DESCRIPTOR.services_by_name["HybridLLM"].full_name
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined] # the stubs lack it
        self._watch: asyncio.Task[None] | None = None
        credentials = server_credentials(config.tls)
        self._revoked = RevokedPeers(config.tls)
        logging.getLogger("grpc._cython.cygrpc").addFilter(OneLine())
        intake = Intake(config.intake, max_message_bytes=config.max_message_bytes)
        admission = Admission(max_queue=config.max_queue, client_share=config.intake.client_share)
        self.sealing: Final = Sealing(config.sealed, required=config.only_sealed)
        self._servicer = NodeServicer(
            engine, tokenizer, admission, intake,
            max_deadline=config.max_deadline, version=_version(), observers=observers, sealing=self.sealing,
        )  # fmt: skip
        self._server = _server(config, IdentityInterceptor(intake, rights, self._revoked, self._servicer.refused))
        register(self._server, self._servicer, self._health)
        self.port: Final = _bind(self._server, Address.parse(config.listen, lowest_port=0), credentials)

    async def open(self) -> None:
        """Accept calls. Health reports NOT_SERVING until the engine is healthy."""
        await self.update_health()
        await self._server.start()
        self._watch = asyncio.create_task(self._watch_health())

    async def close(self, grace: float) -> None:
        """Refuse new calls and give running ones *grace* seconds. A second call with less grace shortens it."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        self._servicer.stopping = True
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)

    async def update_health(self) -> None:
        """Report the engine's health now instead of at the next interval."""
        from grpc_health.v1.health_pb2 import HealthCheckResponse

        status = HealthCheckResponse.SERVING if self._engine.healthy else HealthCheckResponse.NOT_SERVING
        for service in ("", self._service):
            await self._health.set(service, status)

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL_S)
            self._revoked.look()
            await self.update_health()


def _server(config: NodeConfig, interceptor: grpc.aio.ServerInterceptor[Any, Any]) -> grpc.aio.Server:
    import grpc.aio

    from hybrid_llm.backends.wire.channels import server_options

    options = server_options(
        max_message_bytes=config.max_message_bytes,
        max_connection_age=config.max_connection_age,
        max_connections=config.intake.max_connections,
        max_streams=config.intake.max_streams,
    )
    return grpc.aio.server(interceptors=(interceptor,), options=options)


def register(server: Any, servicer: NodeServicer, health_servicer: Any) -> None:
    """Add every service of a node to *server*."""
    from grpc_health.v1 import health, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    from hybrid_llm.protos import hybrid_pb2 as pb
    from hybrid_llm.protos.hybrid_pb2_grpc import add_HybridLLMServicer_to_server

    add_HybridLLMServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    service = pb.DESCRIPTOR.services_by_name["HybridLLM"].full_name
    reflection.enable_server_reflection((service, health.SERVICE_NAME, reflection.SERVICE_NAME), server)


def _open_rights(config: NodeConfig) -> NodeRights:
    """What lets calls in. Raises ConfigError if the file of quotas cannot be used."""
    from hybrid_llm.backends.node.rights import NodeRights

    if config.rights is None:
        return NodeRights(weights=config.weights)
    quotas = Quotas(open_counters(config.quotas))
    rights = NodeRights(Gate(config.rights, quotas, backend="node"))
    rights.start()
    return rights


def _bind(server: grpc.aio.Server, address: Address, credentials: grpc.ServerCredentials) -> int:
    _check_free(address)
    try:
        return server.add_secure_port(str(address), credentials)
    except RuntimeError:
        raise ConfigError(f"cannot listen on {address}: another program has just taken it") from None


def _check_free(address: Address) -> None:
    """Try the port with a plain socket first: gRPC reports only that it failed, not why."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
    except socket.gaierror:
        raise ConfigError(f"cannot listen on {address}: {address.host} does not resolve") from None
    except OSError as error:
        cause = _CAUSES.get(error.errno or 0, error.strerror)
        raise ConfigError(f"cannot listen on {address}: {cause}") from None


def _version() -> str:
    try:
        return version("hybrid-llm")
    except PackageNotFoundError:
        return "unknown"

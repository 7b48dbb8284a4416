"""Runs the application of a gateway until SIGTERM or Ctrl-C; answers that are running then are given some time."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

import uvicorn

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import Stamp, stamp_of
from hybrid_llm.gateway.app import app_of
from hybrid_llm.gateway.connection import Connection
from hybrid_llm.gateway.gateway import Gateway
from hybrid_llm.gateway.managed import Managed
from hybrid_llm.gateway.quiet import QuietServer, listener
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config.gateway import GatewayConfig, TlsFiles
from hybrid_llm.router.observability.prometheus import PrometheusMetrics

_log = logging.getLogger("hybrid_llm.gateway")
_BACKLOG: Final = 2048
_TICK_S: Final = 0.1
_TICKS_OF_TLS: Final = 10
"""Ticks of uvicorn's server, each 0.1 s, between two looks at the files of a certificate."""
_KEEP_ALIVE_S: Final = 75


class GatewayServer:
    """A gateway that listens.

    Args:
        client: What answers; it is closed at the end.
        config: Where to listen, and for whom.
        metrics: Counts the requests of *client*; served under `/metrics`.
        managed: The platform that runs it as an endpoint and authenticates its callers, if one does.

    Raises:
        ConfigError: the keys or the certificate cannot be used, or it cannot listen there.
    """

    def __init__(
        self,
        client: HybridLLM,
        config: GatewayConfig,
        *,
        metrics: PrometheusMetrics | None = None,
        managed: Managed | None = None,
    ) -> None:
        gateway = Gateway(client, config, behind_platform=managed is not None)
        tls = None if config.tls is None else Tls(config.tls)
        self._listener = listener(*config.address, option="--listen")
        self._server = _Server(
            uvicorn.Config(
                app_of(gateway, metrics, managed),
                http=partial(Connection, config.read_timeout_s),  # type: ignore[arg-type]  # it is only called
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                backlog=_BACKLOG,
                limit_concurrency=config.connections,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(config.grace_s)),
            ),
            gateway,
            tls,
        )

    @property
    def port(self) -> int:
        """The port on which it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    async def serve(self, on_ready: Callable[[], None]) -> None:
        """Answer until SIGTERM, SIGINT or `stop`; *on_ready* is called once requests are answered."""
        self._server.on_ready = on_ready
        await self._server.serve(sockets=[self._listener])

    def stop(self) -> None:
        """End `serve`, from any thread: running answers are given the grace."""
        self._server.should_exit = True


class Tls:
    """The certificate of a gateway. Files that are replaced hold for the connections from then on.

    Raises:
        ConfigError: they cannot be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._read = self._changed()
        try:
            self._load()
        except (OSError, ssl.SSLError) as error:
            fault = f"{files.cert}, {files.key}: no certificate with its key ({error.strerror or 'unreadable'})"
        else:
            return
        raise ConfigError(fault)

    def refresh(self) -> None:
        """Load the files if they have changed; those that cannot be used are left, with a warning."""
        try:
            changed = self._changed()
            if changed != self._read:
                self._read = changed
                self._load()
        except (OSError, ssl.SSLError):
            _log.warning("%s: it cannot be used; the certificate before it stays", self._files.cert)

    def _load(self) -> None:
        self.context.load_cert_chain(self._files.cert, self._files.key)

    def _changed(self) -> tuple[Stamp | None, ...]:
        return stamp_of(self._files.cert), stamp_of(self._files.key)


class _Server(QuietServer):
    """Renews its certificate, and drains before it ends."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, tls: Tls | None) -> None:
        super().__init__(config)
        config.load()
        self._gateway, self._tls = gateway, tls
        if tls is not None:
            config.ssl = tls.context

    async def on_tick(self, counter: int) -> bool:
        """Look for a new certificate."""
        if self._tls is not None and counter % _TICKS_OF_TLS == 0:
            self._tls.refresh()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on while load balancers leave; then answer nothing new, and let running answers end."""
        self._gateway.draining = True
        for _ in range(round(self._gateway.config.drain_s / _TICK_S)):
            if self.force_exit:
                break
            await asyncio.sleep(_TICK_S)
        self._gateway.stopping = True
        await super().shutdown(sockets)

"""Runs the application of a gateway until SIGTERM or Ctrl-C; answers that are running then are given some time."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import uvicorn

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.gateway.app import gateway_app
from hybrid_llm.gateway.config import GatewayConfig
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.prometheus import PrometheusMetrics

_BACKLOG: Final = 2048
_KEEP_ALIVE_S: Final = 75


class GatewayServer:
    """A gateway that listens.

    Args:
        client: What answers; it is closed at the end.
        config: Where to listen, and for whom.
        metrics: Counts the requests of *client*; served under `/metrics`.
        grace: Seconds that running answers are given at the end.

    Raises:
        ConfigError: the keys cannot be used, or it cannot listen there.
    """

    def __init__(
        self,
        client: HybridLLM,
        config: GatewayConfig,
        *,
        metrics: PrometheusMetrics | None = None,
        grace: float = 10.0,
    ) -> None:
        logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
        app = gateway_app(client, config, metrics=metrics)
        self._listener = _listener(config)
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                backlog=_BACKLOG,
                limit_concurrency=config.connections,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(grace)),
            )
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


class _Server(uvicorn.Server):
    """Tells when it is ready; a signal ends it, and is no error."""

    on_ready: Callable[[], None]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signature of the base class
        """Let running answers finish; a second signal, of either kind, stops them."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End at SIGTERM and SIGINT; the method of the base class raises the signal again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            self.on_ready()


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """What is stopped at the end is no error: uvicorn logs the traceback of each answer, and of the application."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and not record.getMessage().rstrip().endswith("CancelledError")


def _listener(config: GatewayConfig) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(*config.address, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"{config.listen}: {error.strerror}; choose another address with --listen") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{config.listen}: {error.strerror}; choose another port with --listen") from None
    return listener

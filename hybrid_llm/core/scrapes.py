"""Serves a registry of Prometheus metrics over HTTP, for clients and nodes alike."""

from __future__ import annotations

import os
import socket
import threading
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from hybrid_llm.core.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_TIMEOUT_S: Final = 5.0


class _Handler(WSGIRequestHandler):
    """Drops slow clients, and logs nothing."""

    timeout = _TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is that of `http.server`
        """Scrapes are not logged."""


class _Server(ThreadingMixIn, WSGIServer):
    """One thread per scrape. Unlike `http.server` it does not look up its own host name."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()


class MetricsServer:
    """Serves *registry* at `http://HOST:PORT/metrics`, in a thread of its own, until it is closed.

    Args:
        host: The address to listen on.
        port: The port; 0 chooses a free one.
        registry: What is served.
        plain: Whether it is served in the plain text format only. prometheus_client writes names with a colon, such as
            `vllm:num_requests_waiting`, with an underscore into OpenMetrics, which a Prometheus asks for first.

    Raises:
        ConfigError: the address is in use or invalid.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, *, plain: bool = False) -> None:
        from prometheus_client import make_wsgi_app

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._server = type("Server", (_Server,), {"address_family": family})((host, port), _Handler)
        except OSError as error:
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            remedy = "give each process an address of its own, or stop what listens there"
            raise ConfigError(f"metrics cannot listen on {where}: {error.strerror or error}; {remedy}") from None
        app = make_wsgi_app(registry)

        def plainly(environ: dict[str, Any], start: Any) -> Any:
            return app({**environ, "HTTP_ACCEPT": "text/plain"}, start)

        self._server.set_app(plainly if plain else app)
        self.port: Final = int(self._server.server_port)
        run = self._server.serve_forever
        self._thread = threading.Thread(target=run, args=(0.1,), name="hybrid-llm-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_TIMEOUT_S)

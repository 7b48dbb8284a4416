"""A small HTTP server for one registry, on the address that it is given. It knows no metrics."""

from __future__ import annotations

import os
import socket
import threading
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from hybrid_llm.router.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["MetricsServer"]

_PATIENCE_S: Final = 5.0


class _Handler(WSGIRequestHandler):
    """Says nothing, and waits for nobody."""

    timeout = _PATIENCE_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is that of `http.server`
        """A scrape is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """One thread for each scrape. Unlike `http.server` it asks no name server who we are."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()


class MetricsServer:
    """Serves *registry* in the form that the asker prefers, until it is closed.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        from prometheus_client import make_wsgi_app

        try:
            self._server = _Server(host, port)
        except OSError as error:
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            remedy = "give each process an address of its own, or stop what listens there"
            raise ConfigError(f"metrics cannot listen on {where}: {error.strerror or error}; {remedy}") from None
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="hybrid-llm-metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.server_port

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_PATIENCE_S)

"""A hook that counts requests for Prometheus and exports its client's status at each scrape, and its HTTP server.

It sees events, which hold no text, and exports names of backends, nodes and error classes, numbers and times.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Final, Self
from weakref import WeakMethod
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.router.observability.hooks import ClientStatus, RequestEvent
from hybrid_llm.router.observability.metrics import Counts, families

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric


_log = logging.getLogger("hybrid_llm.metrics")
_TIMEOUT_S: Final = 5.0


class _Handler(WSGIRequestHandler):
    """Drops slow clients, and logs nothing."""

    timeout = _TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is that of `http.server`
        """Scrapes are not logged."""


class _Server(ThreadingMixIn, WSGIServer):
    """Serves *registry*, one thread per scrape. Unlike `http.server` it does not look up its own host name."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        from prometheus_client import make_wsgi_app

        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)
        self.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="hybrid-llm-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(_TIMEOUT_S)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()


class PrometheusMetrics:
    """Metrics of one client: `HybridLLM(..., hooks=[PrometheusMetrics()])`.

    By default they are in `prometheus_client.REGISTRY`, which the app may already serve. An app that serves no metrics
    calls `serve`, or writes `metrics: {listen: "127.0.0.1:9464"}` in its `hybrid.yaml`.

    Args:
        registry: The registry for the metrics; default: that of the process.

    Raises:
        ConfigError: prometheus_client is not installed, or the registry already has these metrics.
    """

    def __init__(self, *, registry: CollectorRegistry | None = None) -> None:
        self._registry = _default_registry() if registry is None else registry
        try:
            self._counts = Counts(self._registry)
        except ValueError:
            remedy = "reuse that PrometheusMetrics, or pass registry=CollectorRegistry() for each client"
            raise ConfigError(f"this registry already has the metrics of a client: {remedy}") from None
        self._registry.register(self)
        self._status: WeakMethod[Callable[[], ClientStatus]] | None = None
        self._server: _Server | None = None
        self._lock = threading.Lock()

    @classmethod
    def alone(cls) -> Self:
        """Metrics in a registry of their own, for `serve`. Raises as above."""
        _default_registry()
        from prometheus_client import CollectorRegistry

        return cls(registry=CollectorRegistry())

    def __call__(self, event: RequestEvent) -> None:
        """Count one request."""
        self._counts.take(event)

    def attach(self, status: Callable[[], ClientStatus]) -> None:
        """Export the status of this client. Raises ConfigError if there is another one."""
        with self._lock:
            if self._status is not None and self._status() not in (None, status):
                raise ConfigError("PrometheusMetrics serves one client; create one with its own registry for each")
            self._status = WeakMethod(status)  # a registry must not keep a client alive

    def detach(self, status: Callable[[], ClientStatus]) -> None:  # noqa: ARG002  # there is one
        """Stop the server and the gauges, but not the counters: the client is closed."""
        with self._lock:
            self._status = None
        self.close()

    def describe(self) -> Iterable[Metric]:
        """Declare nothing, so that registering does not read the status."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The gauges of the client's status; none if it cannot be read, which does not affect the counters."""
        status = self._status() if self._status is not None else None
        if status is None:
            return []
        try:
            return list(families(status()))
        except Exception as error:  # noqa: BLE001  # half a scrape is better than none
            _log.warning("the gauges are missing from a scrape: %s", type(error).__name__)
            return []

    def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics in the format that *accept*, a header, asks for, and its content type."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def serve(self, host: str = "127.0.0.1", port: int = 9464) -> int:
        """Serve the registry over HTTP until the client is closed.

        Args:
            host: The address to listen on.
            port: The port; 0 chooses a free one.

        Returns:
            The port.

        Raises:
            ConfigError: the address is in use or invalid.
        """
        self.close()
        try:
            server = _Server(host, port, self._registry)
        except OSError as error:
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            remedy = "give each process an address of its own, or stop what listens there"
            raise ConfigError(f"metrics cannot listen on {where}: {error.strerror or error}; {remedy}") from None
        with self._lock:
            self._server = server
        return server.server_port

    def close(self) -> None:
        """Stop serving. Idempotent."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.close()


def _default_registry() -> CollectorRegistry:
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        raise ConfigError(f"metrics need prometheus_client: {install_hint('metrics')}") from None
    return REGISTRY

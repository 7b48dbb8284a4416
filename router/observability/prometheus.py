"""A small HTTP server for one registry, on the address that it is given. It knows no metrics.

A hook that counts requests for Prometheus, and shows how its client stands whenever it is scraped.

It sees events, which hold no text, and writes down names of backends, nodes and error classes, numbers and times.
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
from hybrid_llm.router.observability.hooks import ClientStatus, RequestEvent
from hybrid_llm.router.observability.metrics import Counts, families

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric


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


_log = logging.getLogger("hybrid_llm.metrics")


class PrometheusMetrics:
    """Metrics of one client: `HybridLLM(..., hooks=[PrometheusMetrics()])`.

    They join those of the app in `prometheus_client.REGISTRY`, so that whatever serves these serves them too. An app
    that serves none calls `serve`, or writes `metrics: {listen: "127.0.0.1:9464"}` in its `hybrid.yaml`.

    Args:
        registry: Where they are kept; by default the registry of the process.

    Raises:
        ConfigError: prometheus_client is not installed, or the registry has these metrics already.
    """

    def __init__(self, *, registry: CollectorRegistry | None = None) -> None:
        self._registry = _default_registry() if registry is None else registry
        try:
            self._counts = Counts(self._registry)
        except ValueError:
            remedy = "use the one PrometheusMetrics again, or give each client registry=CollectorRegistry()"
            raise ConfigError(f"this registry has the metrics of a client already: {remedy}") from None
        self._registry.register(self)
        self._look: WeakMethod[Callable[[], ClientStatus]] | None = None
        self._server: MetricsServer | None = None
        self._lock = threading.Lock()

    @classmethod
    def alone(cls) -> Self:
        """In a registry of its own, to `serve`; errors as above."""
        _default_registry()
        from prometheus_client import CollectorRegistry

        return cls(registry=CollectorRegistry())

    def __call__(self, event: RequestEvent) -> None:
        """Count one request."""
        self._counts.take(event)

    def attach(self, look: Callable[[], ClientStatus]) -> None:
        """Its client begins; ConfigError while it has another one."""
        with self._lock:
            if self._look is not None and self._look() not in (None, look):
                raise ConfigError("PrometheusMetrics is the hook of one client; give each its own, with its registry")
            self._look = WeakMethod(look)

    def detach(self, look: Callable[[], ClientStatus]) -> None:  # noqa: ARG002  # there is one
        """Its client is closed: what is counted stays, what was live goes, and the server stops."""
        with self._lock:
            self._look = None
        self.close()

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before somebody asks; that keeps registering quick."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """How the client stands now. Where that cannot be told, the counters are told still."""
        look = self._look() if self._look is not None else None
        if look is None:
            return []
        try:
            return list(families(look()))
        except Exception as error:  # noqa: BLE001  # half a scrape is better than none
            _log.warning("live metrics are left out: %s", type(error).__name__)
            return []

    def serve(self, host: str = "127.0.0.1", port: int = 9464) -> int:
        """Serve the registry over HTTP until the client is closed; the port, which is chosen where *port* is 0.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        self.close()
        server = MetricsServer(host, port, self._registry)
        with self._lock:
            self._server = server
        return server.port

    def close(self) -> None:
        """Stop serving. Twice is once."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.close()


def _default_registry() -> CollectorRegistry:
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        raise ConfigError("metrics need prometheus_client: pip install 'hybrid-llm[metrics]'") from None
    return REGISTRY

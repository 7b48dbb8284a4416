"""A hook that counts requests for Prometheus and exports its client's status at each scrape, and its HTTP server.

It sees events, which hold no text, and exports names of backends, nodes and error classes, numbers and times.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self
from weakref import WeakMethod

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.scrapes import MetricsServer
from hybrid_llm.router.observability.hooks import ClientStatus, Refusal, RequestEvent, ServerStatus
from hybrid_llm.router.observability.metrics import Counts, families, server_families

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric


_log = logging.getLogger("hybrid_llm.metrics")


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
        self._server_status: Callable[[], ServerStatus] = ServerStatus
        self._server: MetricsServer | None = None
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

    def refused(self, refusal: Refusal) -> None:
        """Count one request that a gateway refused."""
        self._counts.refused(refusal.code).inc()

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

    def observe(self, server: Callable[[], ServerStatus]) -> None:
        """Export the status of the *server* before the client, too."""
        self._server_status = server

    def describe(self) -> Iterable[Metric]:
        """Declare nothing, so that registering does not read the status."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The gauges of the client's status; none if it cannot be read, which does not affect the counters."""
        status = self._status() if self._status is not None else None
        if status is None:
            return []
        try:
            now = status()
            return [*families(now), *server_families(self._server_status(), now.expiries)]
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
        server = MetricsServer(host, port, self._registry)
        with self._lock:
            self._server = server
        return server.port

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

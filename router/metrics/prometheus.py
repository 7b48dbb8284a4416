"""A hook that counts requests for Prometheus, and shows how its client stands whenever it is scraped.

It sees events, which hold no text, and writes down names of backends, nodes and error classes, numbers and times.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self
from weakref import WeakMethod

from hybrid_llm.router.errors import ConfigError
from hybrid_llm.router.hooks import RequestEvent
from hybrid_llm.router.metrics.counts import Counts
from hybrid_llm.router.metrics.live import families
from hybrid_llm.router.metrics.server import MetricsServer
from hybrid_llm.router.vitals import Vitals

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

__all__ = ["PrometheusMetrics"]

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
        self._look: WeakMethod[Callable[[], Vitals]] | None = None
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

    def attach(self, look: Callable[[], Vitals]) -> None:
        """Its client begins; ConfigError while it has another one."""
        with self._lock:
            if self._look is not None and self._look() not in (None, look):
                raise ConfigError("PrometheusMetrics is the hook of one client; give each its own, with its registry")
            self._look = WeakMethod(look)

    def detach(self, look: Callable[[], Vitals]) -> None:  # noqa: ARG002  # there is one
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

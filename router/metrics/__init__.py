"""Metrics of a client for Prometheus: a hook that counts, and what is read when it is asked. It takes no text."""

from hybrid_llm.router.metrics.prometheus import PrometheusMetrics

__all__ = ["PrometheusMetrics"]

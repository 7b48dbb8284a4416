"""A node's metrics for Prometheus: under the names that endpoint pickers and autoscalers read, and under our own.

The names that begin with `vllm:` are those of vLLM (https://docs.vllm.ai/en/stable/usage/metrics/), which the endpoint
pickers of the Gateway API inference extension, llm-d and KEDA's recipes scrape. There is nothing in the metrics that a
client has written: no tenant, no identity and no id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import starmap
from typing import TYPE_CHECKING, Final

from hybrid_llm.backends.node.engine import KV_BLOCK
from hybrid_llm.backends.node.telemetry import OK, CallReport
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.scrapes import MetricsServer
from hybrid_llm.core.tracebacks import guarded

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram, Metric

    from hybrid_llm.backends.node.engine import Engine

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
_TOKEN_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What a scrape reads beside the engine."""

    audit_lost: int = 0
    """Audit records that could not be written."""
    quota_failures: int = 0
    """Requests for which the quotas could not be read or written."""
    expiries: Mapping[str, float] = field(default_factory=dict)
    """What expires, such as `certificate` -> seconds since 1970."""


class NodeMetrics:
    """The metrics of one node, in a registry of their own.

    Raises:
        ConfigError: prometheus_client is not installed.
    """

    def __init__(self, engine: Engine, status: Callable[[], NodeStatus] = NodeStatus) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Histogram
        except ImportError:
            raise ConfigError(f"metrics need prometheus_client: {install_hint('metrics')}") from None
        self._engine = engine
        self._status = status
        self._registry = CollectorRegistry()
        self._server: MetricsServer | None = None

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(name, about, labels, registry=self._registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, ["model_name"], buckets=buckets, registry=self._registry)

        by = "model_name"
        self._prompt = counter("vllm:prompt_tokens", "Tokens of prompts.", by)
        self._generated = counter("vllm:generation_tokens", "Tokens of answers.", by)
        self._queried = counter("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache.", by)
        self._hits = counter("vllm:prefix_cache_hits", "Tokens found in the prefix cache.", by)
        self._ended = counter("vllm:request_success", "Answers by finish reason.", by, "finished_reason")
        self._calls = counter("hybrid_llm_node_calls", "Calls that are over, by outcome.", by, "outcome")
        self._first = histogram("vllm:time_to_first_token_seconds", "Time to the first token.", _SECONDS)
        self._token = histogram("vllm:inter_token_latency_seconds", "Mean time per further token, by call.", _TOKEN_S)
        self._whole = histogram("vllm:e2e_request_latency_seconds", "Duration of a whole answer.", _SECONDS)
        self._queue = histogram("vllm:request_queue_time_seconds", "Time that a request waited for a slot.", _SECONDS)
        self._registry.register(self)

    def serve(self, host: str, port: int) -> int:
        """Serve the metrics at `http://HOST:PORT/metrics`; returns the port. ConfigError if that cannot be."""
        self._server = MetricsServer(host, port, self._registry, plain=True)
        return self._server.port

    def take(self, call: CallReport) -> None:
        """Count *call*, which is over now."""
        model, answer = call.model, call.answer
        self._calls.labels(model, call.outcome).inc()
        if answer is None:
            return
        self._prompt.labels(model).inc(call.prompt_tokens)
        self._queried.labels(model).inc(call.prompt_tokens)
        self._hits.labels(model).inc(answer.cached_tokens)
        self._generated.labels(model).inc(answer.tokens)
        if call.outcome != OK:
            return
        timings = answer.timings()
        self._ended.labels(model, str(answer.finish_reason or "")).inc()
        self._first.labels(model).observe(timings.ttft_ms / 1e3)
        self._queue.labels(model).observe(timings.queue_ms / 1e3)
        self._whole.labels(model).observe(call.seconds)
        if answer.tokens > 1:
            self._token.labels(model).observe(timings.tpot_ms / 1e3)

    def describe(self) -> Iterable[Metric]:
        """Declare nothing, so that registering does not read the engine."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The gauges now; none if the engine cannot be read, which does not affect the counters."""
        return guarded(lambda: list(self._gauges()), "reading the gauges of a scrape") or []

    def close(self) -> None:
        """Stop serving. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _gauges(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        load, info, status = self._engine.load(), self._engine.info, self._status()
        model = info.model if info is not None else ""

        def gauge(name: str, about: str, value: float, **labels: str) -> GaugeMetricFamily:
            family = GaugeMetricFamily(name, about, labels=["model_name", *labels])
            family.add_metric([model, *labels.values()], value)
            return family

        used = load.kv_tokens_used / load.kv_tokens_total if load.kv_tokens_total else 0.0
        blocks = str(load.kv_tokens_total // KV_BLOCK)
        yield gauge("vllm:num_requests_running", "Requests that run.", load.active)
        yield gauge("vllm:num_requests_waiting", "Requests that wait for a slot or for KV cache.", load.waiting)
        yield gauge("vllm:kv_cache_usage_perc", "Share of the KV cache that running requests hold, 0 to 1.", used)
        config = {"block_size": str(KV_BLOCK), "num_gpu_blocks": blocks, "enable_prefix_caching": "True"}
        yield gauge("vllm:cache_config_info", "The KV cache.", 1, **config)
        adapters = {
            "max_lora": str(len(info.adapters) if info is not None else 0),
            "running_lora_adapters": ",".join(load.running_adapters),
            "waiting_lora_adapters": ",".join(load.waiting_adapters),
        }
        about = "LoRA adapters of the requests that run and wait; the value is the time, in seconds since 1970."
        yield gauge("vllm:lora_requests_info", about, time.time(), **adapters)
        yield gauge(
            "hybrid_llm_node_slots", "Requests that can run at once.", load.slots or (info.slots if info else 0)
        )
        yield gauge("hybrid_llm_node_ready", "1 while the engine can take requests.", float(self._engine.healthy))
        yield from starmap(gauge, _of_kind(self._engine))
        yield gauge("hybrid_llm_node_audit_lost", "Audit records that could not be written.", status.audit_lost)
        failures = "Requests for which the quotas could not be read or written."
        yield gauge("hybrid_llm_node_quota_failures", failures, status.quota_failures)
        about = "When it expires, or a revocation list is to be signed again, seconds since 1970."
        expiry = GaugeMetricFamily("hybrid_llm_node_expiry_timestamp_seconds", about, labels=["model_name", "what"])
        for what, instant in status.expiries.items():
            expiry.add_metric([model, what], instant)
        yield expiry


def _of_kind(engine: Engine) -> Iterator[tuple[str, str, float]]:
    """Names, descriptions and values of the gauges that not every engine has."""
    restarts = float(getattr(engine, "restarts", 0))
    yield "hybrid_llm_node_engine_restarts", "Restarts of the engine since the node started.", restarts
    if (replicas := getattr(engine, "replicas", None)) is not None:
        yield "hybrid_llm_node_replicas", "Replicas that can take requests.", float(replicas)
        about = "Requests that went on at another replica, since the node started."
        yield "hybrid_llm_node_continuations", about, float(getattr(engine, "continuations", 0))

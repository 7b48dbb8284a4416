"""The metrics themselves: counters and histograms of finished requests, and gauges of a client's status.

Names and buckets are those of OpenTelemetry's conventions for generative AI where they exist, in Prometheus form
(`gen-ai-metrics.md` in https://github.com/open-telemetry/semantic-conventions-genai); all others begin with
`hybrid_llm_`. Labels are names of backends, nodes and error classes, never taken from a request, so there are few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.core.savings import UNIT
from hybrid_llm.core.signals import BackendState, Breaker, EndpointHealth, EndpointState
from hybrid_llm.router.observability.hooks import ClientStatus, RequestEvent, ServerStatus

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram, Metric

_CLIENT_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Buckets of the client's times, seconds."""
_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Buckets of the time per output token, seconds."""
_TOKENS: Final = tuple(4.0**power for power in range(14))
"""Buckets of token counts, to 67,108,864."""
_OK: Final = "ok"
_OPERATION: Final = ("chat", "hybrid_llm")
"""`gen_ai.operation.name` and `gen_ai.provider.name`, which the conventions require."""
_GEN_AI: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "backend")


class _Series:
    """The children of a metric by their labels. Our own dict takes a third of the time of `Metric.labels`."""

    def __init__(self, metric: Counter | Histogram) -> None:
        self._metric = metric
        self._known: dict[tuple[str, ...], Any] = {}

    def __call__(self, *labels: str) -> Any:
        """The counter or histogram of these *labels*."""
        known = self._known.get(labels)
        if known is None:
            known = self._known[labels] = self._metric.labels(*labels)
        return known


class Counts:
    """The counters and histograms of one registry. Thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Raise ValueError if *registry* already has them."""
        from prometheus_client import Counter, Histogram

        def count(name: str, text: str, *labels: str) -> _Series:
            return _Series(Counter(f"hybrid_llm_{name}", text, labels, registry=registry))

        def spread(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> _Series:
            return _Series(Histogram(name, text, labels, buckets=buckets, registry=registry))

        self._requests = count("requests", "Finished requests.", "backend", "outcome")
        self.refused = count("refused", "Requests that the gateway refused before its client had them.", "code")
        self._attempts = count("attempts", "Calls of backends.", "backend", "outcome")
        self._hedges = count("hedges", "Calls that hedged a slow call.", "backend", "outcome")
        self._continuations = count("continuations", "Answers that broke off and were continued here.", "backend")
        self._fallbacks = count(
            "fallbacks", "Requests that another backend than the first answered.", "first", "backend"
        )
        self._excluded = count("excluded", "Decisions that excluded this backend.", "backend")
        self._cached = count("cached_answers", "Requests answered from the cache.", "backend")
        self._reused = count("cached_prompt_tokens", "Prompt tokens found in a prefix cache.", "backend")
        self._seconds = spread(
            "gen_ai_client_operation_duration_seconds", "Time of a request.", _CLIENT_S, *_GEN_AI, "error_type"
        )
        self._first = spread(
            "gen_ai_client_operation_time_to_first_chunk_seconds", "Time to the first token.", _CLIENT_S, *_GEN_AI
        )
        self._further = spread(
            "hybrid_llm_time_per_output_token_seconds", "Mean time per token after the first.", _TOKEN_S, "backend"
        )
        self._tokens = spread(
            "gen_ai_client_token_usage", "Tokens of prompts and answers.", _TOKENS, *_GEN_AI, "gen_ai_token_type"
        )

    def take(self, event: RequestEvent) -> None:
        """Count one request."""
        backend = event.backend
        self._requests(backend, event.error or _OK).inc()
        for name in event.decision.excluded:
            self._excluded(name).inc()
        if event.cached:
            self._cached(backend).inc()
            return
        self._take_attempts(event)
        if backend and backend != event.decision.order[0]:
            self._fallbacks(event.decision.order[0], backend).inc()
        self._take_times(event)
        if event.usage.completion_tokens:
            self._take_tokens(event)

    def _take_attempts(self, event: RequestEvent) -> None:
        for attempt in event.attempts:
            outcome = "cancelled" if attempt.error == "Cancelled" else attempt.error or _OK
            self._attempts(attempt.backend, outcome).inc()
            if attempt.hedge:
                self._hedges(attempt.backend, outcome).inc()
        for continuation in event.continuations:
            self._continuations(continuation.backend).inc()

    def _take_times(self, event: RequestEvent) -> None:
        """Seconds as the app sees them, with queueing, retries and fallbacks."""
        backend, timings = event.backend, event.timings
        self._seconds(*_OPERATION, backend, event.error).observe(timings.total_ms / 1e3)
        if timings.ttft_ms:
            self._first(*_OPERATION, backend).observe(timings.ttft_ms / 1e3)
        if timings.tpot_ms:
            self._further(backend).observe(timings.tpot_ms / 1e3)

    def _take_tokens(self, event: RequestEvent) -> None:
        backend, usage = event.backend, event.usage
        self._tokens(*_OPERATION, backend, "input").observe(usage.prompt_tokens)
        self._tokens(*_OPERATION, backend, "output").observe(usage.completion_tokens)
        if usage.cached_prompt_tokens:
            self._reused(backend).inc(usage.cached_prompt_tokens)


def _usable_nodes(state: BackendState) -> float:
    if not state.members:
        return float(state.ready)
    return float(sum(node.health.is_usable for node in state.members))


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1e3


_BACKEND: Final[Mapping[str, tuple[str, Callable[[BackendState], float | None]]]] = {
    "ready": ("1 if it can take a request now.", lambda state: float(state.ready)),
    "nodes": ("Usable nodes.", _usable_nodes),
    "active_requests": ("Requests in progress.", lambda state: state.active),
    "queued_requests": ("Requests that wait.", lambda state: state.queue),
    "load_ratio": ("Share of its slots in use; above 1 when requests wait.", lambda state: state.load),
    "rtt_seconds": ("Round-trip time without its own work.", lambda state: _seconds(state.rtt_ms)),
    "predicted_ttft_seconds": ("Expected time to first token of an empty prompt.", lambda s: s.predicted_ttft_ms / 1e3),
}
_NODE: Final[Mapping[str, tuple[str, Callable[[EndpointState], float | None]]]] = {
    "active_requests": ("Requests in progress.", lambda node: node.active),
    "queued_requests": ("Requests that wait there.", lambda node: node.queue),
    "load_ratio": ("Share of its slots in use, as it reported lately.", lambda node: node.load),
    "rtt_seconds": ("Round-trip time without its own work.", lambda node: _seconds(node.rtt_ms)),
    "ttft_seconds": ("Its average time to first token.", lambda node: _seconds(node.ttft_ms)),
}


def families(status: ClientStatus) -> Iterator[Metric]:
    """Every gauge of *status*. Absent values have no sample; a state is 1, and its alternatives are 0."""
    states = status.signals.backends.values()
    nodes = [(state.name, member) for state in states for member in state.members]
    breakers = [(state.name, "", state.breaker) for state in states]
    breakers += [(backend, node.address, node.breaker) for backend, node in nodes]
    yield _gauge(
        "breaker_state",
        "Circuit breakers of backends and of their nodes.",
        ("backend", "node", "state"),
        (((backend, node, one), breaker is one) for backend, node, breaker in breakers for one in Breaker),
    )
    for name, (text, read) in _BACKEND.items():
        yield _gauge(f"backend_{name}", text, ("backend",), (((state.name,), read(state)) for state in states))
    yield _gauge(
        "node_health",
        "Whether a node gets calls now.",
        ("backend", "node", "health"),
        (((backend, node.address, one), node.health is one) for backend, node in nodes for one in EndpointHealth),
    )
    for name, (text, read_node) in _NODE.items():
        values = (((backend, node.address), read_node(node)) for backend, node in nodes)
        yield _gauge(f"node_{name}", text, ("backend", "node"), values)
    yield from _of_client(status)


def server_families(status: ServerStatus, backends: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    """What a server before the client has beside it, with what expires of the client's *backends*."""
    all_ = ((name, what, at) for name, each in {**backends, "": status.expiries}.items() for what, at in each.items())
    yield _gauge(
        "expiry_timestamp_seconds",
        "When it expires, or a revocation list is to be signed again, seconds since 1970.",
        ("backend", "what"),
        (((name, what), instant) for name, what, instant in all_),
    )
    failures = "Requests for which the quotas could not be read or written."
    yield _gauge("quota_failures", failures, (), [((), status.quota_failures)])


def _gauge(
    name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float | None]]
) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"hybrid_llm_{name}", text, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, float(value))
    return family


def _of_client(status: ClientStatus) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, InfoMetricFamily

    left = (((name,), retries) for name, retries in status.retries_left.items())
    yield _gauge("retry_budget_left", "Retries and hedges that the retry budget would pay for now.", ("backend",), left)
    ttft_s, tpot_s = _seconds(status.objectives.ttft_ms), _seconds(status.objectives.tpot_ms)
    aims = ((("ttft",), ttft_s), (("tpot",), tpot_s), (("deadline",), status.objectives.deadline_s))
    yield _gauge("objective_seconds", "Objectives of the current policy.", ("objective",), aims)
    spent = CounterMetricFamily("hybrid_llm_spend", "What this client has spent.", labels=("backend", "currency"))
    for name, amount in status.spent.items():
        spent.add_metric((name, status.currency), amount)
    yield spent
    yield _gauge("audit_lost", "Audit records that could not be written.", (), [((), status.audit_lost)])
    yield from _of_cache(status)
    yield InfoMetricFamily(
        "hybrid_llm_policy", "The current policy.", {"policy": status.policy, "digest": status.digest}
    )
    models = InfoMetricFamily("hybrid_llm_backend", "The model of a backend.", labels=("backend", "location"))
    for state in status.signals.backends.values():
        models.add_metric((state.name, state.location), {"model": status.models.get(state.name, "")})
    yield models


def _of_cache(status: ClientStatus) -> Iterator[Metric]:
    """What the cache of answers was asked and has saved; nothing without one."""
    from prometheus_client.core import CounterMetricFamily

    if (saved := status.cache) is None:
        return
    outcomes = {"hit": saved.hits, "joined": saved.joined, "miss": saved.misses - saved.joined}
    tokens = {"input": saved.prompt_tokens, "output": saved.completion_tokens}
    for name, text, label, samples in (
        ("requests", "Requests that may be cached; joined: got an identical one's answer.", "outcome", outcomes),
        ("saved_tokens", "Tokens that no backend read or wrote again.", "gen_ai_token_type", tokens),
        ("saved_seconds", "Time that backends took for replayed answers.", "", {"": saved.ms / 1e3}),
        ("saved_spend", "What the tokens would have cost.", "currency", {status.currency: saved.spend / UNIT}),
    ):
        family = CounterMetricFamily(f"hybrid_llm_cache_{name}", text, labels=[label] if label else [])
        for value, number in samples.items():
            family.add_metric([value] if label else [], number)
        yield family

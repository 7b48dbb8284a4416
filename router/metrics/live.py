"""How a client stands now, as gauges: breakers, nodes, load, predictions, retry budgets, spending. No counting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from hybrid_llm.router.signals import BackendState, Breaker, NodeHealth, NodeState
from hybrid_llm.router.vitals import Vitals

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.core import GaugeMetricFamily

__all__ = ["families"]


def _askable(state: BackendState) -> float:
    if not state.members:
        return float(state.ready)
    return float(sum(node.health.can_be_asked for node in state.members))


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1e3


_BACKEND: Final[Mapping[str, tuple[str, Callable[[BackendState], float | None]]]] = {
    "ready": ("1 where it can take a request now.", lambda state: float(state.ready)),
    "nodes": ("Nodes that can be asked now.", _askable),
    "active_requests": ("Requests that it is working on.", lambda state: state.active),
    "queued_requests": ("Requests that wait.", lambda state: state.queue),
    "load_ratio": ("Share of its slots in use; above 1 when requests wait.", lambda state: state.load),
    "rtt_seconds": ("Round-trip time without its own work.", lambda state: _seconds(state.rtt_ms)),
    "predicted_ttft_seconds": ("Expected time to a first token, prompt empty.", lambda s: s.predicted_ttft_ms / 1e3),
}
_NODE: Final[Mapping[str, tuple[str, Callable[[NodeState], float | None]]]] = {
    "active_requests": ("Requests that it is working on.", lambda node: node.active),
    "queued_requests": ("Requests that wait there.", lambda node: node.queue),
    "load_ratio": ("Share of its slots in use, as it told lately.", lambda node: node.load),
    "rtt_seconds": ("Round-trip time without its own work.", lambda node: _seconds(node.rtt_ms)),
    "ttft_seconds": ("Its usual time to a first token.", lambda node: _seconds(node.ttft_ms)),
}


def families(vitals: Vitals) -> Iterator[Metric]:
    """Every gauge of one instant. What is absent has no sample; a state has 1, and the states that it is not have 0."""
    states = vitals.signals.backends.values()
    yield _breakers(states)
    yield from _of_backends(states)
    yield from _of_nodes(states)
    yield from _of_client(vitals)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"hybrid_llm_{name}", text, labels=labels)


def _breakers(states: Iterable[BackendState]) -> Metric:
    found = _gauge("breaker_state", "Circuit breakers; of a backend, and of its nodes.", "backend", "node", "state")
    for state in states:
        whole = ("", state.breaker)
        for node, breaker in (whole, *((member.address, member.breaker) for member in state.members)):
            for one in Breaker:
                found.add_metric((state.name, node, one.value), float(breaker is one))
    return found


def _of_backends(states: Iterable[BackendState]) -> Iterator[Metric]:
    for name, (text, read) in _BACKEND.items():
        found = _gauge(f"backend_{name}", text, "backend")
        for state in states:
            if (value := read(state)) is not None:
                found.add_metric((state.name,), value)
        yield found


def _of_nodes(states: Iterable[BackendState]) -> Iterator[Metric]:
    nodes = [(state.name, member) for state in states for member in state.members]
    health = _gauge("node_health", "Whether a node is asked now.", "backend", "node", "health")
    for backend, node in nodes:
        for one in NodeHealth:
            health.add_metric((backend, node.address, one.value), float(node.health is one))
    yield health
    for name, (text, read) in _NODE.items():
        found = _gauge(f"node_{name}", text, "backend", "node")
        for backend, node in nodes:
            if (value := read(node)) is not None:
                found.add_metric((backend, node.address), value)
        yield found


def _of_client(vitals: Vitals) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, InfoMetricFamily

    retries = _gauge("retry_budget_left", "Retries and rivals that would be paid for now.", "backend")
    for name, left in vitals.retries_left.items():
        retries.add_metric((name,), left)
    aims = _gauge("objective_seconds", "What the policy in force aims at.", "objective")
    objectives = vitals.objectives
    for name, value in (("ttft", _seconds(objectives.ttft_ms)), ("tpot", _seconds(objectives.tpot_ms))):
        if value is not None:
            aims.add_metric((name,), value)
    if objectives.deadline_s is not None:
        aims.add_metric(("deadline",), objectives.deadline_s)
    spent = CounterMetricFamily("hybrid_llm_spend", "What this client has spent.", labels=("backend", "currency"))
    for name, amount in vitals.spent.items():
        spent.add_metric((name, vitals.currency), amount)
    yield from (retries, aims, spent)
    yield InfoMetricFamily(
        "hybrid_llm_policy", "The policy in force.", {"policy": vitals.policy, "digest": vitals.digest}
    )
    models = InfoMetricFamily("hybrid_llm_backend", "The model of a backend.", labels=("backend", "location"))
    for state in vitals.signals.backends.values():
        models.add_metric((state.name, state.location.value), {"model": vitals.models.get(state.name, "")})
    yield models

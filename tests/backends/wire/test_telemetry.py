"""One trace from the app to the node: both report over OTLP to a collector, joined over mutual TLS."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from opentelemetry import baggage, context
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from hybrid_llm.backends.grpc import GrpcConfig
from hybrid_llm.backends.grpc.exchange import Exchange, NodeStats
from hybrid_llm.backends.node.engine import EngineFault
from hybrid_llm.core.clearance import Cleared, _make_cleared
from hybrid_llm.core.errors import BackendUnavailable, HybridLLMError
from hybrid_llm.core.health import HealthProbe
from hybrid_llm.core.latency import FirstTokenTimes
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.core.telemetry import TelemetrySpec
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.otel import OpenTelemetryHook
from hybrid_llm.router.signals import FixedSensors
from tests.otlp import Collector, values_of

POLICY = """\
version: 1
name: traced
rules: [{prefer: cloud, because: there is nothing else}]
resilience: {retries: 0}
"""
SECRET, ANSWER = "what Zw3f wrote", "Kq8v answered"


def reported(pki, tools, engine, ask) -> Collector:
    """What a client and its node report while *ask* uses the client."""
    with Collector() as collector:
        spec = TelemetrySpec(exporter="otlp", endpoint=collector.url)
        with tools.Node(pki.node, engine, telemetry=spec) as node:
            policy = parse_policy(POLICY, backends={"cloud": Location.CLOUD})
            hook = OpenTelemetryHook.owning(spec.open("app"))
            backend = tools.backend(node.target, pki.app)
            with HybridLLM([backend], policy, sensors=FixedSensors(), hooks=[hook]) as llm:
                ask(llm)
    return collector


def span(collector: Collector, name: str) -> Span:
    return next(found for _, found in collector.spans() if found.name == name)


def test_client_and_node_share_one_trace_over_mutual_tls(pki, tools):
    collector = reported(pki, tools, tools.FakeEngine(ANSWER), lambda llm: llm.generate(SECRET))
    call, node = span(collector, "call cloud"), span(collector, "hybrid_llm.v1.HybridLLM/Generate")
    assert node.parent_span_id == call.span_id
    assert len({found.trace_id for _, found in collector.spans()}) == 1
    services = {found.name: service for service, found in collector.spans()}
    assert services["chat"] == "app"
    assert services[node.name] == "hybrid-llm-node"
    assert (call.kind, node.kind) == (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER)
    assert call.start_time_unix_nano <= node.start_time_unix_nano <= node.end_time_unix_nano <= call.end_time_unix_nano
    values = values_of(node.attributes)
    assert (values["rpc.system.name"], values["rpc.status_code"]) == ("grpc", "OK")
    assert values["gen_ai.request.model"] == "fake-model"
    assert values["gen_ai.usage.output_tokens"] == len(ANSWER)
    assert values["gen_ai.response.finish_reasons"] == ["stop"]
    assert values_of(call.attributes)["server.address"] == "127.0.0.1"
    assert {name for service, name in collector.metrics() if service == "hybrid-llm-node"} == {
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
    }


def test_tasks_at_once_keep_their_traces_apart_up_to_the_node(pki, tools):
    async def many(llm: HybridLLM) -> None:
        async with llm:
            await asyncio.gather(*[llm.agenerate(SECRET) for _ in range(8)])

    collector = reported(pki, tools, tools.FakeEngine(ANSWER, slots=8), lambda llm: asyncio.run(many(llm)))
    spans = [found for _, found in collector.spans()]
    calls = {found.span_id: found.trace_id for found in spans if found.name == "call cloud"}
    nodes = {found.parent_span_id: found.trace_id for found in spans if found.kind == Span.SPAN_KIND_SERVER}
    assert len(set(calls.values())) == 8
    assert nodes == calls


def test_a_failure_shows_on_both_sides_without_its_text(pki, tools):
    def ask(llm: HybridLLM) -> None:
        with suppress(HybridLLMError):
            llm.generate(SECRET)

    engine = tools.FakeEngine(error=EngineFault(code="internal", message=SECRET))
    collector = reported(pki, tools, engine, ask)
    node, call = span(collector, "hybrid_llm.v1.HybridLLM/Generate"), span(collector, "call cloud")
    assert values_of(node.attributes)["error.type"] == "UNAVAILABLE"
    assert values_of(call.attributes)["error.type"] == BackendUnavailable.__name__
    assert values_of(call.attributes)["hybrid_llm.reason"] == "failed"
    assert {node.status.code, call.status.code} == {Status.STATUS_CODE_ERROR}
    assert {node.status.message, call.status.message} == {""}


def test_no_byte_that_is_reported_has_a_piece_of_prompt_or_answer(pki, tools):
    def ask(llm: HybridLLM) -> None:
        llm.generate(SECRET, tenant="Zw3f-tenant", session_id="Zw3f-session", request_id="Zw3f-id", task="Zw3f")
        with suppress(HybridLLMError):
            llm.generate(SECRET, stop=["Zw3f"], max_tokens=4096)  # does not fit

    collector = reported(pki, tools, tools.FakeEngine(ANSWER), ask)
    assert len(collector.spans()) == 12
    assert b"Zw3f" not in collector.everything
    assert b"Kq8v" not in collector.everything


def exchange() -> Exchange:
    stats = NodeStats(health=HealthProbe(failures=1, open_s=1.0), first_tokens=FirstTokenTimes())
    return Exchange(request(), GrpcConfig(target="localhost:1", tls=None), stats, lambda: None)


def request() -> Request:
    return Request(messages=(Message(role="user", content="hi"),))


def test_of_a_trace_only_traceparent_is_sent_and_only_in_its_own_form():
    cleared = _make_cleared(request(), Location.CLOUD)
    token = context.attach(baggage.set_baggage("user", "Zw3f"))
    try:
        for traceparent, keys in (
            ("", ["hybrid-llm-protocol"]),
            ("Zw3f", ["hybrid-llm-protocol"]),
            (f"00-{1:032x}-{1:016x}-01", ["hybrid-llm-protocol", "traceparent"]),
        ):
            call = exchange()
            call.payload(Cleared(request=cleared.request, clearance=cleared.clearance, traceparent=traceparent))
            assert [key for key, _ in call.metadata] == keys
            assert "Zw3f" not in str(call.metadata)
    finally:
        context.detach(token)

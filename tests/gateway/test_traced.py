"""A request over HTTP continues the trace of its caller, where that sends one."""

from __future__ import annotations

import httpx
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.otel import OpenTelemetryHook
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend
from tests.gateway.conftest import served

POLICY = "version: 1\nname: traced\nrules: [{prefer: edge, because: there is nothing else}]\n"
SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_over_http_continues_the_trace_that_it_names():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    policy = parse_policy(POLICY, backends={"edge": Location.EDGE})
    hook = OpenTelemetryHook(tracer_provider=provider)
    llm = HybridLLM([FakeBackend("edge", Location.EDGE)], policy, sensors=FixedSensors(), hooks=[hook])
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    with served(llm) as url, httpx.Client() as http:  # one connection: a trace must not leak into the next request
        for headers in ({"traceparent": SENT}, {}, {"traceparent": "nonsense"}):
            assert http.post(f"{url}/v1/chat/completions", json=body, headers=headers).status_code == 200
    parents = [span.parent for span in exporter.get_finished_spans() if span.name == "chat fake"]
    assert (parents[0].trace_id, parents[0].span_id) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
    assert parents[1:] == [None, None]

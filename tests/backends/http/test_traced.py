"""A server over HTTP gets the trace of a request as `traceparent`, and of other traces nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from hybrid_llm.backends.http.settings import HttpSettings
from hybrid_llm.core.request import Location
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.otel import OpenTelemetryHook
from tests.backends.http.server import WHOLE, events, head, scripted

CONFIG = """\
version: 1
policy: balanced
backends:
  cloud: {{kind: openai, base_url: "{url}", model: some-model}}
"""


@pytest.mark.parametrize("traced", [True, False])
def test_a_server_gets_traceparent_only_where_requests_are_traced(traced, tmp_path):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    path = tmp_path / "hybrid.yaml"
    with scripted([head(), events(*WHOLE)]) as server:
        path.write_text(CONFIG.format(url=server.url), encoding="utf-8")
        hooks = [OpenTelemetryHook(tracer_provider=provider)] if traced else []
        token = context.attach(baggage.set_baggage("user", "Zw3f"))
        try:
            with HybridLLM.from_config(path, hooks=hooks) as llm:
                assert llm.generate("Hello").text == "one two"
        finally:
            context.detach(token)
        (headers,) = server.headers
    assert "Zw3f".lower() not in str(headers)
    if not traced:
        assert "traceparent" not in headers
        return
    call = next(span for span in exporter.get_finished_spans() if span.name == "call cloud")
    assert headers["traceparent"].split("-")[1:3] == [f"{call.context.trace_id:032x}", f"{call.context.span_id:016x}"]
    assert (call.kind, call.attributes["gen_ai.provider.name"]) == (SpanKind.CLIENT, "openai")
    assert call.attributes["gen_ai.request.model"] == "some-model"
    assert (call.attributes["server.address"], call.attributes["server.port"]) == ("127.0.0.1", server.port)


@pytest.mark.parametrize(
    ("base_url", "provider", "endpoint"),
    [
        ("https://api.openai.com/v1", "openai", "api.openai.com:443"),
        ("https://clinic.openai.azure.com/openai/v1", "azure.ai.openai", "clinic.openai.azure.com:443"),
        ("https://api.mistral.ai/v1", "mistral_ai", "api.mistral.ai:443"),
        ("https://notopenai.com/v1", "http", "notopenai.com:443"),
        ("http://[::1]:8000/v1", "http", "::1:8000"),
    ],
)
def test_a_server_is_named_by_its_domain(base_url, provider, endpoint):
    settings = HttpSettings(name="cloud", base_url=base_url, model="m", location=Location.CLOUD)
    assert (settings.provider, settings.endpoint) == (provider, endpoint)
    assert HttpSettings(name="a", base_url=base_url, model="m", socket=Path("/run/a.sock")).endpoint == "/run/a.sock"

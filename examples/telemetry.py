"""Prints the trace of a request: OpenTelemetry's spans, without any text of the request.

    python examples/telemetry.py

Needs the extra `otel`. In an app, `telemetry: {exporter: otlp, endpoint: ...}` in hybrid.yaml sends the same to a
collector; see docs/observability.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.observability.otel import OpenTelemetryHook

POLICY = """\
version: 1
name: traced
rules:
  - prefer: edge
    because: there is nothing else
"""


def main() -> None:
    """Ask once within a span of the app, and print the tree."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    edge = EdgeBackend(EdgeConfig())
    policy = parse_policy(POLICY, backends={edge.name: edge.location})
    hook = OpenTelemetryHook(tracer_provider=provider, include=["because"])
    with HybridLLM([edge], policy, hooks=[hook]) as llm, provider.get_tracer("app").start_as_current_span("my app"):
        llm.generate("Is this review positive? 'A warm, funny film.'", max_tokens=8)
    spans = exporter.get_finished_spans()
    show(spans, None)


def show(spans: Iterable[ReadableSpan], parent: int | None, depth: int = 0) -> None:
    """Print the spans below *parent*, with their times and what is ours in them."""
    for span in spans:
        if (span.parent.span_id if span.parent else None) == parent:
            took = (span.end_time - span.start_time) / 1e6
            values = {key.removeprefix("hybrid_llm."): value for key, value in span.attributes.items()}
            shown = ", ".join(f"{key}={values[key]}" for key in ("rule", "because", "kind", "outcome") if key in values)
            print(f"{'  ' * depth}{span.name:<{40 - 2 * depth}} {took:7.1f} ms  {shown}")
            show(spans, span.context.span_id, depth + 1)


if __name__ == "__main__":
    main()

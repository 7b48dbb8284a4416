"""Reports each call of a node to OpenTelemetry: a span within the trace of its client, and the server's metrics.

Names are those of the conventions for RPC and for generative AI
(https://github.com/open-telemetry/semantic-conventions, https://github.com/open-telemetry/semantic-conventions-genai).
There is no text of a request or an answer in them, and nothing that a client has written: no tenant and no id.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.wire.status import code_of
from hybrid_llm.core.telemetry import Telemetry
from hybrid_llm.core.tracing import TRACEPARENT

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram

    from hybrid_llm.backends.node.requests import Answer

METHOD: Final = "hybrid_llm.v1.HybridLLM/Generate"
OK: Final = "ok"
_PROVIDER: Final = "hybrid_llm"
_FAULTS: Final = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""The status codes that are errors of a server, by the conventions for gRPC."""
_REQUEST_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_FIRST_S: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """A call that is over. *outcome* is `ok`, `cancelled`, or the name of an error's class."""

    metadata: Iterable[tuple[str, str | bytes]]
    """What the client sent beside its request."""
    model: str
    engine: str
    outcome: str
    seconds: float
    prompt_tokens: int
    answer: Answer | None


class NodeTelemetry:
    """The reports of one node to *telemetry*, which it owns."""

    def __init__(self, telemetry: Telemetry, *, version: str) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._telemetry = telemetry
        self._tracer = telemetry.tracer_provider.get_tracer("hybrid_llm.node", version)
        self._propagator = TraceContextTextMapPropagator()
        meter = telemetry.meter_provider.get_meter("hybrid_llm.node", version)

        def seconds(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(
                f"gen_ai.server.{name}", unit="s", description=about, explicit_bucket_boundaries_advisory=buckets
            )

        self._duration = seconds("request.duration", "Duration of a call, to its last token.", _REQUEST_S)
        self._first = seconds("time_to_first_token", "Time to the first token of a whole answer.", _FIRST_S)
        self._further = seconds("time_per_output_token", "Time per token after the first, of a whole answer.", _TOKEN_S)

    def take(self, call: CallReport) -> None:
        """Report *call*, which is over now."""
        context = self._trace(call)
        values = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": _PROVIDER}
        if call.model:
            values |= {"gen_ai.request.model": call.model, "gen_ai.response.model": call.model}
        failed = call.outcome not in (OK, "cancelled")
        ended = values | {"error.type": call.outcome} if failed else values
        self._duration.record(call.seconds, ended, context)
        if call.outcome == OK and call.answer is not None:
            timings = call.answer.timings()
            self._first.record(timings.ttft_ms / 1e3, values, context)
            if call.answer.tokens > 1:
                self._further.record(timings.tpot_ms / 1e3, values, context)

    def close(self) -> None:
        """Export what is left. Idempotent."""
        self._telemetry.close()

    def _trace(self, call: CallReport) -> Context:
        """The span of *call*, in the trace of its client where that has one; returns its context."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        sent = next((value for key, value in call.metadata if key == TRACEPARENT and isinstance(value, str)), "")
        parent = self._propagator.extract({TRACEPARENT: sent})
        began = time.time_ns() - int(call.seconds * 1e9)
        values = _values(call)
        span = self._tracer.start_span(METHOD, parent, SpanKind.SERVER, values, start_time=began)
        if (code := values["rpc.status_code"]) in _FAULTS:
            span.set_attribute("error.type", code)
            span.set_status(StatusCode.ERROR)
        span.end()
        return set_span_in_context(span, parent)


def _values(call: CallReport) -> dict[str, Any]:
    """The attributes of the span of *call*."""
    values: dict[str, Any] = {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.status_code": code_of(call.outcome),
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.usage.input_tokens": call.prompt_tokens,
        "hybrid_llm.engine": call.engine,
        "hybrid_llm.outcome": call.outcome,
    }
    if call.model:
        values |= {"gen_ai.request.model": call.model, "gen_ai.response.model": call.model}
    if (answer := call.answer) is None:
        return values
    timings = answer.timings()
    return values | {
        "gen_ai.usage.output_tokens": answer.tokens,
        "gen_ai.usage.cache_read.input_tokens": answer.cached_tokens,
        "gen_ai.response.finish_reasons": [str(answer.finish_reason or "error")],
        "hybrid_llm.queue_time": timings.queue_ms / 1e3,
        "hybrid_llm.time_to_first_token": timings.ttft_ms / 1e3,
    }

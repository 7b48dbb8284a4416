"""A hook that reports each request to OpenTelemetry: one span for it, with spans of its steps and calls, and metrics.

Names are those of https://github.com/open-telemetry/semantic-conventions-genai where they exist; all others begin with
`hybrid_llm.`. Spans have counts, times, numbers and names of the configuration, and never a text of a request, of an
answer or of an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.telemetry import DETAILS, NAMES, Detail, Names, Telemetry
from hybrid_llm.core.tracebacks import guarded
from hybrid_llm.core.tracing import CALLER, TRACEPARENT
from hybrid_llm.router.observability.hooks import ClientStatus, RequestEvent
from hybrid_llm.router.observability.tracing import Call, Open, RequestTrace, Step

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    from hybrid_llm.router.observability.otel_calls import Calls, Values, error_type, model_values
    from hybrid_llm.router.observability.otel_metrics import Instruments
except ImportError:
    raise ConfigError(f"telemetry needs OpenTelemetry: {install_hint('otel')}") from None

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider

SCOPE: Final = "hybrid_llm"
"""The name of the instrumentation scope."""


class OpenTelemetryHook:
    """Reports requests to OpenTelemetry: `HybridLLM(..., hooks=[OpenTelemetryHook()])`, one for each client.

    A span is the child of the one that is current where the app calls, also in threads and tasks.

    Args:
        tracer_provider: Where spans go; by default the global one, at each request.
        meter_provider: Where metrics go; by default the global one.
        names: Whether metrics and attributes have their new names, the old ones, or both.
        include: What spans have besides: `because`, the reason of the rule; `privacy`, the tags and where the request
            may go; `request_id`, `session`, `task` and `tenant`, as the app wrote them.

    Raises:
        ConfigError: OpenTelemetry's API is not installed, or there are no such names or details.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        names: Names = "new",
        include: Collection[Detail] = (),
    ) -> None:
        if names not in NAMES or not DETAILS.issuperset(include):
            raise ConfigError(f"names is one of {', '.join(NAMES)}; include has of {', '.join(sorted(DETAILS))}")
        self._owned: Telemetry | None = None
        self.names: Final = names
        self.include: Final = frozenset(include)
        self.tracer: Final[Tracer] = trace.get_tracer(SCOPE, _version(), tracer_provider)
        self.instruments: Final = Instruments(metrics.get_meter(SCOPE, _version(), meter_provider), names)

    @classmethod
    def owning(
        cls, telemetry: Telemetry, *, names: Names = "new", include: Collection[Detail] = ()
    ) -> OpenTelemetryHook:
        """A hook over providers of its own, which it closes with its client."""
        tracers, meters = telemetry.tracer_provider, telemetry.meter_provider
        hook = cls(tracer_provider=tracers, meter_provider=meters, names=names, include=include)
        hook._owned = telemetry
        return hook

    def begin_trace(self, created: float) -> RequestTrace:
        """The trace of a request that an app made at *created*, on `time.monotonic()`."""
        return _Request(self, time.time_ns() - int((time.monotonic() - created) * 1e9))

    def __call__(self, event: RequestEvent) -> None:
        """End the trace of a request, and count it."""
        if isinstance(event.trace, _Request):
            event.trace.end(event)

    def attach(self, status: Callable[[], ClientStatus]) -> None:
        """A client starts; nothing is needed of it."""

    def detach(self, status: Callable[[], ClientStatus]) -> None:  # noqa: ARG002  # the Protocol's signature
        """The client is closed: export what is left, where the providers are this hook's own."""
        self.close()

    def close(self) -> None:
        """Close the providers, where they are this hook's own. Idempotent."""
        if self._owned is not None:
            self._owned.close()


class _Request:
    """The spans of one request."""

    def __init__(self, hook: OpenTelemetryHook, began_ns: int) -> None:
        self._hook = hook
        self._began_ns = began_ns
        self._parent = _caller()
        self._steps: list[tuple[Step, int]] = []
        self._span: Span | None = None
        self._context: Context | None = None
        self._calls: Calls | None = None
        self._backends: Mapping[str, Backend] = {}
        self._over = False

    def enter(self, step: Step) -> None:
        """*step* begins."""
        self._steps.append((step, time.time_ns()))

    def routed(
        self,
        metadata: RequestMetadata,
        decision: Decision,
        allowed: frozenset[Location],
        backends: Mapping[str, Backend],
    ) -> None:
        """Begin the span of the request, now that its first model is known, and those of the steps that are over."""
        guarded(partial(self._routed, metadata, decision, allowed, backends), "tracing a request")

    def failed(self, error: BaseException) -> None:
        """End the trace of a request for which there is no event."""
        if not self._over:
            guarded(partial(self._failed, error_type(error)), "tracing a request")

    def attempts(self, call: Call) -> Call:
        """*call* with a span for each attempt."""
        return call if self._calls is None else self._calls.attempts(call)

    def opens(self, open_stream: Open) -> Open:
        """*open_stream* with a span for each call, which the backend gets as the parent of its own."""
        return open_stream if self._calls is None else self._calls.opens(open_stream)

    def end(self, event: RequestEvent) -> None:
        """End the span with what the *event* says, and count the request."""
        self._over, error = True, "" if event.error == "cancelled" else event.error
        backend = self._backends.get(event.backend or event.decision.first)
        values = model_values(backend, self._hook.names)
        if event.backend and (model := values.get("gen_ai.request.model")):
            values["gen_ai.response.model"] = model
        self._hook.instruments.take(event, values, error, self._context)
        if self._span is not None:
            values.pop("gen_ai.request.model", None)  # it stays that of the first backend
            self._finish(self._span, values | _outcome(event), error)

    def _routed(
        self,
        metadata: RequestMetadata,
        decision: Decision,
        allowed: frozenset[Location],
        backends: Mapping[str, Backend],
    ) -> None:
        self._backends = backends
        first = backends.get(decision.first)
        values = model_values(first, self._hook.names) | _asked(metadata, decision)
        self._begin(values | self._details(metadata, decision, allowed))
        self._end_steps({"guard": {}, "decide": _decided(decision)})
        if self._context is not None:
            self._calls = Calls(self._hook.tracer, self._hook.instruments, self._context, self._hook.names)

    def _failed(self, error: str) -> None:
        self._over = True
        if self._span is None:
            self._begin({"gen_ai.operation.name": "chat", "gen_ai.provider.name": SCOPE})
            self._end_steps({})
        if self._span is not None:
            self._finish(self._span, {"hybrid_llm.outcome": error or "cancelled"}, error)

    def _begin(self, values: Values) -> None:
        model = values.get("gen_ai.request.model")
        name = f"chat {model}" if model else "chat"
        self._span = self._hook.tracer.start_span(name, self._parent, attributes=values, start_time=self._began_ns)
        self._context = trace.set_span_in_context(self._span, self._parent)

    def _end_steps(self, values: Mapping[str, Values]) -> None:
        ends = [*(began for _, began in self._steps[1:]), time.time_ns()]
        for (step, began), ended in zip(self._steps, ends, strict=False):
            span = self._hook.tracer.start_span(step, self._context, attributes=values.get(step), start_time=began)
            span.end(ended)

    def _details(self, metadata: RequestMetadata, decision: Decision, allowed: frozenset[Location]) -> Values:
        """What only those get who ask for it: it is written by people, for a policy or for one request."""
        known: dict[Detail, Values] = {
            "because": {"hybrid_llm.because": decision.because},
            "privacy": {
                "hybrid_llm.privacy.tags": sorted(metadata.privacy),
                "hybrid_llm.privacy.locations": sorted(allowed),
            },
            "request_id": {"hybrid_llm.request_id": metadata.request_id},
            "session": {"gen_ai.conversation.id": metadata.session_id} if metadata.session_id else {},
            "task": {"hybrid_llm.task": metadata.task},
            "tenant": {"hybrid_llm.tenant": metadata.tenant} if metadata.tenant else {},
        }
        return {key: value for detail in self._hook.include for key, value in known[detail].items()}

    @staticmethod
    def _finish(span: Span, values: Values, error: str) -> None:
        span.set_attributes(values)
        if error:
            span.set_attribute("error.type", error)
            span.set_status(trace.StatusCode.ERROR)
        span.end()


def _asked(metadata: RequestMetadata, decision: Decision) -> Values:
    """What is known of a request before its first call."""
    values: Values = {
        "gen_ai.request.max_tokens": metadata.max_tokens,
        "gen_ai.request.stream": True,  # of a backend, which streams whatever the app asks for
        "hybrid_llm.messages": metadata.message_count,
        "hybrid_llm.tools": metadata.tool_count,
        "hybrid_llm.prompt_tokens": metadata.prompt_tokens,
        "hybrid_llm.deadline": metadata.deadline,
        "hybrid_llm.policy": decision.policy,
        "hybrid_llm.policy.digest": decision.digest,
        "hybrid_llm.rule": decision.rule,
    }
    return values | {"gen_ai.output.type": "json"} if metadata.has_schema else values


def _decided(decision: Decision) -> Values:
    return {
        "hybrid_llm.order": list(decision.order),
        "hybrid_llm.excluded": sorted(decision.excluded),
        "hybrid_llm.policy": decision.policy,
        "hybrid_llm.policy.digest": decision.digest,
        "hybrid_llm.rule": decision.rule,
    }


def _outcome(event: RequestEvent) -> Values:
    """How a request ended."""
    usage, reason = event.usage, event.finish_reason
    values: Values = {
        "gen_ai.response.finish_reasons": [str(reason) if reason is not None and not event.error else "error"],
        "hybrid_llm.outcome": event.error or "ok",
        "hybrid_llm.attempts": len(event.attempts),
        "hybrid_llm.continuations": len(event.continuations),
        "hybrid_llm.cached": event.cached,
    }
    if refused := [f"{each.backend} {each.reason}" for each in event.attempts if each.reason in _NO_CALL]:
        values["hybrid_llm.refused"] = refused
    if event.cost:
        values["hybrid_llm.cost"] = event.cost
    if event.timings.ttft_ms:
        values["gen_ai.response.time_to_first_chunk"] = event.timings.ttft_ms / 1e3
    if not event.backend:
        return values
    values["hybrid_llm.backend"] = event.backend
    values["gen_ai.usage.input_tokens"] = usage.prompt_tokens
    values["gen_ai.usage.output_tokens"] = usage.completion_tokens
    if usage.cached_prompt_tokens:
        values["gen_ai.usage.cache_read.input_tokens"] = usage.cached_prompt_tokens
    if usage.reasoning_tokens:
        values["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
    return values


_NO_CALL: Final = ("breaker_open", "no_retry_left")
"""Reasons of an attempt for which no backend was called."""


def _caller() -> Context:
    """The context of the caller: its current span, or else the one that its HTTP request named."""
    current = contexts.get_current()
    if (sent := CALLER.get()) and not trace.get_current_span(current).get_span_context().is_valid:
        return TraceContextTextMapPropagator().extract({TRACEPARENT: sent}, current)
    return current


def _version() -> str:
    try:
        return version("hybrid-llm")
    except PackageNotFoundError:
        return "unknown"

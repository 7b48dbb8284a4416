"""Planted faults of traces: what leaves with them, whose they are, and what must not stop a request."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_CALLS = "hybrid_llm.router.observability.otel_calls"
_HOOK = "hybrid_llm.router.observability.otel"
_METRICS = "hybrid_llm.router.observability.otel_metrics"
_TELEMETRY = "hybrid_llm.core.telemetry"
_TRACING = "hybrid_llm.core.tracing"

MUTANTS = (
    Mutant(
        "the message of an error is the description of its span",
        f"{_CALLS}:_Follow.end",
        swap("self.span.set_status(StatusCode.ERROR)", "self.span.set_status(StatusCode.ERROR, str(error))"),
    ),
    Mutant(
        "whatever a backend gives as a reason is shown",
        f"{_CALLS}:_Follow.end",
        swap("(reason := getattr(error, 'reason', '')) in _REASONS", "(reason := getattr(error, 'reason', ''))"),
    ),
    Mutant(
        "the class of an error of the app's is shown",
        f"{_CALLS}:error_type",
        always("isinstance(error, HybridLLMError)"),
    ),
    Mutant(
        "a caller who leaves is an error",
        f"{_CALLS}:error_type",
        drop_operand("isinstance(error, CancelledError | GeneratorExit)"),
    ),
    Mutant(
        "a stream that is closed after its last chunk counts as cancelled",
        f"{_CALLS}:_Follow.end",
        drop_operand("self._whole"),
    ),
    Mutant(
        "the span of an attempt stays current for the caller",
        f"{_CALLS}:_followed",
        swap("contexts.detach(token)", "str(token)"),
    ),
    Mutant(
        "a call is no child of its attempt",
        f"{_CALLS}:_followed",
        swap("contexts.attach(follow.context)", "contexts.attach(contexts.get_current())"),
    ),
    Mutant(
        "a tracer that fails stops the request",
        f"{_CALLS}:_or_untraced",
        swap("guarded(make, 'tracing a call')", "make()"),
    ),
    Mutant(
        "tags and ids are always shown",
        f"{_HOOK}:_Request._details",
        swap("self._hook.include", "known"),
    ),
    Mutant(
        "a caller over HTTP takes over the trace of the app",
        f"{_HOOK}:_caller",
        drop_operand("not trace.get_current_span(current).get_span_context().is_valid"),
    ),
    Mutant(
        "a trace is ended twice",
        f"{_HOOK}:_Request.failed",
        always("not self._over"),
    ),
    Mutant(
        "tokens are counted of requests that no backend answered",
        f"{_METRICS}:Instruments._take_tokens",
        swap(
            "(usage.prompt_tokens, usage.completion_tokens) if event.backend else (0, 0)",
            "(usage.prompt_tokens, usage.completion_tokens)",
        ),
    ),
    Mutant(
        "any text leaves as a traceparent",
        f"{_TRACING}:trace_headers",
        always("_FORM.fullmatch(traceparent)"),
    ),
    Mutant(
        "a collector is reported to in the clear",
        f"{_TELEMETRY}:TelemetrySpec._checked",
        never("parts.scheme == 'http' and not (self.insecure or is_this_machine(parts.hostname or ''))"),
    ),
    Mutant(
        "a forked child reports its parent's numbers again",
        f"{_TELEMETRY}:_of_this_process",
        always("os.getpid() == owner"),
    ),
    Mutant(
        "proxies of the environment get the reports",
        f"{_TELEMETRY}:_to_collector",
        drop("direct.trust_env = False"),
    ),
    Mutant(
        "a disabled SDK reports",
        f"{_TELEMETRY}:TelemetrySpec.open",
        never("os.environ.get('OTEL_SDK_DISABLED', '').strip().lower() == 'true'"),
    ),
)

"""The spans of the calls of one request: one for each attempt, and within it one for the backend that is called.

What a backend begins with its first chunk, such as an HTTP request that is instrumented itself, becomes a child of its
span: for so long it is the current one. Afterwards the spans of the caller are current again.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, StatusCode

from hybrid_llm.backends.wire.vocabulary import REASONS
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.protocols import Backend, Remote
from hybrid_llm.core.request import Location, PartialAnswer
from hybrid_llm.core.telemetry import Names
from hybrid_llm.core.threads import owned
from hybrid_llm.core.tracebacks import guarded
from hybrid_llm.router.observability.otel_metrics import Instruments
from hybrid_llm.router.observability.tracing import Call, Open

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

Values = dict[str, Any]
"""Attributes of a span."""
PROVIDER: Final = "hybrid_llm"
"""`gen_ai.provider.name` of our own nodes and of the models on this device."""
OTHER: Final = "_OTHER"
"""`error.type` of an error that is not of this library."""
_END: Final = object()
_REASONS: Final = REASONS | {
    "breaker_open", "content_filter", "cut", "disconnected", "model", "no_answer", "no_response", "no_retry_left",
    "no_route", "not_json", "raised", "refused", "too_deep", "tool_calls", "unresolved",
}  # fmt: skip
"""The codes of errors that spans may show: an app's own backend may write anything there."""


def error_type(error: BaseException | None) -> str:
    """`error.type` of *error*: the name of a class of this library; empty for none, and where the caller has left."""
    if error is None or isinstance(error, CancelledError | GeneratorExit):
        return ""
    return type(error).__name__ if isinstance(error, HybridLLMError) else OTHER


def model_values(backend: Backend | None, names: Names) -> Values:
    """What the conventions ask of a request to *backend*; the attributes of its metrics are the same."""
    remote = _as_remote(backend)
    provider = remote.provider if remote is not None else PROVIDER
    values: Values = {"gen_ai.operation.name": "chat"}
    if names != "old":
        values["gen_ai.provider.name"] = provider
    if names != "new":
        values["gen_ai.system"] = provider
    if backend is not None and (model := backend.capabilities.model):
        values["gen_ai.request.model"] = model
    return values | _server(remote.address) if remote is not None else values


_IS_REMOTE: Final[dict[type, bool]] = {}
"""Classes of backends, and whether they are `Remote`: to ask that of a protocol takes 30 us."""


def _as_remote(backend: Backend | None) -> Remote | None:
    """*backend*, if it is called over a network."""
    kind = type(backend)
    if kind not in _IS_REMOTE:
        _IS_REMOTE[kind] = isinstance(backend, Remote)
    return cast(Remote, backend) if _IS_REMOTE[kind] else None


def _server(address: str) -> Values:
    host, _, port = address.rpartition(":")
    if port.isdigit():
        return {"server.address": host.strip("[]"), "server.port": int(port)}
    return {"server.address": address}  # a Unix socket


class Calls:
    """The attempts of one request, whose span is that of *request*."""

    def __init__(self, tracer: Tracer, instruments: Instruments, request: Context, names: Names) -> None:
        self._tracer = tracer
        self._instruments = instruments
        self._request = request
        self._names = names
        self._made: list[_Attempt] = []

    def attempts(self, call: Call) -> Call:
        """*call* with a span for each attempt."""

        def begin(name: str, begun: PartialAnswer) -> AsyncGenerator[Chunk, None]:
            return _followed(call(name, begun), lambda: _or_untraced(lambda: self._attempt(name, begun)))

        return begin

    def opens(self, open_stream: Open) -> Open:
        """*open_stream* with a span for each call, the parent of those that the backend makes of it."""

        def begin(backend: Backend, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
            call = _or_untraced(lambda: self._call(backend))
            sent = replace(cleared, traceparent=traceparent(call.span))
            return _followed(open_stream(backend, sent), lambda: call)

        return begin

    def _attempt(self, name: str, begun: PartialAnswer) -> _Attempt:
        why = self._why(name, begun)
        values: Values = {
            "hybrid_llm.backend": name,
            "hybrid_llm.attempt.number": len(self._made) + 1,
            "hybrid_llm.attempt.kind": why,
        }
        links = [Link(self._made[-1].span.get_span_context())] if self._made else None
        span = self._tracer.start_span(f"attempt {name}", self._request, attributes=values, links=links)
        self._made.append(attempt := _Attempt(span, name, trace.set_span_in_context(span, self._request)))
        return attempt

    def _why(self, name: str, begun: PartialAnswer) -> str:
        """What an attempt is: `first`, or a `continuation`, `hedge`, `retry` or `fallback` of the one before."""
        if begun:
            return "continuation"
        if any(not each.ended for each in self._made):
            return "hedge"
        if any(each.name == name for each in self._made):
            return "retry"
        return "fallback" if self._made else "first"

    def _call(self, backend: Backend) -> _Follow:
        """A call within the attempt that is current."""
        values = model_values(backend, self._names)
        record = self._instruments.chunk_times(dict(values))
        values |= {"hybrid_llm.backend": backend.name, "hybrid_llm.location": str(backend.location)}
        is_here = backend.location is Location.EDGE and _as_remote(backend) is None
        kind = SpanKind.INTERNAL if is_here else SpanKind.CLIENT
        del values["gen_ai.operation.name"]  # of the request's span alone, or its tokens would be counted twice
        parent = contexts.get_current()
        span = self._tracer.start_span(f"call {backend.name}", parent, kind, values)
        return _Follow(span, trace.set_span_in_context(span, parent), record)


def traceparent(span: Span) -> str:
    """Where *span* stands, as W3C's header has it."""
    at = span.get_span_context()
    return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}" if at.is_valid else ""


class _Follow:
    """One span while the chunks of its stream pass."""

    def __init__(self, span: Span, context: Context, record: Callable[[float], None] | None = None) -> None:
        self.span: Final = span
        self.context: Final = context
        self.ended = False
        self._record = record
        self._whole = False
        self._tokens = 0

    def first(self, chunk: object, seconds: float) -> None:
        """The first *chunk* came after so many seconds."""
        self.span.set_attribute("hybrid_llm.time_to_first_chunk", seconds)
        self._take(chunk)

    def further(self, chunk: object, seconds: float) -> None:
        """A further *chunk* came so many seconds after it was asked for."""
        if self._record is not None:
            self._record(seconds)
        self._take(chunk)

    def _take(self, chunk: object) -> None:
        if isinstance(chunk, Chunk):  # a backend of the app's may yield anything
            self._tokens += chunk.tokens
            self._whole = chunk.finish_reason is not None

    def end(self, error: BaseException | None = None) -> None:
        """The stream is over; one that is closed after its last chunk is complete."""
        self.ended = True
        kind = error_type(error)
        self.span.set_attribute("hybrid_llm.tokens", self._tokens)
        self.span.set_attribute("hybrid_llm.outcome", kind or ("ok" if error is None or self._whole else "cancelled"))
        if (reason := getattr(error, "reason", "")) in _REASONS:
            self.span.set_attribute("hybrid_llm.reason", reason)
        if kind:
            self.span.set_attribute("error.type", kind)
            self.span.set_status(StatusCode.ERROR)
        self.span.end()


class _Attempt(_Follow):
    """The span of one attempt."""

    def __init__(self, span: Span, name: str, context: Context) -> None:
        super().__init__(span, context)
        self.name: Final = name


def _or_untraced(make: Callable[[], _Follow]) -> _Follow:
    """What *make* makes; if a tracer of the app's fails, what follows a call without a trace."""
    return guarded(make, "tracing a call") or _Follow(trace.INVALID_SPAN, contexts.get_current())


async def _followed(items: AsyncIterable[Chunk], begin: Callable[[], _Follow]) -> AsyncGenerator[Chunk, None]:
    """Yield *items*; what *begin* makes, once the first is asked for, follows them."""
    follow, asked = begin(), time.perf_counter()
    try:
        async with aclosing(owned(items)) as chunks:
            token = contexts.attach(follow.context)
            try:
                first = await anext(chunks, _END)
            finally:
                contexts.detach(token)
            if first is not _END:
                follow.first(first, time.perf_counter() - asked)
                yield cast(Chunk, first)
            asked = time.perf_counter()
            async for chunk in chunks:
                follow.further(chunk, time.perf_counter() - asked)
                yield chunk
                asked = time.perf_counter()
    except BaseException as error:
        guarded(partial(follow.end, error), "tracing a call")
        raise
    else:
        guarded(follow.end, "tracing a call")

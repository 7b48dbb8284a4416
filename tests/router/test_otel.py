"""Requests as OpenTelemetry sees them: spans and metrics by the names of the conventions, and no text in any."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendUnavailable,
    ConfigError,
    ContentRefused,
    HybridLLMError,
    InvalidRequest,
    NoEligibleBackend,
    RequestRejected,
    StreamInterrupted,
)
from hybrid_llm.core.request import Location
from hybrid_llm.core.telemetry import DETAILS
from hybrid_llm.core.tracing import CALLER, trace_headers
from hybrid_llm.guardrails import Denylist
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.otel import OpenTelemetryHook
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

POLICY = """\
version: 1
name: traced
tags:
  phi: {{allow: [edge]}}
rules:
  - prefer: [cloud, edge]
    because: the larger model
resilience: {{retries: 1, {more}breaker: {{failures: {failures}, open: 5s}}}}
"""
GONE = BackendUnavailable("gone", backend="cloud", reason="refused")
CUT = StreamInterrupted("cut", backend="cloud", received_tokens=1)


class Traced:
    """A client with the SDK's exporters in memory."""

    def __init__(self, *backends, more: str = "", failures: int = 20, cache=None, guardrails=(), **options) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])
        hook = OpenTelemetryHook(tracer_provider=self.tracers, meter_provider=self.meters, **options)
        policy = parse_policy(
            POLICY.format(more=more, failures=failures), backends={b.name: b.location for b in backends}
        )
        self.llm = HybridLLM(backends, policy, sensors=FixedSensors(), hooks=[hook], cache=cache, guardrails=guardrails)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.llm.close()

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def named(self, name: str):
        return next(span for span in self.spans if span.name == name)

    def children(self, of) -> list[str]:
        return [span.name for span in self.spans if span.parent and span.parent.span_id == of.context.span_id]

    def app_span(self, name: str = "app"):
        return self.tracers.get_tracer("app").start_as_current_span(name)

    def metrics(self) -> dict[str, list]:
        found = self.reader.get_metrics_data()
        scopes = [scope for resource in (found.resource_metrics if found else ()) for scope in resource.scope_metrics]
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}

    def exported(self) -> bytes:
        """What a collector would get, without asking for anything twice."""
        found = self.reader.get_metrics_data()
        metrics = encode_metrics(found).SerializeToString() if found else b""
        return encode_spans(self.spans).SerializeToString() + metrics


def edge(*scripts) -> FakeBackend:
    return FakeBackend("edge", Location.EDGE, *scripts)


def cloud(*scripts) -> FakeBackend:
    return FakeBackend("cloud", Location.CLOUD, *scripts)


def test_a_request_is_one_span_with_its_steps_and_its_call_below_it():
    with Traced(edge(), cloud(["in ", "the ", "cloud"])) as traced:
        traced.llm.generate("hi", max_tokens=9)
        root = traced.named("chat fake")
        assert traced.children(root) == ["guard", "decide", "attempt cloud"]
        assert traced.children(traced.named("attempt cloud")) == ["call cloud"]
        assert (root.parent, root.kind, root.status.status_code) == (None, SpanKind.INTERNAL, StatusCode.UNSET)
        assert traced.named("call cloud").kind is SpanKind.CLIENT
        expected = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "hybrid_llm",
            "gen_ai.request.model": "fake",
            "gen_ai.request.max_tokens": 9,
            "gen_ai.request.stream": True,
            "gen_ai.response.model": "fake",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 3,
            "hybrid_llm.policy": "traced",
            "hybrid_llm.rule": "rules[0]",
            "hybrid_llm.backend": "cloud",
            "hybrid_llm.outcome": "ok",
        }
        assert {key: root.attributes[key] for key in expected} == expected
        assert 0 < root.attributes["gen_ai.response.time_to_first_chunk"] < 5
        assert traced.named("decide").attributes["hybrid_llm.order"] == ("cloud", "edge")
        outcomes = [traced.named(name).attributes["hybrid_llm.outcome"] for name in ("attempt cloud", "call cloud")]
        assert outcomes == ["ok", "ok"]


def test_spans_follow_each_other_in_time_and_lie_within_the_request():
    with Traced(edge(), cloud()) as traced:
        before = time.time_ns()
        traced.llm.generate("hi")
        after = time.time_ns()
        root, guard, decide, attempt, call = (
            traced.named(name) for name in ("chat fake", "guard", "decide", "attempt cloud", "call cloud")
        )
        milliseconds = 1_000_000  # the request's begin is read from another clock
        assert before - milliseconds <= root.start_time <= guard.start_time <= guard.end_time <= decide.start_time
        assert decide.start_time <= decide.end_time <= attempt.start_time <= call.start_time <= call.end_time
        assert call.end_time <= attempt.end_time <= root.end_time <= after


def test_a_fallback_shows_as_a_second_attempt_that_is_linked_to_the_one_that_failed():
    with Traced(edge(), cloud([GONE])) as traced:
        traced.llm.generate("hi")
        failed, second = traced.named("attempt cloud"), traced.named("attempt edge")
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.status.description is None
        assert failed.attributes["error.type"] == "BackendUnavailable"
        assert failed.attributes["hybrid_llm.reason"] == "refused"
        assert second.attributes["hybrid_llm.attempt.kind"] == "fallback"
        assert [link.context.span_id for link in second.links] == [failed.context.span_id]
        assert traced.named("chat fake").attributes["hybrid_llm.attempts"] == 2


def test_retries_and_continuations_show_as_what_they_are():
    with Traced(cloud([GONE], ["a ", CUT], ["b"]), more="continue_streams: true, ") as traced:
        assert traced.llm.generate("hi").text == "a b"
        kinds = [span.attributes["hybrid_llm.attempt.kind"] for span in traced.spans if span.name == "attempt cloud"]
        assert kinds == ["first", "retry", "continuation"]
        assert traced.named("chat fake").attributes["hybrid_llm.continuations"] == 1


class Slow(FakeBackend):
    """Gives its first chunk only when it is released."""

    def __init__(self) -> None:
        super().__init__("cloud", Location.CLOUD, ["late"])
        self.release = asyncio.Event()

    async def astream(self, cleared):
        await self.release.wait()
        async for chunk in super().astream(cleared):
            yield chunk


def test_a_hedge_runs_beside_the_slow_attempt_which_ends_as_cancelled():
    with Traced(edge(["quick"]), Slow(), more="hedge_after: 20ms, ") as traced:
        assert traced.llm.generate("hi").backend == "edge"
        slow, hedge = traced.named("attempt cloud"), traced.named("attempt edge")
        assert hedge.attributes["hybrid_llm.attempt.kind"] == "hedge"
        assert slow.attributes["hybrid_llm.outcome"] == "cancelled"
        assert slow.status.status_code is StatusCode.UNSET
        assert slow.start_time <= hedge.start_time <= slow.end_time
        assert traced.children(slow) == ["call cloud"]
        assert traced.children(hedge) == ["call edge"]


def test_the_span_of_the_caller_is_the_parent_in_every_form_of_the_call():
    with Traced(edge(), cloud()) as traced:

        async def awaited() -> None:
            with traced.app_span("async"):
                await traced.llm.agenerate("hi")
            with traced.app_span("astream"):
                async with traced.llm.astream("hi") as stream:
                    async for _ in stream:
                        pass

        def in_a_thread() -> None:
            with traced.app_span("thread"):
                traced.llm.generate("hi")

        with traced.app_span("sync"):
            traced.llm.generate("hi")
        with traced.app_span("stream"), traced.llm.stream("hi") as stream:
            list(stream)
        asyncio.run(awaited())
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join()
        for form in ("sync", "stream", "async", "astream", "thread"):
            assert traced.children(traced.named(form)) == ["chat fake"], form


def test_tasks_at_once_keep_their_traces_apart():
    with Traced(edge(), cloud()) as traced:

        async def one(number: int) -> None:
            with traced.app_span(f"task {number}"):
                await traced.llm.agenerate("hi")

        async def all_at_once() -> None:
            await asyncio.gather(*[one(number) for number in range(20)])

        asyncio.run(all_at_once())
        for number in range(20):
            root = traced.named(f"task {number}")
            assert len([span for span in traced.spans if span.context.trace_id == root.context.trace_id]) == 6


def test_the_caller_s_own_span_stays_current_while_it_reads_a_stream():
    with Traced(edge(), cloud(["a", "b", "c"])) as traced, traced.app_span() as own:
        with traced.llm.stream("hi") as stream:
            assert {trace.get_current_span() for _ in stream} == {own}
        assert trace.get_current_span() is own


class Instrumented(FakeBackend):
    """A backend whose own library makes spans, as an instrumented HTTP client does."""

    def __init__(self, tracers) -> None:
        super().__init__("cloud", Location.CLOUD, ["ok"])
        self.tracers = tracers

    def stream(self, cleared):
        with self.tracers().get_tracer("http").start_as_current_span("POST"):
            pass
        yield from super().stream(cleared)


def test_spans_of_a_backend_s_own_library_are_children_of_its_call():
    found = SimpleNamespace(traced=None)
    with Traced(edge(), Instrumented(lambda: found.traced.tracers)) as traced:
        found.traced = traced
        traced.llm.generate("hi")
        assert traced.children(traced.named("call cloud")) == ["POST"]


def test_what_is_refused_before_any_call_is_a_span_with_the_class_of_the_error():
    with Traced(edge()) as traced:
        with pytest.raises(InvalidRequest):
            traced.llm.generate("hi", max_tokens=-1)
        refused = traced.named("chat")
        assert refused.attributes["error.type"] == "InvalidRequest"
        assert refused.status.status_code is StatusCode.ERROR
    with Traced(cloud()) as traced:
        with pytest.raises(NoEligibleBackend):
            traced.llm.generate("hi", privacy={"phi"})
        assert traced.named("chat").attributes["error.type"] == "NoEligibleBackend"
        assert traced.children(traced.named("chat")) == ["guard", "decide"]


def test_a_request_that_a_guardrail_refuses_is_one_span_that_ends_once(caplog):
    with Traced(edge(), guardrails=[Denylist(["Zw3f"])]) as traced:
        with pytest.raises(ContentRefused):
            traced.llm.generate("tell me of Zw3f")
        root = traced.named("chat fake")
        assert root.attributes["error.type"] == "ContentRefused"
        assert traced.children(root) == ["guard", "decide"]
        assert len(traced.spans) == 3
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def test_a_request_that_fails_everywhere_has_its_error_on_the_span_and_in_the_metrics():
    with Traced(edge([GONE]), cloud([GONE])) as traced:
        with pytest.raises(AllBackendsFailed):
            traced.llm.generate("hi")
        root = traced.named("chat fake")
        assert root.attributes["error.type"] == "AllBackendsFailed"
        assert root.attributes["gen_ai.response.finish_reasons"] == ("error",)
        assert "gen_ai.usage.output_tokens" not in root.attributes
        metrics = traced.metrics()
        (point,) = metrics["gen_ai.client.inference.duration"]
        assert point.attributes["error.type"] == "AllBackendsFailed"
        (read,) = metrics["gen_ai.client.inference.usage.input_tokens"]
        assert (read.value, read.attributes["gen_ai.token.modality"]) == (0, "unknown")


def test_a_stream_that_its_reader_leaves_is_cancelled_and_no_error():
    with Traced(edge(), cloud(["a", "b", "c"])) as traced:
        with traced.llm.stream("hi") as stream:
            next(stream)
        root = traced.named("chat fake")
        assert root.attributes["hybrid_llm.outcome"] == "cancelled"
        assert root.status.status_code is StatusCode.UNSET
        assert traced.named("attempt cloud").attributes["hybrid_llm.outcome"] == "cancelled"


def test_an_open_breaker_shows_on_the_request():
    with Traced(cloud([GONE]), failures=1) as traced:
        with pytest.raises(AllBackendsFailed):
            traced.llm.generate("hi")
        assert traced.named("chat fake").attributes["hybrid_llm.refused"] == ("cloud breaker_open",)


def test_a_cached_answer_is_a_span_without_an_attempt_and_no_inference():
    with Traced(edge(), cache=MemoryCache()) as traced:
        traced.llm.generate("hi")
        traced.llm.generate("hi")
        root = traced.spans[-1]
        assert root.attributes["hybrid_llm.cached"] is True
        assert traced.children(root) == ["guard", "decide"]
        (point,) = traced.metrics()["gen_ai.client.inference.duration"]
        assert point.count == 1


def test_deciding_alone_makes_no_trace():
    with Traced(edge()) as traced:
        traced.llm.decide("hi")
        assert traced.spans == ()


def test_metrics_have_the_names_units_and_buckets_of_the_conventions():
    with Traced(edge(), cloud(["in ", "the ", "cloud"])) as traced:
        traced.llm.generate("hi")
        metrics = traced.metrics()
        assert set(metrics) == {
            "gen_ai.client.inference.duration",
            "gen_ai.client.inference.time_to_first_chunk",
            "gen_ai.client.inference.time_per_output_chunk",
            "gen_ai.client.inference.usage.input_tokens",
            "gen_ai.client.inference.usage.output_tokens",
            "gen_ai.client.inference.operation.input_tokens",
            "gen_ai.client.inference.operation.output_tokens",
            "hybrid_llm.decisions",
            "hybrid_llm.attempts",
        }
        (duration,) = metrics["gen_ai.client.inference.duration"]
        assert duration.explicit_bounds[:3] == (0.01, 0.02, 0.04)
        assert duration.explicit_bounds[-1] == 81.92
        assert duration.attributes == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "hybrid_llm",
            "gen_ai.request.model": "fake",
            "gen_ai.response.model": "fake",
        }
        root = traced.named("chat fake")
        assert duration.sum == pytest.approx((root.end_time - root.start_time) / 1e9, abs=0.02)
        (chunks,) = metrics["gen_ai.client.inference.time_per_output_chunk"]
        assert chunks.count == 3  # of four, the last one without text
        (written,) = metrics["gen_ai.client.inference.usage.output_tokens"]
        assert (written.value, written.attributes["gen_ai.token.modality"]) == (3, "text")


def test_the_old_names_are_behind_a_switch():
    old = {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"}
    new = {"gen_ai.client.inference.duration", "gen_ai.client.inference.usage.input_tokens"}
    for names, expected, others in (("old", old, new), ("both", old | new, set()), ("new", new, old)):
        with Traced(edge(), names=names) as traced:
            traced.llm.generate("hi")
            found, attributes = set(traced.metrics()), set(traced.named("chat fake").attributes)
            assert expected <= found, names
            assert not others & found, names
            assert ("gen_ai.system" in attributes, "gen_ai.provider.name" in attributes) == (
                names != "new",
                names != "old",
            )


def test_what_an_app_or_a_policy_wrote_shows_only_where_it_is_included():
    options = {"privacy": {"phi"}, "session_id": "s-1", "tenant": "t-1", "task": "triage", "request_id": "r-1"}
    with Traced(edge(), cloud()) as traced:
        traced.llm.generate("hi", **options)
        exported = traced.exported()
        assert not [word for word in (b"phi", b"s-1", b"t-1", b"triage", b"r-1", b"larger model") if word in exported]
    with Traced(edge(), cloud(), include=DETAILS) as traced:
        traced.llm.generate("hi", **options)
        shown = traced.named("chat fake").attributes
        assert shown["hybrid_llm.privacy.tags"] == ("phi",)
        assert shown["hybrid_llm.privacy.locations"] == ("edge",)
        assert shown["gen_ai.conversation.id"] == "s-1"
        assert (shown["hybrid_llm.tenant"], shown["hybrid_llm.task"]) == ("t-1", "triage")
        assert (shown["hybrid_llm.request_id"], shown["hybrid_llm.because"]) == ("r-1", "the larger model")


SECRET = "Zw3f"
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20)


def scripts() -> Iterator[list]:
    """Answers and failures that quote the prompt wherever a text fits."""
    yield [SECRET, f" {SECRET}"]
    yield [SECRET, StreamInterrupted(SECRET, backend="cloud", received_tokens=1)]
    yield [BackendUnavailable(SECRET, backend="cloud", reason=SECRET)]
    yield [RequestRejected(SECRET, backend="cloud", reason=SECRET)]
    yield [ValueError(SECRET)]
    yield [type(SECRET, (Exception,), {})(SECRET)]
    yield [None]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    before=WORDS,
    after=WORDS,
    first=st.sampled_from(list(scripts())),
    second=st.sampled_from(list(scripts())),
    options=st.sampled_from(
        [
            {},
            {"privacy": {"phi"}},
            {"stop": [f"a{SECRET}"]},
            {"max_tokens": -1},
            {"privacy": {SECRET}},
            {"tenant": SECRET, "session_id": SECRET, "task": SECRET, "request_id": SECRET},
        ]
    ),
)
def test_no_text_of_a_request_is_in_any_exported_byte(before, after, first, second, options):
    with Traced(edge(second), cloud(first), more="continue_streams: true, ", names="both") as traced:
        messages = [{"role": "system", "content": SECRET}, {"role": "user", "content": before + SECRET + after}]
        tool = {"type": "function", "function": {"name": SECRET, "parameters": {"type": "object"}}}
        for prompt, more in ((messages, {}), (f"{before}{SECRET}{after}", {"tools": [tool]})):
            with suppress(HybridLLMError):
                traced.llm.generate(prompt, **{**options, **more})
        assert traced.spans
        assert SECRET.encode() not in traced.exported()


def test_the_backend_gets_the_trace_and_nothing_else_of_it():
    seen = []

    class Watching(FakeBackend):
        def stream(self, cleared):
            seen.append(cleared.traceparent)
            yield from super().stream(cleared)

    with Traced(edge(), Watching("cloud", Location.CLOUD)) as traced:
        traced.llm.generate("hi")
        at = traced.named("call cloud").context
        assert seen == [f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"]
    assert trace_headers(seen[0]) == (("traceparent", seen[0]),)
    assert trace_headers("") == trace_headers("00-secret") == trace_headers(seen[0] + "\n") == ()


def test_without_a_hook_nothing_is_traced():
    seen = []

    class Watching(FakeBackend):
        def stream(self, cleared):
            seen.append(cleared.traceparent)
            yield from super().stream(cleared)

    policy = parse_policy(POLICY.format(more="", failures=20), backends={"cloud": Location.CLOUD})
    with HybridLLM([Watching("cloud", Location.CLOUD)], policy, sensors=FixedSensors()) as llm:
        llm.generate("hi")
    assert seen == [""]


def test_a_trace_that_a_caller_over_http_named_is_continued_unless_a_span_is_current():
    sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with Traced(edge()) as traced:
        for text in (sent, "00-nonsense", ""):
            token = CALLER.set(text)
            traced.llm.generate("hi")
            CALLER.reset(token)
        roots = [span for span in traced.spans if span.name == "chat fake"]
        assert roots[0].parent.span_id == 0xB7AD6B7169203331
        assert [root.parent for root in roots[1:]] == [None, None]
        token = CALLER.set(sent)
        with traced.app_span():
            traced.llm.generate("hi")
        CALLER.reset(token)
        assert traced.children(traced.named("app")) == ["chat fake"]


def test_a_client_has_one_trace():
    policy = parse_policy(POLICY.format(more="", failures=20), backends={"edge": Location.EDGE})
    with pytest.raises(ConfigError, match="one OpenTelemetryHook"):
        HybridLLM([edge()], policy, sensors=FixedSensors(), hooks=[OpenTelemetryHook(), OpenTelemetryHook()])


def test_the_global_providers_are_taken_where_none_is_given():
    policy = parse_policy(POLICY.format(more="", failures=20), backends={"edge": Location.EDGE})
    with HybridLLM([edge()], policy, sensors=FixedSensors(), hooks=[OpenTelemetryHook()]) as llm:
        assert llm.generate("hi").text == "ok"  # they do nothing here: no SDK is set up


@pytest.mark.parametrize("where", ["chat fake", "guard", "attempt edge", "call edge"])
@pytest.mark.parametrize("when", ["on_start", "on_end"])
def test_a_tracer_that_fails_costs_no_answer(where, when):
    class Failing(SpanProcessor):
        def on_start(self, span, parent_context=None):
            if (when, span.name) == ("on_start", where):
                raise RuntimeError("broken")

        def on_end(self, span):
            if (when, span.name) == ("on_end", where):
                raise RuntimeError("broken")

    with Traced(edge()) as traced:
        traced.tracers.add_span_processor(Failing())
        assert traced.llm.generate("hi").text == "ok"
        assert traced.llm.stream("hi").collect().text == "ok"


@pytest.mark.parametrize("wrong", [{"names": "newest"}, {"include": ["prompt"]}])
def test_a_hook_refuses_names_and_details_that_there_are_not(wrong):
    with pytest.raises(ConfigError, match="names is one of new, old, both; include has of because, privacy"):
        OpenTelemetryHook(**wrong)


def test_a_hook_of_the_apps_that_happens_to_begin_something_is_no_tracer():
    class Begins:
        def begin(self, *_):
            raise AssertionError("nobody asked for this")

        def __call__(self, event):
            self.event = event

    policy, hook = parse_policy(POLICY.format(more="", failures=20), backends={"edge": Location.EDGE}), Begins()
    with HybridLLM([edge()], policy, sensors=FixedSensors(), hooks=[hook]) as llm:
        assert llm.generate("hi").text == "ok"
    assert hook.event.trace is None

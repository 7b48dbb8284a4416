"""The client as an app meets it: one answer, whole or in pieces, sync or async, and what surrounds it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    HybridLLMError,
    InvalidRequest,
    NoEligibleBackend,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend


def test_generate_gives_the_whole_answer_with_its_facts(make_client, edge, cloud):
    reply = make_client(edge, cloud).generate("hello", max_tokens=5)
    assert reply.text == "on the device"
    assert reply.finish_reason is FinishReason.STOP
    assert reply.backend == "edge"
    assert reply.usage.completion_tokens == 3
    assert reply.usage.total_tokens == 6
    assert 0.0 <= reply.timings.ttft_ms <= reply.timings.total_ms
    assert reply.decision.order == ("edge", "cloud")
    assert "the device first" in reply.decision.explain()
    assert cloud.requests == []


def test_a_stream_knows_its_decision_before_and_its_generation_after(make_client, edge):
    stream = make_client(edge).stream("hello")
    assert stream.decision.order == ("edge",)
    with pytest.raises(HybridLLMError, match="not complete"):
        _ = stream.generation
    assert "".join(chunk.text for chunk in stream) == "on the device"
    assert stream.generation.text == "on the device"


def test_async_and_sync_answers_are_the_same(make_client, edge):
    client = make_client(edge)

    async def both() -> tuple[str, str]:
        whole = await client.agenerate("hello")
        parts = [chunk.text async for chunk in client.astream("hello")]
        return whole.text, "".join(parts)

    assert asyncio.run(both()) == ("on the device", "on the device")


def test_leaving_a_stream_early_stops_the_backend(make_client, edge):
    client = make_client(edge)
    with client.stream("hello") as stream:
        next(stream)
    assert edge.abandoned == 1

    async def leave() -> None:
        async with client.astream("hello") as stream:
            await anext(stream)

    asyncio.run(leave())
    assert edge.abandoned == 2


def test_a_failed_backend_is_replaced_by_the_next_of_the_decision(make_client, cloud):
    edge = FakeBackend("edge", Location.EDGE, [BackendUnavailable("no model", backend="edge")])
    reply = make_client(edge, cloud).generate("hello")
    assert (reply.backend, reply.text) == ("cloud", "in the cloud")


def test_when_all_fail_the_error_has_every_cause_and_the_decision(make_client):
    down = [BackendUnavailable("is down", backend="x")]
    client = make_client(FakeBackend("edge", Location.EDGE, down), FakeBackend("cloud", Location.CLOUD, down))
    with pytest.raises(AllBackendsFailed) as caught:
        client.generate("hello")
    assert set(caught.value.failures) == {"edge", "cloud"}
    assert caught.value.decision.order == ("edge", "cloud")


def test_nobody_eligible_is_told_before_the_first_chunk(make_client, edge, cloud):
    edge.ready = False
    with pytest.raises(NoEligibleBackend, match="tag phi allows only edge"):
        make_client(edge, cloud).stream("hello", privacy={"phi"})


def test_an_undeclared_tag_is_refused_with_those_that_exist(make_client, edge):
    with pytest.raises(InvalidRequest, match="phi"):
        make_client(edge).generate("hello", privacy={"phy"})


def test_a_backend_that_keeps_failing_is_left_alone(make_client, cloud):
    edge = FakeBackend("edge", Location.EDGE, [BackendUnavailable("down", backend="edge")])
    client = make_client(edge, cloud)
    for _ in range(8):
        client.generate("hello")
    assert len(edge.requests) == 5
    assert "breaker" in client.decide("hello").excluded["edge"]


def test_one_event_per_request_with_counts_and_names_and_no_text(make_client, edge, cloud):
    events: list[RequestEvent] = []
    client = make_client(edge, cloud, hooks=[events.append])
    client.generate("SECRET-PROMPT")
    with client.stream("SECRET-PROMPT") as stream:
        next(stream)
    assert [event.error for event in events] == ["", "cancelled"]
    assert [(each.error, each.tokens > 0) for each in events[1].attempts] == [("Cancelled", True)]
    assert events[0].backend == "edge"
    assert events[0].usage.completion_tokens == 3
    assert [attempt.backend for attempt in events[0].attempts] == ["edge"]
    assert "SECRET-PROMPT" not in repr(events)
    assert "on the device" not in repr(events)


def test_a_broken_stream_is_an_error_and_not_a_short_answer(make_client, cloud):
    events: list[RequestEvent] = []
    edge = FakeBackend("edge", Location.EDGE, ["half", StreamInterrupted("cut", backend="edge", received_tokens=1)])
    client = make_client(edge, cloud, hooks=[events.append])
    with pytest.raises(StreamInterrupted):
        client.generate("hello")
    assert cloud.requests == []
    assert events[0].error == "StreamInterrupted"


def test_a_hook_that_raises_harms_nobody_and_its_text_is_not_logged(make_client, edge, caplog):
    def broken(event: RequestEvent) -> None:
        raise ValueError("SECRET")

    with caplog.at_level(logging.WARNING):
        assert make_client(edge, hooks=[broken]).generate("hello").text == "on the device"
    assert "ValueError" in caplog.text
    assert "SECRET" not in caplog.text


class Hanging(FakeBackend):
    async def astream(self, cleared):
        self.requests.append(cleared.request)
        await asyncio.sleep(60)
        yield


def test_an_async_backend_that_hangs_ends_at_the_deadline(make_client):
    events: list[RequestEvent] = []
    backend = Hanging("edge", Location.EDGE)
    with pytest.raises(DeadlineExceeded):
        asyncio.run(make_client(backend, hooks=[events.append]).agenerate("hello", deadline=0.1))
    assert events[0].error == "DeadlineExceeded"


def test_cancelling_a_task_cancels_the_work(make_client):
    backend = Hanging("edge", Location.EDGE)
    client = make_client(backend)

    async def cancel() -> None:
        task = asyncio.create_task(client.agenerate("hello"))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())


def test_backends_are_closed_last_in_first_out_and_a_failure_to_close_is_logged(edge, caplog):
    class Stubborn(FakeBackend):
        def close(self) -> None:
            raise OSError("SECRET")

    policy = parse_policy("version: 1\nname: p\nrules: []\n", backends={"a": Location.CLOUD, "edge": Location.EDGE})
    with HybridLLM([edge, Stubborn("a", Location.CLOUD)], policy, sensors=FixedSensors()) as client:
        pass
    client.close()
    assert edge.closed == 1
    assert "closing a failed with OSError" in caplog.text
    assert "SECRET" not in caplog.text


def test_a_closed_client_says_so(make_client, edge):
    client = make_client(edge)
    client.close()
    with pytest.raises(HybridLLMError, match="closed"):
        client.generate("hello")


def test_two_backends_of_one_name_are_refused(edge):
    policy = parse_policy("version: 1\nname: p\nrules: []\n", backends={"edge": Location.EDGE})
    with pytest.raises(ConfigError, match="its own name"):
        HybridLLM([edge, edge], policy)


def test_decide_tells_and_sends_nothing(make_client, edge, cloud):
    decision = make_client(edge, cloud).decide("hello", privacy={"phi"})
    assert decision.order == ("edge",)
    assert edge.requests == cloud.requests == []


def test_predictions_follow_what_happened(make_client, edge):
    client = make_client(edge)
    before = client.signals().backends["edge"].predicted_ttft_ms
    for _ in range(10):
        client.generate("hello")
    assert client.signals().backends["edge"].predicted_ttft_ms < before / 5


class Broken(FakeBackend):
    """A backend of an app that raises what is no error of ours, with the prompt in it, after *chunks* chunks."""

    def __init__(self, name: str, location: Location, chunks: int) -> None:
        super().__init__(name, location)
        self.chunks = chunks

    def stream(self, cleared):
        for _ in range(self.chunks):
            yield Chunk(text="part ")
        raise ValueError(f"cannot read {cleared.request.messages[0].content}")


@pytest.mark.parametrize("chunks", [0, 1])
@pytest.mark.parametrize("resilience", ["", "resilience: {continue_streams: true}\n"])
def test_an_untyped_error_of_a_backend_is_typed_and_holds_no_text_and_the_next_backend_answers(chunks, resilience):
    policy = parse_policy(
        f"version: 1\nname: p\ntags: {{t: {{allow: [edge, cloud]}}}}\n{resilience}rules: [{{prefer: [edge, cloud]}}]\n"
    )
    events: list[RequestEvent] = []
    backends = [Broken("edge", Location.EDGE, chunks), FakeBackend("cloud", Location.CLOUD, ["from the cloud"])]
    with HybridLLM(backends, policy, sensors=FixedSensors(), hooks=[events.append]) as client:
        if chunks and not resilience:
            with pytest.raises(StreamInterrupted, match=r"^edge raised ValueError after 1 tokens$") as caught:
                client.generate("SECRET")
            assert caught.value.__context__ is None
        else:
            assert client.generate("SECRET").text.endswith("from the cloud")
            assert asyncio.run(client.agenerate("SECRET")).text.endswith("from the cloud")
    assert events[0].attempts[0].error == ("StreamInterrupted" if chunks else "BackendUnavailable")


def test_a_backend_that_counts_tokens_sees_the_whole_request(make_client):
    seen = []

    class Counting(FakeBackend):
        def count_tokens(self, request):
            seen.append(request)
            return 7

    reply = make_client(Counting("edge", Location.EDGE)).decide("hello", task="math", output_schema={"type": "object"})
    assert reply.order
    assert (seen[0].task, seen[0].output_schema) == ("math", '{"type":"object"}')


def test_closing_a_stream_ends_it_for_the_task_that_waits_for_its_next_chunk(make_client):
    class Slow(FakeBackend):
        async def astream(self, cleared):
            try:
                yield Chunk(text="a")
                await asyncio.sleep(60)
            finally:
                self.abandoned += 1

    edge = Slow("edge", Location.EDGE)

    async def run() -> list[str]:
        stream = make_client(edge).astream("hello")
        taken: list[str] = []
        first = asyncio.Event()

        async def read() -> None:
            async for chunk in stream:
                taken.append(chunk.text)
                first.set()

        reader = asyncio.create_task(read())
        await first.wait()
        await asyncio.sleep(0)
        await stream.aclose()
        await asyncio.wait_for(reader, 10)
        return taken

    assert asyncio.run(run()) == ["a"]
    assert edge.abandoned == 1


@pytest.mark.parametrize("call", ["sync", "async"])
def test_a_backend_that_raises_cancelled_error_although_nobody_cancels_fails_like_any_other(make_client, call):
    class Cancelling(FakeBackend):
        def stream(self, cleared):
            raise asyncio.CancelledError("my secret prompt")
            yield

        async def astream(self, cleared):
            raise asyncio.CancelledError("my secret prompt")
            yield

    client = make_client(Cancelling("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD))
    reply = client.generate("hello") if call == "sync" else asyncio.run(client.agenerate("hello"))
    assert (reply.text, reply.backend) == ("ok", "cloud")


def test_a_context_window_that_no_node_has_reported_is_not_a_number(make_client):
    class New(FakeBackend):
        def state(self):
            return BackendState(name=self.name, location=self.location, context_window=0)

    assert make_client(New("cloud", Location.CLOUD)).signals().backends["cloud"].context_window == 0

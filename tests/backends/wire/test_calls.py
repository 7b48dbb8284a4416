"""One call over a real loopback connection with mutual TLS: what arrives, what it costs the node, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from dataclasses import replace

import pytest

from hybrid_llm.backends.node.engine import EngineFault
from hybrid_llm.backends.node.servicer import _Call
from hybrid_llm.backends.wire import TLSFiles, issue
from hybrid_llm.core.clearance import Clearance, Cleared
from hybrid_llm.core.errors import (
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    PrivacyViolation,
    RequestRejected,
    StreamInterrupted,
)
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import Location, Message, Sampling


def test_an_answer_arrives_whole_with_usage_and_timings(cloud, tools):
    chunks = list(cloud.stream(tools.cleared("hi")))
    last = chunks[-1]
    assert tools.answer(chunks) == "hello from the node"
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert last.finish_reason is FinishReason.STOP
    assert last.usage.completion_tokens == 19 == sum(chunk.tokens for chunk in chunks)
    assert last.usage.prompt_tokens == len("[user] hi\n[assistant] ")
    assert 0 < last.timings.ttft_ms <= last.timings.total_ms
    assert last.timings.queue_ms == 1.5


def test_usage_shows_how_much_of_the_prompt_the_node_had_cached(node, cloud, tools):
    node.engine.cached = 12
    usage = list(cloud.stream(tools.cleared("hi")))[-1].usage
    assert (usage.cached_prompt_tokens, usage.prompt_tokens) == (12, len("[user] hi\n[assistant] "))


def test_the_engine_gets_a_salt_for_each_certificate_and_tenant(node, pki, tools):
    issue(pki.folder, "other-app")
    other = TLSFiles.from_dir(pki.folder, "other-app")
    for tls, tenant in ((other, None), (pki.app, None), (pki.app, ""), (pki.app, "a"), (pki.app, "a")):
        with contextlib.closing(tools.backend(node.target, tls)) as client:
            list(client.stream(tools.cleared("hi", tenant=tenant)))
    salts = [request.salt for request in node.engine.seen]
    assert len(set(salts[:4])) == 4, "another identity, no tenant, one without a name, and one with"
    assert salts[3] == salts[4]


def test_asyncio_gives_the_same(cloud, tools):
    chunks = asyncio.run(tools.collect(cloud.astream(tools.cleared("hi"))))
    assert tools.answer(chunks) == "hello from the node"
    again = asyncio.run(tools.collect(cloud.astream(tools.cleared("hi"))))
    assert tools.answer(again) == "hello from the node", "another event loop gets a channel of its own"


def test_it_is_a_backend_and_its_state_learns_from_calls(cloud, tools):
    assert isinstance(cloud, Backend)
    before = cloud.state()
    assert (before.ready, before.rtt_ms, before.context_window) == (True, None, 0)
    for _ in range(2):
        list(cloud.stream(tools.cleared("hi")))
    after = cloud.state()
    assert after.context_window == 4096 == cloud.capabilities.context_window
    assert 0 <= after.rtt_ms < 1000
    assert (after.active, after.queue) == (0, 0)


def test_a_reader_that_stops_after_the_last_chunk_has_the_nodes_report(cloud, tools):
    def read() -> None:
        with contextlib.closing(cloud.stream(tools.cleared("hi"))) as stream:
            assert next(chunk for chunk in stream if chunk.finish_reason is not None)

    async def aread() -> None:
        async with contextlib.aclosing(cloud.astream(tools.cleared("hi"))) as stream:
            assert [chunk async for chunk in stream if chunk.finish_reason is not None]

    async def twice() -> None:
        for _ in range(2):  # a connection that is new counts only until there is a better one
            await aread()

    read()
    first = cloud.state()
    assert (first.context_window, first.rtt_ms is not None) == (4096, True)
    asyncio.run(twice())
    assert cloud.state().rtt_ms != first.rtt_ms


def test_a_node_draws_as_its_model_recommends_where_nobody_named_a_setting(pki, tools):
    tokenizer = tools.byte_tokenizer(recommended={"temperature": 0.6, "top_k": 40})
    with tools.Node(pki.node, tokenizer=tokenizer) as node:
        with contextlib.closing(tools.backend(node.target, pki.app)) as cloud:
            for sampling in (Sampling(), Sampling(top_k=5), Sampling(explicit=("temperature",))):
                list(cloud.stream(tools.cleared("hi", sampling=sampling, max_tokens=3)))
        seen = [(each.sampling.temperature, each.sampling.top_k) for each in node.engine.seen]
    assert seen == [(0.6, 40), (0.6, 5), (0.0, 40)]


@pytest.mark.parametrize(("recommended", "draws"), [({"temperature": 0.6}, True), ({"top_k": 40}, False)])
def test_a_client_knows_from_its_first_answer_on_whether_the_nodes_model_draws(pki, tools, recommended, draws):
    tokenizer = tools.byte_tokenizer(recommended=recommended)
    with (
        tools.Node(pki.node, tokenizer=tokenizer) as node,
        contextlib.closing(tools.backend(node.target, pki.app)) as cloud,
    ):
        list(cloud.stream(tools.cleared("hi")))
        assert cloud.capabilities.draws is draws
        cloud.probe()
        assert cloud.capabilities.draws is draws


def test_the_window_of_a_node_that_is_restarted_stays_known(node, cloud):
    assert cloud.probe().context_window == cloud.capabilities.context_window == 4096
    node.engine.info, node.engine.healthy = None, False
    assert cloud.probe().reason == "the model is loading"
    assert cloud.capabilities.context_window == cloud.state().context_window == 4096


def test_the_node_sees_every_field(cloud, node, tools):
    sampling = Sampling(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, repetition_penalty=1.2, presence_penalty=-0.5,
        frequency_penalty=0.25, seed=-5, stop=("zz",),
    )  # fmt: skip
    list(cloud.stream(tools.cleared("hi", sampling=sampling, max_tokens=3)))
    seen = node.engine.seen[0]
    assert replace(seen.sampling, explicit=()) == sampling
    assert seen.max_tokens == 3
    assert seen.eos_ids == frozenset({0})
    assert 5 < seen.expires - time.monotonic() <= 10
    assert bytes(node.server._tokenizer.tokenizer.decode(list(seen.prompt_ids)), "utf-8") == b"[user] hi\n[assistant] "


def test_max_tokens_ends_with_length(cloud, tools):
    chunks = list(cloud.stream(tools.cleared("hi", max_tokens=5)))
    assert tools.answer(chunks) == "hello"
    assert chunks[-1].finish_reason is FinishReason.LENGTH


def test_a_stop_text_ends_the_answer_and_frees_the_slot(cloud, node, tools):
    chunks = list(cloud.stream(tools.cleared("hi", sampling=Sampling(stop=("from",)))))
    assert tools.answer(chunks) == "hello "
    assert chunks[-1].finish_reason is FinishReason.STOP
    tools.eventually(lambda: node.engine.active == 0)
    assert node.engine.aborted == 1


def test_text_of_several_bytes_a_character_is_never_split(pki, tools):
    with tools.Node(pki.node, tools.FakeEngine("naïve 你好 🙂")) as node:
        cloud = tools.backend(node.target, pki.app)
        chunks = list(cloud.stream(tools.cleared("hi")))
        cloud.close()
    assert tools.answer(chunks) == "naïve 你好 🙂"
    assert not any("\ufffd" in chunk.text for chunk in chunks)


def test_leaving_a_stream_stops_the_generation(pki, tools):
    with tools.Node(pki.node, tools.FakeEngine("x" * 500, delay=0.02)) as node:
        cloud = tools.backend(node.target, pki.app)
        stream = cloud.stream(tools.cleared("hi", max_tokens=500))
        next(stream)
        assert (node.engine.active, cloud.state().active) == (1, 1)
        stream.close()
        tools.eventually(lambda: node.engine.active == 0)
        assert (node.engine.aborted, cloud.state().active) == (1, 0)
        cloud.close()


def test_cancelling_a_task_stops_the_generation(pki, tools):
    async def run(node, cloud):
        task = asyncio.create_task(tools.collect(cloud.astream(tools.cleared("hi", max_tokens=500))))
        while not node.engine.active:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await cloud.aclose()

    with tools.Node(pki.node, tools.FakeEngine("x" * 500, delay=0.02)) as node:
        asyncio.run(run(node, tools.backend(node.target, pki.app)))
        tools.eventually(lambda: node.engine.active == 0)
        assert node.engine.aborted == 1


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_deadline_ends_the_call_on_both_sides(pki, tools, way):
    with tools.Node(pki.node, tools.FakeEngine("x" * 500, delay=0.05)) as node:
        cloud = tools.backend(node.target, pki.app)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"deadline of 0\.4 s") as caught:
            _collect(cloud, tools.cleared("hi", max_tokens=500, deadline=0.4), way, tools)
        assert 0.3 < time.monotonic() - started < 2
        assert caught.value.elapsed >= 0.39
        tools.eventually(lambda: node.engine.active == 0)
        cloud.close()


def test_a_deadline_that_is_over_opens_no_connection(node, pki, tools):
    proxy = tools.Proxy(node.port)
    cloud = tools.backend(proxy.target, pki.app)
    request = tools.cleared("hi", deadline=0.1, created=time.monotonic() - 1)
    with pytest.raises(DeadlineExceeded, match="was over before"):
        list(cloud.stream(request))
    assert proxy.connections == 0
    proxy.close()


def _forged():
    return Clearance(location=Location.CLOUD, tags=frozenset(), mac=b"0" * 32)


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("kind", ["missing", "forged", "edge", "other text"])
def test_without_a_genuine_clearance_no_byte_is_sent(node, pki, tools, way, kind):
    good = tools.cleared("hi")
    other = replace(good.request, messages=(Message(role="user", content="secret"),))
    request = {
        "missing": good.request,
        "forged": Cleared(request=good.request, clearance=_forged()),
        "edge": tools.cleared("hi", location=Location.EDGE),
        "other text": Cleared(request=other, clearance=good.clearance),
    }[kind]
    proxy = tools.Proxy(node.port)
    cloud = tools.backend(proxy.target, pki.app)
    with pytest.raises(PrivacyViolation):
        _collect(cloud, request, way, tools)
    assert (proxy.connections, len(proxy.sent)) == (0, 0)
    list(cloud.stream(good))
    assert len(proxy.sent) > 0, "the proxy does see what is sent"
    cloud.close()
    proxy.close()


def _collect(cloud, request, way, tools):
    if way == "sync":
        return list(cloud.stream(request))

    return asyncio.run(tools.collect(cloud.astream(request)))


def test_overload_is_an_answer_with_a_time_to_try_again(pki, tools):
    engine = tools.FakeEngine("x" * 200, delay=0.02, slots=1)
    with tools.Node(pki.node, engine, max_queue=1) as node:
        cloud = tools.backend(node.target, pki.app)
        streams = [cloud.stream(tools.cleared("hi", max_tokens=200)) for _ in range(2)]
        for stream in streams:
            next(stream)
        with pytest.raises(BackendOverloaded) as caught:
            next(cloud.stream(tools.cleared("hi")))
        assert caught.value.retry_after > 0
        assert caught.value.backend == "cloud"
        assert cloud.state().load >= 1
        for stream in streams:
            stream.close()
        tools.eventually(lambda: engine.active == 0)
        assert list(cloud.stream(tools.cleared("hi", max_tokens=1)))
        cloud.close()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("rejected", RequestRejected),
        ("overloaded", BackendOverloaded),
        ("deadline", DeadlineExceeded),
        ("internal", BackendUnavailable),
    ],
)
def test_a_fault_of_the_engine_is_a_typed_error(pki, tools, code, error):
    engine = tools.FakeEngine(error=EngineFault(code=code, message="cannot be done"))
    with tools.Node(pki.node, engine) as node:
        cloud = tools.backend(node.target, pki.app)
        with pytest.raises(error):
            list(cloud.stream(tools.cleared("hi")))
        cloud.close()


def test_an_engine_that_dies_in_mid_answer_interrupts_that_answer(pki, tools):
    with tools.Node(pki.node, tools.FakeEngine("x" * 100, delay=0.01)) as node:
        cloud = tools.backend(node.target, pki.app)
        stream = cloud.stream(tools.cleared("hi", max_tokens=100))
        next(stream)
        node.engine.die = True
        with pytest.raises(StreamInterrupted) as caught:
            list(stream)
        assert caught.value.received_tokens >= 1
        node.engine.die = False
        assert tools.answer(cloud.stream(tools.cleared("hi", max_tokens=5))) == "xxxxx"
        cloud.close()


@pytest.mark.parametrize("fault", ["refused", "late", "engine died", "engine failed"])
def test_a_call_that_failed_leaves_nothing_on_the_node_for_the_garbage_collector(pki, tools, fault):
    engines = {
        "refused": tools.FakeEngine(),
        "late": tools.FakeEngine("ab", delay=5.0, slots=64),
        "engine died": tools.FakeEngine(die_after=1),
        "engine failed": tools.FakeEngine(error=EngineFault(code="internal", message="no memory")),
    }
    fields = {"refused": {"max_tokens": 99_999}, "late": {"deadline": 0.05}}
    with tools.Node(pki.node, engines[fault]) as node, contextlib.closing(tools.backend(node.target, pki.app)) as cloud:
        gc.collect()  # what earlier tests left
        gc.disable()
        try:
            for _ in range(5):
                with pytest.raises(BackendError):
                    list(cloud.stream(tools.cleared(**fields.get(fault, {}))))
            tools.eventually(lambda: not any(isinstance(each, _Call) for each in gc.get_objects()))
        finally:
            gc.enable()


@pytest.mark.parametrize("way", ["sync", "async"])
def test_closing_ends_running_calls_and_refuses_new_ones(pki, tools, way):
    with tools.Node(pki.node, tools.FakeEngine("x" * 500, delay=0.02)) as node:
        cloud = tools.backend(node.target, pki.app)
        caught = []

        def run():
            try:
                _collect(cloud, tools.cleared("hi", max_tokens=500), way, tools)
            except BackendUnavailable as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        tools.eventually(lambda: node.engine.active == 1)
        cloud.close()
        cloud.close()
        thread.join(5)
        assert "closed" in str(caught[0])
        assert not cloud.state().ready
        with pytest.raises(BackendUnavailable, match="closed"):
            list(cloud.stream(tools.cleared("hi")))
        tools.eventually(lambda: node.engine.active == 0)


def test_a_name_that_never_resolves_costs_no_more_than_the_deadline(pki, tools):
    cloud = tools.backend("no-such-host.invalid:7443", pki.app)
    for way in ("sync", "async"):
        with pytest.raises((BackendUnavailable, DeadlineExceeded)):
            _collect(cloud, tools.cleared("hi", deadline=3.0), way, tools)
    cloud.close()


def test_a_deadline_without_end_is_taken(cloud, tools):
    assert tools.answer(cloud.stream(tools.cleared("hi", deadline=float("inf"))))


def test_a_slow_reader_gets_joined_chunks_and_everything(pki, tools):
    with tools.Node(pki.node, tools.FakeEngine("abc" * 300)) as node:
        cloud = tools.backend(node.target, pki.app)
        stream = cloud.stream(tools.cleared("hi", max_tokens=2000))
        chunks = [next(stream)]
        time.sleep(0.3)
        chunks += stream
        assert tools.answer(chunks) == "abc" * 300
        cloud.close()


def test_many_calls_at_once_stay_apart(pki, tools):
    async def run(cloud):
        calls = [tools.collect(cloud.astream(tools.cleared(str(n), max_tokens=n % 19 + 1))) for n in range(40)]
        answers = await asyncio.gather(*calls)
        assert [tools.answer(chunks) for chunks in answers] == ["hello from the node"[: n % 19 + 1] for n in range(40)]
        await cloud.aclose()

    with tools.Node(pki.node, tools.FakeEngine(delay=0.001, slots=40)) as node:
        asyncio.run(run(tools.backend(node.target, pki.app)))

"""The whole way of a request over real parts: the embedded edge model, mutual TLS on loopback, a node with torch."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.cli.demo.world import RecordingProxy
from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendUnavailable,
    DeadlineExceeded,
    HybridLLMError,
    NoEligibleBackend,
    RequestRejected,
    StreamInterrupted,
)
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.e2e.conftest import Node

REVIEW = "Is this review positive? 'A warm, funny film.'"
COUNT = "Count from 3 to 40."
# Where an answer must still run when something happens to it, it is drawn at temperature 100: nearly evenly from all
# tokens, so that it hardly ever comes to an end by itself.


def test_the_device_and_the_cloud_both_answer(node):
    with node.client() as llm:
        near, far = llm.generate(REVIEW, max_tokens=24), llm.generate(REVIEW, max_tokens=24, task="far")
    assert (near.backend, far.backend) == ("edge", "cloud")
    for reply in (near, far):
        assert "positive" in reply.text
        assert reply.usage.prompt_tokens > 5
        assert reply.finish_reason == "stop"
        assert 0 < reply.timings.ttft_ms <= reply.timings.total_ms


def test_both_sides_count_the_same_tokens_for_the_same_answer(node):
    with node.client() as llm:
        replies = [llm.generate(REVIEW, max_tokens=24, task=task) for task in ("near", "far")]
    assert replies[0].text == replies[1].text
    counts = [(reply.usage.prompt_tokens, reply.usage.completion_tokens) for reply in replies]
    assert counts[0] == counts[1]


def test_sync_async_and_streams_give_the_same_greedy_answer(node):
    with node.client() as llm:
        for task in ("near", "far"):
            whole = llm.generate(COUNT, task=task, max_tokens=40).text
            assert "".join(chunk.text for chunk in llm.stream(COUNT, task=task, max_tokens=40)) == whole

            async def ask(llm=llm, task=task) -> list[str]:
                replies = [llm.agenerate(COUNT, task=task, max_tokens=40) for _ in range(3)]
                return [reply.text for reply in await asyncio.gather(*replies)]

            assert asyncio.run(ask()) == [whole] * 3


def test_not_one_byte_of_a_private_request_reaches_the_network(node, caplog):
    with RecordingProxy(delay_s=0.0) as proxy, caplog.at_level(logging.DEBUG):
        proxy.target_port = node.port
        with node.client(proxy.port) as llm:
            llm.generate(REVIEW, task="far", max_tokens=8)
            time.sleep(0.3)
            before = proxy.bytes_to_node
            assert before > 0
            for text, tags in [("SECRET-PROMPT", {"phi"}), ("SECRET-PROMPT to jane@example.org", set())]:
                assert llm.generate(text, task="far", privacy=tags, max_tokens=8).backend == "edge"
                asyncio.run(llm.agenerate(text, task="far", privacy=tags, max_tokens=8))
            time.sleep(0.3)
            assert proxy.bytes_to_node == before
    assert "SECRET-PROMPT" not in caplog.text


def test_a_private_request_that_the_device_cannot_take_ends_in_an_error_and_not_in_the_cloud(node):
    with node.client() as llm, pytest.raises(NoEligibleBackend) as caught:
        llm.generate("word " * 2000, privacy={"phi"})
    assert "does not fit" in caught.value.decision.excluded["edge"]
    assert "phi" in caught.value.decision.excluded["cloud"]


def test_a_prompt_of_a_megabyte_is_refused_with_the_reason(node):
    with node.client() as llm, pytest.raises(AllBackendsFailed) as caught:
        llm.generate("word " * 200_000, deadline=30.0)
    failure = caught.value.failures["cloud"]
    assert isinstance(failure, RequestRejected)
    assert failure.reason == "context_overflow"


def test_many_threads_share_one_client(node):
    with node.client() as llm, ThreadPoolExecutor(8) as pool:
        tasks = ["near", "far"] * 8
        replies = list(pool.map(lambda task: llm.generate(REVIEW, task=task, max_tokens=16), tasks))
    assert [reply.backend for reply in replies] == ["edge", "cloud"] * 8
    assert len({reply.text for reply in replies[::2]}) == 1
    assert len({reply.text for reply in replies[1::2]}) == 1


def test_a_short_deadline_ends_in_time_on_both_sides(node):
    with node.client() as llm:
        llm.generate(REVIEW, task="far", max_tokens=4)
        llm.generate(REVIEW, task="near", max_tokens=4)
        for task in ("near", "far"):
            began = time.monotonic()
            with pytest.raises((DeadlineExceeded, AllBackendsFailed)):
                llm.generate(COUNT, task=task, max_tokens=400, deadline=0.02, temperature=100.0, seed=1)
            assert time.monotonic() - began < 1.0


def test_a_node_that_is_killed_in_mid_stream_ends_the_stream_and_leaves_no_process_and_the_device_continues(own_node):
    """One client gets an error; one that continues answers gets the rest from the device, under penalties."""
    parent = psutil.Process(own_node.process.pid)
    children = parent.children(recursive=True)
    assert children, "the engine runs in a process of its own"
    options = {"temperature": 100.0, "seed": 1, "deadline": 60.0}
    penalties = {"frequency_penalty": 2.0, "presence_penalty": 1.0}
    with own_node.client() as llm, continuing(own_node) as other:
        stream = llm.stream(COUNT, task="far", max_tokens=1500, **options)
        next(stream)
        continued = other.stream(COUNT, max_tokens=400, **options, **penalties)
        begun = next(continued).text
        os.kill(parent.pid, signal.SIGKILL)
        with pytest.raises((StreamInterrupted, BackendUnavailable)):
            list(stream)
        with pytest.raises(HybridLLMError, match="not complete"):
            _ = stream.generation
        assert llm.generate(REVIEW, task="far", max_tokens=8).backend == "edge"
        text = begun + "".join(chunk.text for chunk in continued)
        reply = continued.generation
    (continuation,) = reply.continuations
    assert (continuation.backend, reply.backend) == ("edge", "edge")
    assert reply.text == text
    assert reply.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
    assert 0 < continuation.tokens < reply.usage.completion_tokens <= 400
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def continuing(node: Node) -> HybridLLM:
    """A client that asks *node* first, and goes on with the device where an answer breaks off."""
    edge, cloud = EdgeBackend(EdgeConfig()), node.cloud()
    policy = parse_policy(
        "version: 1\nname: kill\nrules: [{prefer: [cloud, edge]}]\n"
        "resilience: {retries: 1, retry_budget: 100%, continue_streams: true}\n",
        backends={backend.name: backend.location for backend in (edge, cloud)},
    )
    return HybridLLM([edge, cloud], policy, sensors=FixedSensors())


def test_an_engine_that_is_killed_fails_its_streams_and_comes_back(node):
    """The node is that of all tests: afterwards it serves them as before."""
    engine = psutil.Process(node.process.pid).children(recursive=True)[-1]
    with node.client() as llm:
        stream = llm.stream(COUNT, task="far", max_tokens=1500, temperature=100.0, seed=1, deadline=20.0)
        next(stream)
        engine.kill()
        with pytest.raises((StreamInterrupted, BackendUnavailable)):
            list(stream)
        until = time.monotonic() + 60.0
        while llm.generate(REVIEW, task="far", max_tokens=8).backend != "cloud":
            assert time.monotonic() < until, "the engine did not come back"
            time.sleep(0.5)

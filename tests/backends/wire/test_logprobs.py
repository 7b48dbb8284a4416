"""Log-probabilities over the wire: what the node scores arrives exactly, also beside peers that know none."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import ExitStack

import pytest

from hybrid_llm.backends.grpc import GrpcConfig, GrpcPool
from hybrid_llm.backends.node.engine import EngineOutput
from hybrid_llm.backends.node.requests import _parts, check_request
from hybrid_llm.backends.token_names import TokenScores
from hybrid_llm.backends.wire.messages import chunk_from_wire, chunk_to_wire
from hybrid_llm.core.errors import RequestRejected
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.core.request import Location, Sampling
from hybrid_llm.policies import parse_policy
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.router.test_logprobs import Scoring


@pytest.fixture
def scoring(pki, tools):
    """A node whose engine scores tokens, and a client of it."""
    with (
        tools.Node(pki.node, tools.FakeEngine("héllo 日", logprobs=True)) as node,
        contextlib.closing(tools.backend(node.target, pki.app)) as cloud,
    ):
        yield node, cloud


@pytest.mark.parametrize("is_async", [False, True])
def test_what_the_engine_scores_arrives_with_the_text_that_it_belongs_to(scoring, tools, is_async):
    node, cloud = scoring
    cleared = tools.cleared("hi", logprobs=2)
    chunks = asyncio.run(tools.collect(cloud.astream(cleared))) if is_async else list(cloud.stream(cleared))
    assert node.engine.seen[-1].logprobs == 2
    assert tools.answer(chunks) == "héllo 日"
    tokens = [token for chunk in chunks for token in chunk.logprobs]
    assert b"".join(token.bytes for token in tokens) == "héllo 日".encode()
    assert [token.logprob for token in tokens] == [-float(at) for at in range(10)]
    assert [each.logprob for each in tokens[0].top] == [-0.25, -1.5]
    assert tokens[1].token == tokens[2].token == "\ufffd", "half a character, whose bytes are exact"
    for chunk in chunks:
        assert b"".join(token.bytes for token in chunk.logprobs).decode() == chunk.text


def test_a_stop_text_cuts_the_list_where_it_cuts_the_text(scoring, tools):
    chunks = list(scoring[1].stream(tools.cleared("hi", logprobs=0, sampling=Sampling(stop=("lo",)))))
    assert tools.answer(chunks) == "hél"
    assert b"".join(token.bytes for chunk in chunks for token in chunk.logprobs) == "hél".encode()


def test_a_request_that_does_not_ask_gets_none(scoring, tools):
    node, cloud = scoring
    assert not any(chunk.logprobs for chunk in cloud.stream(tools.cleared("hi")))
    assert node.engine.seen[-1].logprobs is None


def test_a_node_whose_engine_cannot_refuses_and_the_client_knows_from_its_report_on(cloud, tools):
    assert cloud.capabilities.logprobs is True, "assumed, until the node has reported"
    with pytest.raises(RequestRejected, match="log-probabilities") as caught:
        list(cloud.stream(tools.cleared("hi", logprobs=1)))
    assert caught.value.reason == "unsupported"
    assert cloud.capabilities.logprobs is False


def test_an_ordinary_answer_shows_too_whether_the_node_can(cloud, scoring, tools):
    for client, able in ((cloud, False), (scoring[1], True)):
        list(client.stream(tools.cleared("hi")))
        assert client.capabilities.logprobs is able
        client.probe()
        assert client.capabilities.logprobs is able


def test_text_without_log_probabilities_as_older_nodes_send_it_is_refused_at_once(pki, tools):
    """Such a node ignores the field: the app would get an answer that lacks what it asked for."""
    engine = tools.FakeEngine(logprobs=True, silent=True)
    with (
        tools.Node(pki.node, engine) as node,
        contextlib.closing(tools.backend(node.target, pki.app)) as cloud,
    ):
        with pytest.raises(RequestRejected, match="older than this app's") as caught:
            list(cloud.stream(tools.cleared("hi", logprobs=1)))
        assert caught.value.reason == "unsupported"
        assert cloud.capabilities.logprobs is False
        tools.eventually(lambda: engine.active == 0)


def test_where_an_older_node_comes_first_the_next_backend_answers_and_no_app_gets_its_text(pki, tools):
    with (
        tools.Node(pki.node, tools.FakeEngine(logprobs=True, silent=True)) as node,
        contextlib.closing(tools.backend(node.target, pki.app, name="cloud")) as cloud,
    ):
        device = Scoring("edge", Location.EDGE, ["on ", "the ", "device"])
        policy = parse_policy("version: 1\nname: p\n", backends={"cloud": Location.CLOUD, "edge": Location.EDGE})
        with HybridLLM([cloud, device], policy, sensors=FixedSensors()) as llm:
            chunks = list(llm.stream("hi", logprobs=1))
            again = llm.generate("hi", logprobs=1)
    assert "".join(chunk.text for chunk in chunks) == "on the device" == again.text
    assert [attempt.backend for attempt in again.attempts] == ["edge"]
    assert again.decision.excluded == {"cloud": "it gives no log-probabilities"}


def test_a_backend_of_several_nodes_gives_them_once_all_of_its_nodes_do(pki, tools):
    engines = [tools.FakeEngine(logprobs=True), tools.FakeEngine()]
    with ExitStack() as stack:
        nodes = [stack.enter_context(tools.Node(pki.node, engine)) for engine in engines]
        pool = stack.enter_context(
            contextlib.closing(GrpcPool([GrpcConfig(target=node.target, tls=pki.app) for node in nodes]))
        )
        assert pool.capabilities.logprobs is True
        for each in ("one", "two"):
            list(pool.stream(tools.cleared("hi", request_id=each)))
        tools.eventually(lambda: all(engine.seen for engine in engines) or not list(pool.stream(tools.cleared("hi"))))
        assert pool.capabilities.logprobs is False


def test_an_older_client_that_does_not_know_the_field_is_answered_as_before():
    message = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="hi")], max_tokens=4)
    assert check_request(message, deadline=5.0).logprobs is None


@pytest.mark.parametrize("count", [-1, 21, 2**31 - 1])
def test_a_number_that_is_out_of_range_is_refused_by_the_node_too(count):
    message = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="hi")], max_tokens=4, logprobs=count)
    with pytest.raises(RequestRejected, match="logprobs: must be a whole number from 0 to 20"):
        check_request(message, deadline=5.0)


def test_a_chunk_survives_the_wire_bytes_and_all():
    top = (
        Alternative(token="\ufffd", logprob=-0.1, bytes=b"\xe6"),
        Alternative(token="<|end|>", logprob=-3, bytes=b""),
    )
    token = TokenLogprob(token="\ufffd", logprob=-0.1, bytes=b"\xe6", top=top)
    chunk = Chunk(text="x", logprobs=(token, token))
    assert chunk_from_wire(pb.GenerateChunk.FromString(chunk_to_wire(chunk).SerializeToString())) == chunk


@pytest.mark.parametrize("count", [1, 256, 257, 600, 1024])
def test_tokens_that_were_merged_for_a_slow_reader_come_in_chunks_that_fit_into_messages(count):
    scores = tuple([TokenScores(-float(at)) for at in range(count)])
    output = EngineOutput(
        request_id="1", token_ids=tuple(range(count)), scores=scores, finish_reason=FinishReason.LENGTH
    )
    parts = list(_parts(output))
    assert all(len(part.token_ids) == len(part.scores) <= 256 for part in parts)
    assert [id_ for part in parts for id_ in part.token_ids] == list(range(count))
    assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [FinishReason.LENGTH]

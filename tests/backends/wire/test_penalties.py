"""Presence and frequency penalties over the wire: a node follows them, or no app gets its text."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from hybrid_llm.core.errors import RequestRejected
from hybrid_llm.core.request import Location, Sampling
from hybrid_llm.policies import parse_policy
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

PENALISED = Sampling(presence_penalty=1.0)


def older(_context):
    """A node from before the fields: it ignores them, and does not confirm that it follows them."""
    yield pb.GenerateChunk(text="unpenalised", tokens=1)
    yield pb.GenerateChunk(finish_reason=pb.FINISH_REASON_STOP)


def empty(_context):
    """One whose answer has no text at all."""
    yield pb.GenerateChunk(finish_reason=pb.FINISH_REASON_STOP)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_answer_that_follows_them_comes_as_any_other(cloud, node, tools, is_async):
    cleared = tools.cleared("hi", sampling=PENALISED)
    chunks = asyncio.run(tools.collect(cloud.astream(cleared))) if is_async else list(cloud.stream(cleared))
    assert tools.answer(chunks) == "hello from the node"
    assert node.engine.seen[-1].sampling.presence_penalty == 1.0
    assert cloud.capabilities.penalties is True


def test_the_partial_answer_is_counted_in_tokens_and_only_where_it_matters(cloud, node, tools):
    list(cloud.stream(tools.cleared("hi", sampling=PENALISED, answer_prefix="hello")))
    list(cloud.stream(tools.cleared("hi", answer_prefix="hello")))
    list(cloud.stream(tools.cleared("hi", sampling=PENALISED)))
    assert [request.partial_tokens for request in node.engine.seen] == [5, 0, 0], "the model has a token for each byte"


def test_an_engine_that_does_not_follow_them_refuses_and_the_client_knows_from_its_report_on(pki, tools):
    with (
        tools.Node(pki.node, tools.FakeEngine(penalties=False)) as node,
        contextlib.closing(tools.backend(node.target, pki.app)) as cloud,
    ):
        assert cloud.capabilities.penalties is True, "assumed, until the node has reported"
        with pytest.raises(RequestRejected, match="presence or frequency penalty") as caught:
            list(cloud.stream(tools.cleared("hi", sampling=Sampling(frequency_penalty=-1.0))))
        assert caught.value.reason == "unsupported"
        assert not node.engine.seen
        assert cloud.capabilities.penalties is False
        assert list(cloud.stream(tools.cleared("hi", sampling=Sampling(explicit=("presence_penalty",)))))


@pytest.mark.parametrize("answer", [older, empty])
def test_the_answer_of_an_older_node_is_refused_at_its_first_chunk(foreign, pki, tools, answer):
    with contextlib.closing(tools.backend(foreign(answer), pki.app)) as cloud:
        with pytest.raises(RequestRejected, match="older than this app's") as caught:
            list(cloud.stream(tools.cleared("hi", sampling=PENALISED)))
        assert caught.value.reason == "unsupported"
        assert cloud.capabilities.penalties is False
        assert list(cloud.stream(tools.cleared("hi"))), "other requests are answered"


def test_where_an_older_node_comes_first_the_next_backend_answers(foreign, pki, tools):
    device = FakeBackend("edge", Location.EDGE, ["on ", "the ", "device"])
    device.capabilities = replace(device.capabilities, penalties=True)
    policy = parse_policy("version: 1\nname: p\n", backends={"cloud": Location.CLOUD, "edge": Location.EDGE})
    cloud = tools.backend(foreign(older), pki.app, name="cloud")
    with HybridLLM([cloud, device], policy, sensors=FixedSensors()) as llm:
        texts = [chunk.text for chunk in llm.stream("hi", presence_penalty=1.0)]
        again = llm.generate("hi", frequency_penalty=-0.5)
    assert "".join(texts) == "on the device" == again.text
    assert [attempt.backend for attempt in again.attempts] == ["edge"]
    assert again.decision.excluded == {"cloud": "it follows no presence or frequency penalty"}
    assert device.requests[-1].sampling.frequency_penalty == -0.5

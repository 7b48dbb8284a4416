"""How a node answers requests that are invalid, too large, of another version, or no requests at all."""

from __future__ import annotations

import json
import sys

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.wire.channels import client_credentials
from hybrid_llm.backends.wire.messages import chunk_from_wire, chunk_to_wire, request_from_wire, request_to_wire
from hybrid_llm.backends.wire.status import ERROR_KEY, LOAD_KEY, PROTOCOL_KEY, decode
from hybrid_llm.core.errors import (
    BackendError,
    BackendUnavailable,
    DeadlineExceeded,
    ProtocolMismatch,
    RequestRejected,
    SecurityError,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Timings, Usage
from hybrid_llm.core.limits import RequestLimits
from hybrid_llm.core.request import Message, Request, Sampling, Tool
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMStub

GENERATE = "/hybrid_llm.v1.HybridLLM/Generate"
VERSION = ((PROTOCOL_KEY, "1"),)


@pytest.fixture(scope="module")
def shared(pki):
    tools = sys.modules["wire_fakes"]
    with (
        tools.Node(pki.node) as node,
        grpc.secure_channel(
            node.target, client_credentials(pki.app), options=[("grpc.max_send_message_length", -1)]
        ) as channel,
    ):
        yield node, channel


def _request(**fields):
    fields.setdefault("messages", [pb.Message(role=pb.ROLE_USER, content="hi")])
    fields.setdefault("max_tokens", 4)
    return pb.GenerateRequest(**fields)


def _error(channel, request, metadata=VERSION):
    with pytest.raises(grpc.RpcError) as caught:
        list(HybridLLMStub(channel).Generate(request, timeout=10, metadata=metadata))
    error = caught.value
    return decode(error.code(), error.details(), error.trailing_metadata() or (), backend="cloud")


NAN, INF = float("nan"), float("inf")
BAD = {
    "messages": {"messages": []},
    "prompt is empty": {"messages": [pb.Message(role=pb.ROLE_USER, content=" \n")]},
    "role is unknown": {"messages": [pb.Message(role=9, content="x")]},
    "max_tokens": {"max_tokens": -1},
    "max_tokens: ": {"max_tokens": 0},
    "deadline_seconds": {"deadline_seconds": NAN},
    "deadline_seconds:": {"deadline_seconds": -1.0},
    "temperature": {"sampling": pb.Sampling(temperature=NAN)},
    "temperature:": {"sampling": pb.Sampling(temperature=INF)},
    "sampling.temperature:": {"sampling": pb.Sampling(temperature=-1)},
    "top_p": {"sampling": pb.Sampling(top_p=NAN)},
    "top_p:": {"sampling": pb.Sampling(top_p=0)},
    "top_k": {"sampling": pb.Sampling(top_k=-1)},
    "min_p": {"sampling": pb.Sampling(min_p=2)},
    "repetition_penalty": {"sampling": pb.Sampling(repetition_penalty=NAN)},
    "presence_penalty": {"sampling": pb.Sampling(presence_penalty=NAN)},
    "frequency_penalty": {"sampling": pb.Sampling(frequency_penalty=-2.5)},
    "stop": {"sampling": pb.Sampling(stop=[""])},
    "request_id": {"request_id": "a\nb"},
    "tenant": {"tenant": "x" * 200},
    "tags": {"tags": [""]},
    "output_schema": {"output_schema": "{"},
}


@pytest.mark.parametrize("says", BAD)
def test_a_field_out_of_range_is_refused_by_name(shared, says):
    error = _error(shared[1], _request(**BAD[says]))
    assert isinstance(error, RequestRejected)
    assert error.reason == "invalid_argument"
    assert says in str(error)


@pytest.mark.parametrize(
    "fields",
    [{"tools": [pb.Tool(name="f")]}, {"output_schema": json.dumps({"type": "object"})}],
    ids=["tools", "schema"],
)
def test_what_this_node_cannot_do_is_rejected_as_unsupported(shared, fields):
    error = _error(shared[1], _request(**fields))
    assert (type(error), error.reason) == (RequestRejected, "unsupported")


def test_the_earlier_of_both_deadlines_ends_the_call(pki, tools):
    with (
        tools.Node(pki.node, tools.FakeEngine("x" * 300, delay=0.02)) as node,
        grpc.secure_channel(node.target, client_credentials(pki.app)) as channel,
    ):
        error = _error(channel, _request(max_tokens=300, deadline_seconds=0.3))
        assert isinstance(error, DeadlineExceeded)
        assert 0.25 < error.elapsed < 3
        tools.eventually(lambda: node.engine.active == 0)


def test_a_node_takes_as_many_messages_as_an_app_sends_by_default(shared):
    most = RequestLimits().messages
    messages = [pb.Message(role=pb.ROLE_USER, content="hi")] * (most + 1)
    assert _error(shared[1], _request(messages=messages)).reason == "invalid_argument"
    assert _error(shared[1], _request(messages=messages[:most])).reason == "context_overflow"


def test_prompt_and_answer_must_fit_the_context_together(shared):
    error = _error(shared[1], _request(max_tokens=4096))
    assert (type(error), error.reason) == (RequestRejected, "context_overflow")
    assert "4096" in str(error)


def test_a_prompt_of_1_mb_is_a_context_overflow_and_is_not_quoted(shared, pki, tools):
    cloud = tools.backend(shared[0].target, pki.app)
    with pytest.raises(RequestRejected) as caught:
        list(cloud.stream(tools.cleared("secret " * 150_000)))
    assert caught.value.reason == "context_overflow"
    assert "secret" not in str(caught.value)
    cloud.close()


def test_a_prompt_of_5_mb_is_refused_before_it_is_sent_and_by_the_node(shared, pki, tools):
    cloud = tools.backend(shared[0].target, pki.app)
    with pytest.raises(RequestRejected, match="holds at most") as caught:
        list(cloud.stream(tools.cleared("x" * 5_000_000)))
    assert caught.value.reason == "message_too_large"
    cloud.close()
    error = _error(shared[1], _request(messages=[pb.Message(role=pb.ROLE_USER, content="x" * 5_000_000)]))
    assert (type(error), error.reason) == (RequestRejected, "message_too_large")


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 2**40},
        {"sampling": Sampling(seed=2**70)},
        {"messages": (Message(role="king", content="x"),)},
        {"text": "lone \ud800 surrogate"},
    ],
    ids=["int", "seed", "role", "unicode"],
)
def test_what_does_not_fit_the_protocol_is_refused_before_it_is_sent(pki, tools, fields):
    cloud = tools.backend("127.0.0.1:1", pki.app)
    with pytest.raises(RequestRejected, match="does not fit the protocol"):
        list(cloud.stream(tools.cleared(fields.pop("text", "hi"), **fields)))


@pytest.mark.parametrize(("metadata", "theirs"), [((), 0), (((PROTOCOL_KEY, "2"),), 2), (((PROTOCOL_KEY, "x"),), 0)])
def test_a_client_of_another_version_learns_both_versions(shared, metadata, theirs):
    error = _error(shared[1], _request(), metadata)
    assert isinstance(error, ProtocolMismatch)
    assert (error.ours, error.theirs) == (theirs, 1), "seen from the client"


def _newer(context):
    detail = pb.ErrorDetail(kind="protocol_mismatch", ours=2, theirs=1).SerializeToString()
    context.set_trailing_metadata(((ERROR_KEY, detail),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this node speaks version 2")
    yield


def test_a_node_of_another_version_is_a_protocol_mismatch(foreign, pki, tools):
    cloud = tools.backend(foreign(_newer), pki.app)
    with pytest.raises(ProtocolMismatch) as caught:
        list(cloud.stream(tools.cleared("hi")))
    assert (caught.value.ours, caught.value.theirs) == (1, 2)
    with pytest.raises(ProtocolMismatch) as caught:
        cloud.probe()
    assert (caught.value.ours, caught.value.theirs) == (1, 2)
    cloud.close()


def test_a_server_without_our_service_is_a_protocol_mismatch(foreign, pki, tools):
    cloud = tools.backend(foreign(None, register=False), pki.app)
    with pytest.raises(ProtocolMismatch):
        list(cloud.stream(tools.cleared("hi")))
    cloud.close()


MISBEHAVIOUR = {
    "without its last chunk": [pb.GenerateChunk(text="a", tokens=1)],
    "more after the end": [pb.GenerateChunk(finish_reason=1), pb.GenerateChunk(text="b", tokens=1)],
    "does not know": [pb.GenerateChunk(text="a", tokens=1), pb.GenerateChunk(finish_reason=77)],
    "ended without": [],
}


@pytest.mark.parametrize("says", MISBEHAVIOUR)
def test_an_incomplete_stream_is_never_taken_for_a_whole_answer(foreign, pki, tools, says):
    cloud = tools.backend(foreign(lambda context: iter(MISBEHAVIOUR[says])), pki.app)
    with pytest.raises(StreamInterrupted, match=says):
        list(cloud.stream(tools.cleared("hi")))
    cloud.close()


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_of_a_foreign_server_is_a_typed_error_sync_and_async(foreign, pki, tools, code):
    import asyncio

    def behave(context):
        context.abort(code, "no")
        yield

    cloud = tools.backend(foreign(behave), pki.app)
    with pytest.raises((BackendError, SecurityError)) as first:
        list(cloud.stream(tools.cleared("hi")))
    with pytest.raises(type(first.value)):
        asyncio.run(tools.collect(cloud.astream(tools.cleared("hi"))))
    cloud.close()


@pytest.mark.parametrize("after", [0, 2000, 6000])
def test_garbled_bytes_end_in_a_typed_error(pki, tools, after):
    """Nothing garbled in the handshake, or in the answer, passes for text."""
    with tools.Node(pki.node, tools.FakeEngine("x" * 200, delay=0.002)) as node:
        proxy = tools.Proxy(node.port)
        proxy.garble_after = after
        cloud = tools.backend(proxy.target, pki.app)
        received = []
        with pytest.raises((BackendError, SecurityError)):
            received.extend(cloud.stream(tools.cleared("hi", max_tokens=200)))
        assert set(tools.answer(received)) <= {"x"}
        cloud.close()
        proxy.close()


def test_a_connection_that_breaks_in_mid_answer_interrupts_it(pki, tools):
    with tools.Node(pki.node, tools.FakeEngine("x" * 500, delay=0.01)) as node:
        proxy = tools.Proxy(node.port)
        cloud = tools.backend(proxy.target, pki.app)
        stream = cloud.stream(tools.cleared("hi", max_tokens=500))
        next(stream)
        proxy.close()
        with pytest.raises(StreamInterrupted) as caught:
            list(stream)
        assert caught.value.received_tokens >= 1
        tools.eventually(lambda: node.engine.active == 0)
        with pytest.raises(BackendUnavailable, match="nothing listens") as refused:
            list(cloud.stream(tools.cleared("hi")))
        assert refused.value.reason == "refused"
        cloud.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_random_bytes_end_in_a_typed_status_and_the_node_lives(shared, garbage):
    _, channel = shared
    call = channel.unary_stream(GENERATE, request_serializer=None, response_deserializer=None)
    try:
        list(call(garbage, timeout=10, metadata=VERSION))
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(error.trailing_metadata())[ERROR_KEY]
    assert list(HybridLLMStub(channel).Generate(_request(), timeout=10, metadata=VERSION))[-1].finish_reason


counts, texts = st.integers(0, 2**31 - 1), st.text(max_size=30)
names = st.none() | texts
REQUESTS = st.builds(
    Request,
    messages=st.lists(
        st.builds(Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=texts), max_size=4
    ).map(tuple),
    task=texts,
    privacy=st.frozensets(texts, max_size=3),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0, 10),
        top_p=st.floats(0, 1),
        top_k=counts,
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(0, 10),
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        stop=st.lists(texts, max_size=3).map(tuple),
    ),
    max_tokens=counts,
    deadline=st.just(5.0),
    created=st.just(0.0),
    output_schema=names,
    tools=st.lists(st.builds(Tool, name=texts, description=texts, parameters=texts), max_size=2).map(tuple),
    session_id=names,
    tenant=names,
    request_id=texts,
)


@given(REQUESTS)
def test_a_request_comes_through_unchanged(request_):
    from dataclasses import replace

    sent = pb.GenerateRequest.FromString(request_to_wire(request_, remaining=5.0).SerializeToString())
    read = request_from_wire(sent, deadline=5.0)
    assert set(request_.sampling.explicit) <= set(read.sampling.explicit)
    unnamed = replace(read.sampling, explicit=request_.sampling.explicit)  # what differs from the default is named too
    assert replace(read, created=0.0, sampling=unnamed) == request_


floats = st.floats(0, 1e9)
LAST = st.builds(
    Chunk,
    text=texts,
    tokens=counts,
    finish_reason=st.sampled_from(FinishReason),
    usage=st.builds(Usage, prompt_tokens=counts, completion_tokens=counts, cached_prompt_tokens=counts),
    timings=st.builds(Timings, queue_ms=floats, ttft_ms=floats, tpot_ms=floats, total_ms=floats),
)


@given(st.builds(Chunk, text=texts, tokens=counts) | LAST)
def test_a_chunk_comes_through_unchanged(chunk):
    assert chunk_from_wire(pb.GenerateChunk.FromString(chunk_to_wire(chunk).SerializeToString())) == chunk


def test_the_load_comes_with_answers_and_with_errors(shared):
    stub = HybridLLMStub(shared[1])
    call = stub.Generate(_request(), timeout=10, metadata=VERSION)
    list(call)
    load = pb.NodeLoad.FromString(dict(call.trailing_metadata())[LOAD_KEY])
    assert load.slots == 2
    assert 0 < load.first_ms <= load.server_ms
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Generate(_request(max_tokens=-1), timeout=10, metadata=VERSION))
    assert pb.NodeLoad.FromString(dict(caught.value.trailing_metadata())[LOAD_KEY]).slots == 2


class Quoting:
    """A model whose name cannot be read, with an error that quotes what it should not."""

    @property
    def model(self):
        raise ValueError("my secret prompt")


def test_an_error_that_nobody_expected_is_typed_and_its_text_stays_on_the_node(pki, tools, caplog):
    engine = tools.FakeEngine()
    with (
        tools.Node(pki.node, engine=engine) as node,
        grpc.secure_channel(node.target, client_credentials(pki.app)) as channel,
    ):
        engine.info = Quoting()
        with pytest.raises(grpc.RpcError) as caught:
            HybridLLMStub(channel).Describe(pb.DescribeRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "the node failed on this request (ValueError)"
    assert "secret" not in caplog.text

"""Sealed calls over real gRPC: what a proxy that ends TLS can read, and what becomes of what it changes."""

import asyncio
import base64
import importlib.util
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from benchmarks._tls_proxy import RecordingProxy
from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig, GrpcPool
from hybrid_llm.backends.wire.channels import client_credentials, client_options, sync_channel
from hybrid_llm.backends.wire.sealing.keys import SealKey, write_key
from hybrid_llm.backends.wire.sealing.messages import seal_request
from hybrid_llm.backends.wire.sealing.pins import SealedSpec
from hybrid_llm.backends.wire.sealing.suites import SUITES, X25519
from hybrid_llm.backends.wire.status import PROTOCOL_KEY
from hybrid_llm.core.clearance import _make_cleared
from hybrid_llm.core.errors import (
    ConfigError,
    DecryptionFailed,
    PrivacyViolation,
    RequestRejected,
)
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.policies import parse_policy
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.router.client import HybridLLM
from tests.fakes import FakeBackend

_spec = importlib.util.spec_from_file_location("wire_between", Path(__file__).with_name("between.py"))
between = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = between
_spec.loader.exec_module(between)

ANSWER = "the answer is forty-two"


def spec_of(folder, name="node"):
    return SealedSpec(keys=folder / f"{name}.seal.pub")


@pytest.fixture
def node(pki, tools, sealing):
    with tools.Node(pki.node, tools.FakeEngine(ANSWER), sealed=sealing) as running:
        yield running


@pytest.fixture
def connect(pki, tools, sealing):
    """Makes sealed backends, which are closed after the test."""
    made = []

    def make(target, spec=None, **config):
        made.append(tools.backend(target, pki.app, sealed=spec or spec_of(sealing), **config))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("name", SUITES)
def test_a_sealed_call_is_answered_with_each_suite(pki, tools, tmp_path, connect, name):
    write_key(tmp_path, "node", suite=SUITES[name], days=1)
    with tools.Node(pki.node, tools.FakeEngine(ANSWER), sealed=tmp_path) as node:
        cloud = connect(node.target, spec_of(tmp_path))
        assert tools.answer(cloud.stream(tools.cleared("hello"))) == ANSWER
        assert tools.answer(asyncio.run(tools.collect(cloud.astream(tools.cleared("hello"))))) == ANSWER
        assert cloud.state().sealed
        assert cloud.probe().seals


def test_a_pool_seals_to_each_of_its_nodes(pki, tools, node, sealing):
    configs = [GrpcConfig(target=node.target, tls=pki.app, sealed=spec_of(sealing))]
    pool = GrpcPool(configs)
    try:
        cleared = must_be_sealed("hello")
        assert tools.answer(pool.stream(cleared)) == ANSWER
        assert pool.state().sealed
    finally:
        pool.close()


def must_be_sealed(text):
    request = Request(messages=(Message(role="user", content=text),), deadline=10.0, max_tokens=64)
    return _make_cleared(request, Location.CLOUD, sealed=True)


def test_a_request_that_must_be_sealed_is_refused_by_a_backend_that_does_not(pki, tools, node):
    plain = tools.backend(node.target, pki.app)
    try:
        assert not plain.state().sealed
        with pytest.raises(PrivacyViolation, match="must be sealed"):
            list(plain.stream(must_be_sealed("hello")))
    finally:
        plain.close()


def test_a_proxy_that_ends_tls_sees_no_byte_of_prompts_or_answers(pki, tools, sealing, connect):
    """The control is the same traffic unsealed, in which the same proxy finds every word."""
    random_words = random.Random(7)
    words = [f"planted-{random_words.getrandbits(48):012x}" for _ in range(60)]
    with (
        tools.Node(pki.node, tools.FakeEngine(ANSWER), sealed=sealing) as node,
        RecordingProxy(pki.middle, pki.rogue, node.port) as proxy,
    ):
        sealed, plain = connect(proxy.target), tools.backend(proxy.target, pki.app)
        for word in words:
            fields = {"session_id": word, "tenant": word, "request_id": word}
            assert tools.answer(sealed.stream(tools.cleared(f"tell me of {word}", **fields))) == ANSWER
        hidden_up, hidden_down = bytes(proxy.up), bytes(proxy.down)
        for word in words:
            assert tools.answer(plain.stream(tools.cleared(f"tell me of {word}"))) == ANSWER
        plain.close()
    assert len(hidden_up) > 60 * 1200
    assert not [word for word in words if word.encode() in hidden_up + hidden_down]
    assert b"tell me" not in hidden_up
    assert not [part for part in ANSWER.split() if len(part) > 3 and part.encode() in hidden_down]
    assert all(word.encode() in proxy.up for word in words)


@pytest.fixture
def meddle(pki, node):
    """Starts a proxy in front of the node that changes messages."""
    running = []

    def start(**how):
        running.append(between.Meddler(pki.middle, pki.rogue, node.port, **how).__enter__())
        return running[-1]

    yield start
    for each in running:
        each.__exit__()


def edited(data, **values):
    message = pb.GenerateChunk.FromString(data)
    for name, value in values.items():
        setattr(message, name, value)
    return message.SerializeToString()


def flip(data):
    message = pb.GenerateChunk.FromString(data)
    return edited(data, sealed=bytes([message.sealed[0] ^ 1]) + message.sealed[1:])


DAMAGES = {
    "reordered": lambda sent: [sent[0], sent[2], sent[1], *sent[3:]],
    "the first is dropped": lambda sent: sent[1:],
    "one is dropped": lambda sent: [*sent[:3], *sent[4:]],
    "one is repeated": lambda sent: [*sent[:4], *sent[3:]],
    "cut off": lambda sent: sent[:5],
    "the last is dropped": lambda sent: sent[:-1],
    "cut off and marked as the last": lambda sent: [*sent[:4], edited(sent[4], last=True)],
    "a bit is flipped": lambda sent: [*sent[:2], flip(sent[2]), *sent[3:]],
    "the nonce is changed": lambda sent: [edited(sent[0], answer_nonce=bytes(32)), *sent[1:]],
    "more after the end": lambda sent: [*sent, sent[-1]],
    "in the clear": lambda _: [pb.GenerateChunk(text="forged", finish_reason=1).SerializeToString()],
    "nothing": lambda _: [],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("how", ["sync", "async"])
def test_an_answer_that_is_damaged_on_the_way_ends_in_decryption_failed(tools, connect, meddle, damage, how):
    cloud = connect(meddle(answer=DAMAGES[damage]).target)
    got = []

    async def collect():
        async for chunk in cloud.astream(tools.cleared("hello")):
            got.append(chunk.text)

    with pytest.raises(DecryptionFailed):
        asyncio.run(collect()) if how == "async" else got.extend(c.text for c in cloud.stream(tools.cleared("hello")))
    assert ANSWER.startswith("".join(got))


def test_the_app_sees_that_its_request_left_sealed(node, connect):
    policy = parse_policy("version: 1\nname: p\ntags: {phi: {allow: [cloud], to_cloud: sealed}}\n")
    with HybridLLM([FakeBackend("edge", Location.EDGE), connect(node.target)], policy) as llm:
        answer = llm.generate("hello", privacy={"phi"})
    assert answer.text == ANSWER
    assert [(left.backend, left.sealed) for left in answer.departures] == [("cloud", True)]


def test_damage_ends_the_request_without_a_retry_or_another_backend(tools, connect, meddle):
    proxy, edge = meddle(answer=DAMAGES["a bit is flipped"]), FakeBackend("edge", Location.EDGE)
    text = "version: 1\nname: p\nrules: [{prefer: [cloud, edge]}]\nresilience: {retries: 3, continue_streams: true}\n"
    with HybridLLM([edge, connect(proxy.target)], parse_policy(text)) as llm, pytest.raises(DecryptionFailed):
        llm.generate("hello")
    assert len(proxy.seen) == 1
    assert not edge.requests


def test_the_answer_to_another_request_is_refused(tools, connect, meddle):
    answers = []

    def swap(sent):
        answers.append(sent)
        return answers[0]

    cloud = connect(meddle(answer=swap).target)
    assert tools.answer(cloud.stream(tools.cleared("one"))) == ANSWER
    with pytest.raises(DecryptionFailed):
        list(cloud.stream(tools.cleared("two")))


def test_a_request_that_is_sent_twice_is_answered_once(tools, node, connect, meddle):
    proxy = meddle(repeat=2)
    with pytest.raises(DecryptionFailed, match="replay"):
        list(connect(proxy.target).stream(tools.cleared("hello")))
    assert len(node.engine.seen) == 1


def _request(data, **values):
    message = pb.GenerateRequest.FromString(data)
    for name, value in values.items():
        setattr(message, name, value(getattr(message, name)) if callable(value) else value)
    return message.SerializeToString()


@pytest.mark.parametrize(
    "change",
    [
        {"sealed": lambda old: old[:-1] + bytes([old[-1] ^ 1])}, {"sealed": lambda old: old[:-1]},
        {"sealed": lambda old: b"\1" + old[1:]}, {"key_id": b"another!"}, {"max_tokens": 1}, {"tenant": "another"},
    ],
)  # fmt: skip
def test_a_request_that_is_changed_on_the_way_reaches_no_engine(tools, node, connect, meddle, change):
    with pytest.raises(DecryptionFailed):
        list(connect(meddle(request=lambda data: _request(data, **change)).target).stream(tools.cleared("hello")))
    assert not node.engine.seen


def test_a_proxy_that_offers_a_key_of_its_own_gets_nothing(tools, connect, meddle):
    own = SealKey.make(X25519, datetime.now(UTC) + timedelta(days=1)).config

    def offer(data):
        description = pb.NodeDescription.FromString(data)
        del description.sealing_keys[:]
        description.sealing_keys.add(suite="x25519", public_key=own.public, not_after=int(own.not_after.timestamp()))
        return description.SerializeToString()

    proxy = meddle(describe=offer)
    with pytest.raises(DecryptionFailed, match="none of the node's sealing keys"):
        list(connect(proxy.target).stream(tools.cleared("hello")))
    assert not proxy.seen


def test_a_node_without_keys_gets_nothing(pki, tools, connect):
    with tools.Node(pki.node) as node:
        cloud = connect(node.target)
        with pytest.raises(DecryptionFailed, match="offers no sealing key"):
            list(cloud.stream(tools.cleared("hello")))
        assert not node.engine.seen
        with pytest.raises(DecryptionFailed, match="offers no sealing key"):
            cloud.probe()


def test_a_node_that_takes_sealed_requests_only_refuses_others(pki, tools, sealing, connect):
    with tools.Node(pki.node, tools.FakeEngine(ANSWER), sealed=sealing, only_sealed=True) as node:
        plain = tools.backend(node.target, pki.app)
        with pytest.raises(RequestRejected, match="sealed requests only"):
            list(plain.stream(tools.cleared("hello")))
        plain.close()
        assert tools.answer(connect(node.target).stream(tools.cleared("hello"))) == ANSWER


def test_a_node_that_has_no_key_does_not_start(pki, tools, tmp_path):
    with pytest.raises(ConfigError, match="certs seal-key"), tools.Node(pki.node, sealed=tmp_path):
        pass
    with pytest.raises(ConfigError, match="--sealed"), tools.Node(pki.node, only_sealed=True):
        pass


def test_keys_are_rotated_without_a_restart_and_without_a_failed_call(pki, tools, tmp_path, connect):
    """The new key goes to the apps, then to the node; when the old one is gone, calls use the new one."""
    folder, pins = tmp_path / "node", tmp_path / "sealing.pub"
    old = write_key(folder, "old", suite=X25519, days=1)
    pins.write_text(old.line() + "\n")
    with tools.Node(pki.node, tools.FakeEngine(ANSWER), sealed=folder) as node:
        first, spec = connect(node.target, SealedSpec(keys=pins)), SealedSpec(keys=pins)
        assert tools.answer(first.stream(tools.cleared("one"))) == ANSWER
        new = write_key(folder, "new", suite=X25519, days=2)
        node.loop.call_soon_threadsafe(node.server.reload)  # what SIGHUP does
        assert tools.answer(first.stream(tools.cleared("two"))) == ANSWER  # with the old key, which is still valid
        late = connect(node.target, spec)
        assert tools.answer(late.stream(tools.cleared("three"))) == ANSWER  # has no pin of the new one
        pins.write_text(f"{old.line()}\n{new.line()}\n")
        ready = connect(node.target, spec)
        assert tools.answer(ready.stream(tools.cleared("four"))) == ANSWER
        (folder / "old.seal").unlink()
        node.loop.call_soon_threadsafe(node.server.reload)
        assert tools.answer(ready.stream(tools.cleared("five"))) == ANSWER
        with pytest.raises(DecryptionFailed, match="a key that this node does not have"):
            list(first.stream(tools.cleared("six")))  # removed too early
        assert tools.answer(first.stream(tools.cleared("seven"))) == ANSWER  # it fetched the keys again


def test_expired_keys_are_refused_on_both_sides(pki, tools, tmp_path, connect):
    key = SealKey.make(X25519, datetime.now(UTC) - timedelta(seconds=1))
    line = key.config.line()
    (tmp_path / "node.seal.pub").write_text(line)
    (tmp_path / "node.seal").write_text(f"{line.rpartition(' ')[0]} {base64.b64encode(key.private).decode()}")
    with tools.Node(pki.node, tools.FakeEngine(ANSWER), sealed=tmp_path) as node:
        with pytest.raises(DecryptionFailed, match="offers no sealing key"):
            list(connect(node.target, spec_of(tmp_path)).stream(tools.cleared("hello")))
        with pytest.raises(grpc.RpcError) as refused:
            sealed_by_hand(pki, node, key.config)
        assert refused.value.details() == "the request is sealed to a key that has expired"
        assert not node.engine.seen


def sealed_by_hand(pki, node, key):
    """Send a request sealed to *key*, whatever our client would say of it."""
    data = pb.GenerateRequest(messages=[pb.Message(role=2, content="hi")], max_tokens=3).SerializeToString()
    wire, _ = seal_request(data, key, issued_ms=int(datetime.now(UTC).timestamp() * 1000))
    channel = sync_channel(node.target, client_credentials(pki.app), client_options())
    try:
        list(channel.unary_stream("/hybrid_llm.v1.HybridLLM/Generate")(wire, metadata=((PROTOCOL_KEY, "1"),)))
    finally:
        channel.close()


def test_backends_refuse_a_file_of_pins_that_is_none(pki, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        GrpcBackend(GrpcConfig(target="127.0.0.1:1", tls=pki.app, sealed=SealedSpec(keys=tmp_path / "none.pub")))

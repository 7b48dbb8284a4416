"""Whatever an engine does on a node: the client gets a typed error, and neither status nor log quotes anything."""

from __future__ import annotations

import logging

import grpc
import pytest
from tokenizers import Tokenizer, decoders, models

from hybrid_llm.backends.node.engine import EngineDied, EngineFault, EngineOutput
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.backends.wire.channels import client_credentials
from hybrid_llm.backends.wire.status import PROTOCOL_KEY
from hybrid_llm.core.errors import BackendUnavailable, RequestRejected
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMStub
from tests.backends.wire.fakes import TEMPLATE, FakeEngine

CANARY = "Quartalsbericht"


class PanicException(BaseException):
    """What a library in Rust raises when it panics."""


class Odd(FakeEngine):
    """Yields *items*, raising those that are errors."""

    def __init__(self, *items):
        super().__init__()
        self.items = items

    async def stream(self, request):
        for item in self.items:
            if isinstance(item, BaseException):
                raise item
            yield item


class Plain(FakeEngine):
    """Its streams are iterators that cannot be closed."""

    def stream(self, request):
        return PlainIterator(super().stream(request))


class PlainIterator:
    def __init__(self, items):
        self.items = items

    def __aiter__(self):
        return self

    def __anext__(self):
        return self.items.__anext__()


def test_an_engine_may_return_any_iterator(pki, tools):
    with tools.Node(pki.node, Plain("hello")) as node:
        cloud = tools.backend(node.target, pki.app)
        assert tools.answer(cloud.stream(tools.cleared("hi"))) == "hello"
        cloud.close()


class NoLoad(FakeEngine):
    def load(self):
        raise ValueError(CANARY)


def fault(message):
    return EngineOutput(request_id="1", error=EngineFault(code="internal", message=message))


ODD = {
    "ValueError": Odd(ValueError(CANARY)),
    "panic": Odd(PanicException(CANARY)),
    "died": Odd(EngineDied(CANARY)),
    "fault": Odd(fault(CANARY)),
    "fault of no kind": Odd(EngineOutput(request_id="1", error=EngineFault(code=CANARY, message=CANARY))),
    "no output": Odd(CANARY),
    "tokens that are none": Odd(EngineOutput(request_id="1", token_ids=(CANARY,))),
    "negative tokens": Odd(EngineOutput(request_id="1", token_ids=(-1,))),
    "huge tokens": Odd(EngineOutput(request_id="1", token_ids=(2**40,))),
    "reason that is none": Odd(EngineOutput(request_id="1", finish_reason=CANARY)),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_engine_that_does_anything_ends_the_call_alone(pki, tools, odd, caplog):
    with caplog.at_level(logging.DEBUG), tools.Node(pki.node, ODD[odd]) as node:
        cloud = tools.backend(node.target, pki.app)
        with pytest.raises(BackendUnavailable) as caught:
            list(cloud.stream(tools.cleared("hi")))
        with grpc.secure_channel(node.target, client_credentials(pki.app)) as channel:
            request = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="hi")], max_tokens=4)
            with pytest.raises(grpc.RpcError) as raw:
                list(HybridLLMStub(channel).Generate(request, timeout=10, metadata=((PROTOCOL_KEY, "1"),)))
        assert cloud.probe().ready
        cloud.close()
    assert caught.value.reason == ("not_ready" if odd == "died" else "failed")
    assert CANARY not in f"{caught.value} {raw.value.details()} {raw.value.trailing_metadata()} {caplog.text}"


def test_an_engine_that_does_not_report_its_load_costs_no_answer(pki, tools):
    with tools.Node(pki.node, NoLoad("hello")) as node:
        cloud = tools.backend(node.target, pki.app)
        assert tools.answer(cloud.stream(tools.cleared("hi"))) == "hello"
        cloud.close()


def byte_fallback():
    named = ("J", "日", "本", "</s>")
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {name: 256 + at for at, name in enumerate(named)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return ChatTokenizer(tokenizer, TEMPLATE, eos_ids=[259])


@pytest.mark.parametrize(
    ("ids", "text"),
    [([256, 0xE6, 257, 258], "J\ufffd日本"), ([0x41, 0xE6, 257], "\ufffd\ufffd日"), ([256, 0xE6], "J\ufffd")],
)
def test_a_lone_byte_becomes_a_replacement_character(pki, tools, ids, text):
    engine = FakeEngine()
    engine.ids = ids
    with tools.Node(pki.node, engine, byte_fallback()) as node:
        cloud = tools.backend(node.target, pki.app)
        assert tools.answer(cloud.stream(tools.cleared("hi"))) == text
        cloud.close()


class WithSchemas(FakeEngine):
    async def start(self):
        from dataclasses import replace

        self.info = replace(await super().start(), output_schema=True)
        return self.info


@pytest.mark.parametrize(
    "schema", ['{"$ref": "#"}', '{"enum": [9007199254740993]}', f'{{"{CANARY}": {{}}, "not": {{}}}}']
)
def test_a_node_checks_the_schema_again(pki, tools, schema):
    with tools.Node(pki.node, WithSchemas()) as node:
        cloud = tools.backend(node.target, pki.app)
        with pytest.raises(RequestRejected, match="cannot be turned into a grammar") as caught:
            list(cloud.stream(tools.cleared("hi", output_schema=schema)))
        assert caught.value.reason == "unsupported"
        assert CANARY not in str(caught.value)
        assert node.engine.seen == []
        cloud.close()

"""llama.cpp's own server as the cloud, with real weights: what `kind: openai` says of it is what it does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.openai.spec import OpenAISpec
from hybrid_llm.core.errors import AllBackendsFailed, RequestRejected
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import FixedSensors
from tests.chaos.proxy import Proxy
from tests.weights import Unreachable, smollm2_gguf

pytest.importorskip("xllamacpp", reason="llama.cpp's server is not installed")
POLICY = """\
version: 1
name: llama
rules:
  - prefer: [first, second]
resilience: {retries: 0, continue_streams: true}
"""
GREEDY = {"temperature": 0.0, "deadline": 120.0}
TEXT = "Tell me about the sea."
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where it listens: `host:port`."""
    try:
        weights = smollm2_gguf()
    except Unreachable as error:
        pytest.skip(str(error))
    command = [sys.executable, str(Path(__file__).with_name("llama_cpp_server.py")), str(weights)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("LISTENING "), line
        yield line.split("//")[1].strip()
        process.kill()


@pytest.fixture(scope="module")
def proxy(address) -> Iterator[Proxy]:
    with Proxy(int(address.rpartition(":")[2])) as made:
        yield made


@pytest.fixture(scope="module")
def llm(address, proxy) -> Iterator[HybridLLM]:
    """The server by way of the proxy, and directly; what it is has been found out."""
    places = {"first": f"127.0.0.1:{proxy.port}", "second": address}
    backends = [
        OpenAISpec(name=name, base_url=f"http://{place}/v1", model="smollm2", logprobs=True).open()
        for name, place in places.items()
    ]
    for backend in backends:
        backend.probe()
    policy = parse_policy(POLICY, backends={each.name: each.location for each in backends})
    with HybridLLM(backends, policy, sensors=FixedSensors()) as made:
        yield made


def test_what_it_is_is_found_out(llm):
    for backend in llm.backends:
        assert backend.probe().server == "llama.cpp"
        assert backend.capabilities.context_window == 1024, "2,048 tokens in two slots"
        assert backend.capabilities.tools is False, "the chat template of SmolLM2 knows no tools"


def test_it_answers_whole_and_streamed_with_the_usage_that_it_reports(llm):
    reply = llm.generate(TEXT, max_tokens=16, **GREEDY)
    assert reply.finish_reason == "length"
    assert reply.usage.completion_tokens == 16
    assert reply.usage.prompt_tokens > 5
    streamed = "".join(chunk.text for chunk in llm.stream(TEXT, max_tokens=16, **GREEDY))
    assert streamed == reply.text
    assert len(reply.text) > 30


def test_settings_reach_it(llm):
    seeded = [llm.generate(TEXT, max_tokens=12, temperature=1.0, seed=7, deadline=120).text for _ in range(2)]
    assert seeded[0] == seeded[1]
    whole = llm.generate(TEXT, max_tokens=16, **GREEDY).text
    word = whole.split()[4]
    stopped = llm.generate(TEXT, max_tokens=16, stop=[word], **GREEDY)
    assert stopped.text == whole[: whole.index(word)]
    assert stopped.finish_reason == "stop"
    scored = llm.generate(TEXT, max_tokens=4, logprobs=2, **GREEDY)
    assert len(scored.logprobs) == 4
    assert all(len(token.top) == 2 for token in scored.logprobs)


def test_json_follows_its_schema(llm):
    reply = llm.generate("Ann is 30 years old. Answer as JSON.", output_schema=PERSON, max_tokens=60, **GREEDY)
    assert reply.parsed == json.loads(reply.text)
    assert reply.parsed.keys() == {"name", "age"}


def test_what_does_not_fit_and_what_it_cannot_do_is_said_by_name(llm):
    with pytest.raises(AllBackendsFailed) as caught:
        llm.generate("word " * 3000, max_tokens=8, deadline=60)
    for failure in caught.value.failures.values():
        assert isinstance(failure, RequestRejected)
        assert failure.reason == "context_overflow"

    def weather(city: str) -> str:
        """The weather in a city."""
        return city

    with pytest.raises(AllBackendsFailed) as caught:
        llm.generate(TEXT, tools=[weather], deadline=60)
    assert {failure.reason for failure in caught.value.failures.values()} == {"unsupported"}


@pytest.mark.parametrize("schema", [None, PERSON], ids=["text", "json"])
def test_an_answer_that_is_cut_is_continued_to_the_answer_without_a_cut(llm, proxy, schema):
    options = {"max_tokens": 40, "output_schema": schema, **GREEDY}
    prompt = "Ann is 30 years old. Answer as JSON." if schema else TEXT
    whole = llm.generate(prompt, **options)
    stream = llm.stream(prompt, **options)
    for number, _ in enumerate(stream):
        if number == 3:
            proxy.cut()
    reply = stream.generation
    assert reply.continuations, "it was not cut in its middle"
    if schema is None:
        assert reply.text == whole.text
    assert reply.text.startswith(whole.text[:8])
    assert schema is None or reply.parsed.keys() == {"name", "age"}


def test_leaving_a_stream_stops_the_server(llm, address):
    for _ in range(3):
        stream = llm.stream(TEXT, max_tokens=900, **GREEDY)
        next(iter(stream))
        assert _busy(address)
        stream.close()
        left = time.monotonic()
        while _busy(address):
            assert time.monotonic() < left + 5, "it goes on generating"
            time.sleep(0.01)


def _busy(address: str) -> bool:
    with urllib.request.urlopen(f"http://{address}/slots", timeout=10) as response:
        return any(slot["is_processing"] for slot in json.load(response))

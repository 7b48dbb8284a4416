"""A request that is too large is refused before any work, and the loop of another library before any call."""

from __future__ import annotations

import asyncio
import time

import pytest

import hybrid_llm
from hybrid_llm.core.limits import RequestLimits
from hybrid_llm.core.request import Location
from hybrid_llm.errors import ConfigError, InvalidRequest, UnsupportedRuntime
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

CONFIG = """\
version: 1
policy: balanced
backends: {edge: {kind: onnx, model: embedded}}
limits: {messages: 3, bytes: 40}
"""


@pytest.fixture
def llm(tmp_path):
    (tmp_path / "hybrid.yaml").write_text(CONFIG)
    with HybridLLM.from_config(tmp_path / "hybrid.yaml") as client:
        yield client


def conversation(count: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "Hi."}] * count


TOOL = hybrid_llm.Tool(name="t", description="d" * 40)


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        (conversation(4), {}, "4 messages, the limit is 3"),
        ("x" * 41, {}, "the limit is 40 bytes"),
        ("学" * 14, {}, "42 bytes"),
        ("x", {"stop": ["y" * 40]}, "41 bytes"),
        ("x", {"tools": [TOOL]}, "limit is 40 bytes"),
    ],
)
def test_what_is_over_a_limit_of_the_file_is_refused_with_the_key_to_change(llm, prompt, options, words):
    for call in (
        lambda: llm.decide(prompt, **options),
        lambda: llm.generate(prompt, **options),
        lambda: asyncio.run(llm.agenerate(prompt, **options)),
    ):
        with pytest.raises(InvalidRequest, match=words) as caught:
            call()
        assert caught.value.field == "prompt"
        assert "`limits: " in str(caught.value)


@pytest.mark.parametrize("prompt", [conversation(3), "x" * 40, "学" * 13])
def test_what_is_at_a_limit_is_routed(llm, prompt):
    assert llm.decide(prompt).order == ("edge",)


@pytest.mark.parametrize("key", ["messages", "bytes"])
def test_a_limit_of_nothing_is_an_error_of_the_configuration(tmp_path, key):
    (tmp_path / "hybrid.yaml").write_text(CONFIG.replace("messages: 3, bytes: 40", f"{key}: 0"))
    with pytest.raises(ConfigError, match=key):
        HybridLLM.from_config(tmp_path / "hybrid.yaml")


def fake_client(limits: RequestLimits | None = None) -> HybridLLM:
    policy = parse_policy("version: 1\nname: p\n", backends={"edge": Location.EDGE})
    return HybridLLM([FakeBackend("edge", Location.EDGE)], policy, sensors=FixedSensors(), limits=limits)


@pytest.mark.parametrize("prompt", [conversation(1_000_000), "x" * 50_000_000], ids=["messages", "bytes"])
def test_by_default_a_huge_prompt_is_refused_without_a_look_at_its_texts(prompt):
    with fake_client() as llm:
        began = time.monotonic()
        with pytest.raises(InvalidRequest):
            llm.generate(prompt, deadline=0.5)
        assert time.monotonic() - began < 5.0


def test_limits_may_be_given_in_code():
    with fake_client(RequestLimits(messages=1)) as llm, pytest.raises(InvalidRequest, match="2 messages"):
        llm.decide(conversation(2))


CALLS = {
    "agenerate": lambda llm: llm.agenerate("Hi."),
    "astream": lambda llm: anext(llm.astream("Hi.")),
    "adecide": lambda llm: llm.adecide("Hi."),
    "async with": lambda llm: llm.__aenter__(),
    "hybrid_llm.agenerate": lambda _: hybrid_llm.agenerate("Hi."),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_loop_that_is_not_of_asyncio_is_an_error_with_the_remedy(name):
    trio = pytest.importorskip("trio")

    async def main(llm: HybridLLM) -> None:
        await CALLS[name](llm)

    with fake_client() as llm, pytest.raises(UnsupportedRuntime, match=r"trio\.to_thread"):
        trio.run(main, llm)


def test_the_sync_calls_work_in_a_thread_of_trio():
    trio = pytest.importorskip("trio")

    async def main() -> str:
        return (await trio.to_thread.run_sync(llm.generate, "Hi.")).text

    with fake_client() as llm:
        assert trio.run(main) == "ok"

"""The provider for LiteLLM, by its own functions: `make clients`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

pytest.importorskip("litellm", reason="make clients")
import litellm

from hybrid_llm import HybridLLM, errors
from hybrid_llm.integrations.litellm import HybridCustomLLM
from tests.clients.conftest import Pair

ANSWER = "It is sunny, and the answer is yes."
SECRET = "The patient is Jane."
ASKED: Any = [{"role": "user", "content": "Is it sunny?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    mayor: str


@pytest.fixture(autouse=True)
def _provider(llm: HybridLLM) -> Iterator[None]:
    use(llm)
    yield
    litellm.custom_provider_map = []


def use(client: HybridLLM) -> None:
    litellm.suppress_debug_info = True
    litellm.custom_provider_map = [{"provider": "hybrid", "custom_handler": HybridCustomLLM(client=client)}]


def joined(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_every_way_of_asking_gives_the_same_answer() -> None:
    whole = litellm.completion("hybrid/auto", ASKED)
    awaited = await litellm.acompletion("hybrid/auto", ASKED)
    assert whole.choices[0].message.content == awaited.choices[0].message.content == ANSWER
    assert (whole.model, whole.choices[0].finish_reason) == ("capable", "stop")
    streamed = list(litellm.completion("hybrid/auto", ASKED, stream=True, stream_options={"include_usage": True}))
    assert joined(streamed) == ANSWER
    assert [c.choices[0].finish_reason for c in streamed if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert streamed[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert streamed[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    stream = await litellm.acompletion("hybrid/auto", ASKED, stream=True)
    assert joined([chunk async for chunk in stream]) == ANSWER


def test_an_answer_says_where_and_why_it_was_made_and_what_it_cost(pair: Pair) -> None:
    use(pair()[0])
    reply = litellm.completion("hybrid/auto", ASKED)
    made = reply.choices[0].message.provider_specific_fields["hybrid"]
    assert (made["backend"], made["rule"]) == ("cloud", "rules[0]")
    assert made["cost"] == reply._hidden_params["response_cost"] == pytest.approx(reply.usage.total_tokens / 1000)


def test_a_model_can_be_named_and_options_of_ours_are_arguments(pair: Pair) -> None:
    client, edge, cloud = pair()
    use(client)
    litellm.completion("hybrid/edge", ASKED)
    litellm.completion("hybrid/auto", ASKED, privacy=["phi"], task="hard", session_id="s", top_k=5, timeout=7.0)
    litellm.completion(
        "hybrid/capable", ASKED, max_completion_tokens=9, stop=["X"], temperature=0.5, frequency_penalty=-0.5
    )
    assert (len(edge.requests), len(cloud.requests)) == (2, 1)
    named, private = edge.requests
    assert named.backends == ("edge",)
    assert (private.privacy, private.task, private.deadline) == ({"phi"}, "hard", 7.0)
    assert private.sampling.top_k == 5
    (sent,) = cloud.requests
    assert (sent.max_tokens, sent.sampling.stop, sent.sampling.temperature) == (9, ("X",), 0.5)
    assert sent.sampling.frequency_penalty == -0.5
    with pytest.raises(litellm.BadRequestError, match="there are auto, edge, capable, cloud"):
        litellm.completion("hybrid/gpt-99", ASKED)


def test_a_loop_of_tools(pair: Pair) -> None:
    client, _, cloud = pair()
    use(client)
    messages = list(ASKED)
    called = litellm.completion("hybrid/auto", messages, tools=[WEATHER], tool_choice="required")
    (call,) = called.choices[0].message.tool_calls
    assert (call.function.name, called.choices[0].finish_reason) == ("weather", "tool_calls")
    messages += [called.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    assert litellm.completion("hybrid/auto", messages, tools=[WEATHER]).choices[0].message.content == ANSWER
    assert cloud.requests[-1].messages[-1].content == "sunny"
    assert cloud.requests[0].tool_choice == "required"


async def test_streamed_calls_add_up() -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    stream = await litellm.acompletion("hybrid/auto", ASKED, tools=[WEATHER], tool_choice=choice, stream=True)
    whole = litellm.stream_chunk_builder([chunk async for chunk in stream])
    (call,) = whole.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "cats"}')
    assert whole.choices[0].finish_reason == "tool_calls"


def test_structured_answers_follow_their_schema() -> None:
    reply = litellm.completion("hybrid/auto", ASKED, response_format=City)
    assert City.model_validate_json(reply.choices[0].message.content) == City(name="cats", mayor="cats")
    assert litellm.completion("hybrid/auto", ASKED, response_format={"type": "json_object"}).choices[0].message.content


def test_reasoning_is_no_part_of_the_text_and_goes_back_with_its_turn(pair: Pair) -> None:
    client, _, cloud = pair(reasoning="Look outside.")
    use(client)
    reply = litellm.completion("hybrid/auto", ASKED).choices[0].message
    assert (reply.reasoning_content, reply.content) == ("Look outside.", ANSWER)
    litellm.completion("hybrid/auto", [*ASKED, reply, {"role": "user", "content": "Sure?"}])
    assert cloud.requests[-1].messages[1].reasoning == "Look outside."
    streamed = list(litellm.completion("hybrid/auto", ASKED, stream=True))
    assert streamed[0].choices[0].delta.reasoning_content == "Look outside."


@pytest.mark.parametrize(
    ("error", "theirs"),
    [
        (errors.RequestRejected("long", backend="b", reason="context_overflow"), litellm.ContextWindowExceededError),
        (errors.DeadlineExceeded("late", backend="b"), litellm.Timeout),
        (errors.BackendOverloaded("full", backend="b"), litellm.ServiceUnavailableError),
        (errors.PrivacyViolation("no", location="cloud"), litellm.PermissionDeniedError),
    ],
)
async def test_errors_are_ours_and_litellms_at_once(pair: Pair, error: Exception, theirs: type[Exception]) -> None:
    use(pair(error=error)[0])
    secret: Any = [{"role": "user", "content": SECRET}]

    async def streamed() -> None:
        async for _ in await litellm.acompletion("hybrid/auto", secret, stream=True):
            pass

    for call in (
        lambda: asyncio.to_thread(litellm.completion, "hybrid/auto", secret),
        lambda: litellm.acompletion("hybrid/auto", secret),
        lambda: asyncio.to_thread(list, litellm.completion("hybrid/auto", secret, stream=True)),
        streamed,
    ):
        with pytest.raises(theirs) as raised:
            await call()
        assert SECRET not in str(raised.value)
        ours = getattr(raised.value, "original_exception", raised.value)  # LiteLLM wraps what may be retried in streams
        assert isinstance(ours, errors.HybridLLMError)


def test_a_refusal_is_one_of_litellms(refusing: HybridLLM) -> None:
    use(refusing)
    with pytest.raises(litellm.ContentPolicyViolationError) as raised:
        litellm.completion("hybrid/auto", [{"role": "user", "content": "It is forbidden."}])
    assert isinstance(raised.value, errors.ContentRefused)


async def test_leaving_and_cancelling_stop_the_backend(pair: Pair) -> None:
    client, _, cloud = pair(endless=True)
    use(client)
    stream = litellm.completion("hybrid/auto", ASKED, stream=True)
    next(stream)
    stream.close()
    assert cloud.left == 1
    with pytest.raises((TimeoutError, litellm.Timeout)):
        async with asyncio.timeout(0.05):
            await litellm.acompletion("hybrid/auto", ASKED)
    assert cloud.left == 2
    pieces = await litellm.acompletion("hybrid/auto", ASKED, stream=True)
    await anext(pieces)
    await pieces.aclose()
    assert cloud.left == 3


async def test_the_embedded_model_answers_in_every_way(embedded: HybridLLM) -> None:
    use(embedded)
    whole = await litellm.acompletion("hybrid/auto", ASKED, max_tokens=20)
    streamed = list(litellm.completion("hybrid/auto", ASKED, max_tokens=20, stream=True))
    assert joined(streamed) == whole.choices[0].message.content != ""

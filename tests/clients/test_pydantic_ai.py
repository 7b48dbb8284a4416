"""The model for pydantic-ai, in its agents: `make clients`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

pytest.importorskip("pydantic_ai", reason="make clients")
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelContextWindowExceededError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRequestRejectedError,
    ModelTimeoutError,
)
from pydantic_ai.messages import ImageUrl, ModelRequest, ModelResponse, TextPart, ThinkingPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.settings import ToolOrOutput
from pydantic_ai.tools import ToolDefinition

from hybrid_llm import HybridLLM, errors
from hybrid_llm.integrations.pydantic_ai import HybridModel, HybridModelSettings
from tests.clients.conftest import Pair

ANSWER = "It is sunny, and the answer is yes."
SECRET = "The patient is Jane."


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    mayor: str


def weather_agent(model: HybridModel, **more: Any) -> Agent:
    agent = Agent(model, **more)

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"sunny in {city}"

    return agent


def test_an_answer_says_where_and_why_it_was_made(pair: Pair) -> None:
    run = Agent(HybridModel(client=pair()[0])).run_sync("Is it sunny?")
    response = run.all_messages()[-1]
    assert run.output == ANSWER
    assert isinstance(response, ModelResponse)
    assert (response.model_name, response.provider_name, response.finish_reason) == ("capable", "hybrid-llm", "stop")
    assert response.provider_details["backend"] == "cloud"
    assert response.provider_details["cost"] == pytest.approx(run.usage.total_tokens / 1000)


def test_an_agent_calls_tools_and_says_its_instructions(pair: Pair) -> None:
    client, _, cloud = pair()
    agent = weather_agent(HybridModel(client=client), instructions="Be brief.", system_prompt="You know the weather.")
    assert agent.run_sync("How is the weather?").output == ANSWER
    first, last = cloud.requests
    assert [message.role for message in first.messages] == ["system", "system", "user"]
    assert [message.role for message in last.messages][3:] == ["assistant", "tool"]
    assert last.messages[-1].content == "sunny in cats"
    assert first.messages[1].content == "Be brief."


@pytest.mark.parametrize("output", [City, NativeOutput(City), ToolOutput(City), PromptedOutput(City)])
@pytest.mark.parametrize("tools", [False, True])
def test_an_agent_returns_objects(llm: HybridLLM, output: Any, *, tools: bool) -> None:
    model = HybridModel(client=llm)
    agent = weather_agent(model, output_type=output) if tools else Agent(model, output_type=output)
    if isinstance(output, PromptedOutput):  # the model of these tests follows schemas alone
        with pytest.raises(Exception, match=r"retries|output"):
            agent.run_sync("Which city?")
    else:
        assert agent.run_sync("Which city?").output == City(name="cats", mayor="cats")


def test_the_schema_of_an_output_is_enforced(pair: Pair) -> None:
    client, _, cloud = pair()
    Agent(HybridModel(client=client), output_type=City).run_sync("Which city?")
    assert cloud.requests[0].output_schema is not None
    Agent(HybridModel(client=client), output_type=ToolOutput(City)).run_sync("Which city?")
    assert (cloud.requests[1].output_schema, cloud.requests[1].tool_choice) == (None, 0)


async def test_streams_of_text_tools_and_objects(llm: HybridLLM) -> None:
    model = HybridModel(client=llm)
    async with weather_agent(model).run_stream("How is the weather?") as run:
        assert "".join([piece async for piece in run.stream_text(delta=True)]) == ANSWER
    response = run.all_messages()[-1]
    assert response.provider_details["backend"] == "edge"
    assert response.finish_reason == "stop"
    assert run.usage.output_tokens > 0
    async with Agent(model, output_type=City).run_stream("Which city?") as run:
        assert await run.get_output() == City(name="cats", mayor="cats")


async def test_settings_reach_the_request_and_tags_only_add_up(pair: Pair) -> None:
    client, edge, cloud = pair()
    own: Any = HybridModelSettings(hybrid_privacy={"phi"}, hybrid_task="hard", max_tokens=9)
    agent = Agent(HybridModel(client=client, settings=own))
    more: Any = HybridModelSettings(hybrid_privacy={"public"}, stop_sequences=["X"], timeout=7.0, presence_penalty=0.5)
    await agent.run("Hi.", model_settings=more)
    (sent,) = edge.requests
    assert not cloud.requests
    assert sent.privacy == {"phi", "public"}
    assert (sent.task, sent.max_tokens, sent.deadline, sent.sampling.stop) == ("hard", 9, 7.0, ("X",))
    assert sent.sampling.presence_penalty == 0.5


WEATHER = ToolDefinition(name="weather", parameters_json_schema={"type": "object", "properties": {}})
TIME = ToolDefinition(name="time", parameters_json_schema={"type": "object", "properties": {}})
DONE = ToolDefinition(name="done", parameters_json_schema={"type": "object", "properties": {}}, kind="output")


@pytest.mark.parametrize(
    ("choice", "tools", "expected"),
    [
        (None, ["weather", "time"], "auto"),
        ("auto", ["weather", "time"], "auto"),
        ("none", [], "auto"),
        ("required", ["weather", "time"], "required"),
        (["time"], ["time"], 0),
        (ToolOrOutput(function_tools=["time"]), ["time"], "auto"),
    ],
)
async def test_the_choice_of_tools(pair: Pair, choice: Any, tools: list[str], expected: Any) -> None:
    client, _, cloud = pair()
    settings: Any = {} if choice is None else {"tool_choice": choice}
    parameters = ModelRequestParameters(function_tools=[WEATHER, TIME])
    messages: Any = [ModelRequest.user_text_prompt("How?")]
    await HybridModel(client=client).request(messages, settings, parameters)
    assert ([tool.name for tool in cloud.requests[0].tools], cloud.requests[0].tool_choice) == (tools, expected)


@pytest.mark.parametrize(
    ("choice", "tools", "expected"), [(None, ["weather", "done"], "required"), ("none", ["done"], 0)]
)
async def test_a_tool_for_the_output_must_be_called_where_text_is_no_output(
    pair: Pair, choice: Any, tools: list[str], expected: Any
) -> None:
    client, _, cloud = pair()
    parameters = ModelRequestParameters(
        function_tools=[WEATHER], output_tools=[DONE], output_mode="tool", allow_text_output=False
    )
    messages: Any = [ModelRequest.user_text_prompt("How?")]
    await HybridModel(client=client).request(messages, {"tool_choice": choice} if choice else None, parameters)
    assert ([tool.name for tool in cloud.requests[0].tools], cloud.requests[0].tool_choice) == (tools, expected)


async def test_reasoning_is_a_part_of_its_own_and_goes_back_with_its_turn(pair: Pair) -> None:
    client, _, cloud = pair(reasoning="Look outside.")
    agent = Agent(HybridModel(client=client))
    run = await agent.run("Is it sunny?")
    assert run.all_messages()[-1].parts == [ThinkingPart("Look outside."), TextPart(ANSWER)]
    await agent.run("Sure?", message_history=run.all_messages())
    assert cloud.requests[-1].messages[1].reasoning == "Look outside."
    async with agent.run_stream("Is it sunny?") as streamed:
        assert await streamed.get_output() == ANSWER
    assert [type(part) for part in streamed.all_messages()[-1].parts] == [ThinkingPart, TextPart]


@pytest.mark.parametrize(
    ("error", "theirs"),
    [
        (errors.RequestRejected("too long", backend="b", reason="context_overflow"), ModelContextWindowExceededError),
        (errors.DeadlineExceeded("late", backend="b"), ModelTimeoutError),
        (errors.BackendOverloaded("full", backend="b", retry_after=3.0), ModelOverloadedError),
        (errors.QuotaExceeded("spent", backend="b"), ModelQuotaExceededError),
    ],
)
async def test_errors_are_ours_and_pydantic_ais_at_once(pair: Pair, error: Exception, theirs: type[Exception]) -> None:
    agent = Agent(HybridModel(client=pair(error=error)[0]))
    with pytest.raises(theirs) as raised:
        await agent.run(SECRET)
    with pytest.raises(theirs):
        async with agent.run_stream(SECRET):
            pass
    assert isinstance(raised.value, errors.HybridLLMError)
    assert isinstance(raised.value, ModelAPIError)
    assert SECRET not in str(raised.value)
    assert raised.value.retry_after == getattr(error, "retry_after", None)


async def test_another_model_takes_over_after_a_failure_and_never_where_the_policy_allows_no_backend(
    pair: Pair, llm: HybridLLM
) -> None:
    broken = HybridModel(client=pair(error=errors.BackendUnavailable("gone", backend="b"))[0])
    both = Agent(FallbackModel(broken, HybridModel(client=llm)))
    assert (await both.run("Is it sunny?")).output == ANSWER
    private: Any = {"hybrid_privacy": {"phi"}, "hybrid_backends": ["cloud"]}
    with pytest.raises(errors.NoEligibleBackend):
        await both.run(SECRET, model_settings=private)


async def test_a_refusal_is_one_of_pydantic_ais(refusing: HybridLLM) -> None:
    with pytest.raises(ContentFilterError) as raised:
        await Agent(HybridModel(client=refusing)).run("It is forbidden.")
    assert isinstance(raised.value, errors.ContentRefused)


async def test_images_are_refused(llm: HybridLLM) -> None:
    with pytest.raises(ModelRequestRejectedError, match="ImageUrl is no text"):
        await Agent(HybridModel(client=llm)).run(["What is it?", ImageUrl("http://x.example/a.png")])


async def test_leaving_and_cancelling_stop_the_backend(pair: Pair) -> None:
    client, _, cloud = pair(endless=True)
    agent = Agent(HybridModel(client=client))
    async with agent.run_stream("Go on.") as run:
        async for _ in run.stream_text():
            break
    assert cloud.left == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await agent.run("Go on.")
    assert cloud.left == 2
    async with HybridModel(client=client).request_stream(
        [ModelRequest.user_text_prompt("Go on.")], None, ModelRequestParameters()
    ) as stream:
        await anext(aiter(stream))
        await stream.cancel()
        assert cloud.left == 3
    assert stream.get().state == "interrupted"


async def test_tokens_are_counted_before_a_request(llm: HybridLLM) -> None:
    messages = [ModelRequest.user_text_prompt("Is it sunny?")]
    found = await HybridModel(client=llm).count_tokens(messages, None, ModelRequestParameters())
    assert found.input_tokens > 3


class Mood(BaseModel):
    model_config = ConfigDict(extra="forbid")
    positive: bool


async def test_the_embedded_model_answers_in_every_way(embedded: HybridLLM) -> None:
    model = HybridModel(client=embedded, settings={"max_tokens": 60})
    asked = "Is this review positive? 'A warm, funny film.'"
    whole = await Agent(model).run(asked)
    async with Agent(model).run_stream(asked) as run:
        assert await run.get_output() == whole.output != ""
    for output in (Mood, ToolOutput(Mood)):
        assert isinstance((await Agent(model, output_type=output).run(asked)).output, Mood)

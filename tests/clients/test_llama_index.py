"""The LLM for LlamaIndex, in its engines, programs and agents: `make clients`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

pytest.importorskip("llama_index.core", reason="make clients")
from llama_index.core import Document, PromptTemplate, SummaryIndex
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.tools import FunctionTool

from hybrid_llm import HybridLLM as Client
from hybrid_llm import errors
from hybrid_llm.integrations.llama_index import HybridLLM, prompt_of
from hybrid_llm.router.conversation import messages_of
from tests.clients.conftest import Pair

ANSWER = "It is sunny, and the answer is yes."


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    mayor: str


class Mood(BaseModel):
    model_config = ConfigDict(extra="forbid")
    positive: bool


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


WEATHER = FunctionTool.from_defaults(weather)


async def test_every_way_of_asking_gives_the_same_answer(llm: Client) -> None:
    model = HybridLLM(client=llm)
    asked = [ChatMessage(content="Is it sunny?")]
    streamed = list(model.stream_chat(asked))
    assert model.chat(asked).message.content == streamed[-1].message.content == ANSWER
    assert "".join(each.delta or "" for each in streamed) == ANSWER
    assert (await model.achat(asked)).message.content == ANSWER
    assert [each async for each in await model.astream_chat(asked)][-1].message.content == ANSWER
    assert model.complete("Is it sunny?").text == (await model.acomplete("Is it sunny?")).text == ANSWER
    assert list(model.stream_complete("Is it sunny?"))[-1].text == ANSWER
    assert [each async for each in await model.astream_complete("Is it sunny?")][-1].text == ANSWER


def test_an_answer_says_where_and_why_it_was_made(pair: Pair) -> None:
    reply = HybridLLM(client=pair()[0]).chat([ChatMessage(content="Is it sunny?")])
    assert (reply.raw["backend"], reply.raw["rule"], reply.raw["finish_reason"]) == ("cloud", "rules[0]", "stop")
    assert reply.raw["cost"] == pytest.approx(reply.raw["usage"]["total_tokens"] / 1000)


def test_its_own_counter_of_tokens_sees_the_usage(llm: Client) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    model = HybridLLM(client=llm, callback_manager=CallbackManager([counter]))
    usage = model.chat([ChatMessage(content="Is it sunny?")]).raw["usage"]
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]
    assert counter.completion_llm_token_count == usage["completion_tokens"]


def test_options_are_fields_and_arguments_and_a_call_can_only_add_tags(pair: Pair) -> None:
    client, edge, cloud = pair()
    model = HybridLLM(client=client, privacy={"phi"}, max_tokens=9, stop=["X"])
    model.chat([ChatMessage(content="Hi.")], privacy={"public"}, temperature=0.5)
    (sent,) = edge.requests
    assert (sent.max_tokens, sent.sampling.stop, sent.sampling.temperature) == (9, ("X",), 0.5)
    assert sent.privacy == {"phi", "public"}
    assert not cloud.requests


def test_the_metadata_is_that_of_the_backends(llm: Client) -> None:
    found = HybridLLM(client=llm, max_tokens=99).metadata
    assert (found.context_window, found.num_output, found.is_function_calling_model) == (100_000, 99, True)


def test_a_query_engine_answers_from_documents(llm: Client) -> None:
    index = SummaryIndex.from_documents([Document(text="It is sunny in Köln.")])
    engine = index.as_query_engine(llm=HybridLLM(client=llm))
    assert str(engine.query("Is it sunny?")) == ANSWER


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_calls_tools_and_answers(llm: Client, *, streaming: bool) -> None:
    agent = FunctionAgent(tools=[WEATHER], llm=HybridLLM(client=llm), streaming=streaming)
    handler = agent.run("How is the weather?")
    deltas = [event.delta async for event in handler.stream_events() if isinstance(event, AgentStream)]
    reply = await handler
    assert str(reply) == ANSWER
    assert [str(call.tool_output) for call in reply.tool_calls] == ["sunny in cats"]
    assert ("".join(deltas) == ANSWER) is streaming


async def test_calls_of_a_tool_can_be_required_named_and_forbidden(pair: Pair) -> None:
    client, _, cloud = pair()
    model = HybridLLM(client=client)
    model.chat_with_tools([WEATHER], "How?", tool_required=True)
    await model.achat_with_tools([WEATHER], "How?", tool_choice="weather", allow_parallel_tool_calls=True)
    without = model.chat_with_tools([WEATHER], "How?", tool_choice="none")
    assert [sent.tool_choice for sent in cloud.requests] == ["required", 0, "none"]
    assert [sent.parallel_tool_calls for sent in cloud.requests] == [False, True, False]
    assert model.get_tool_calls_from_response(without, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="at least one tool call"):
        model.get_tool_calls_from_response(without)


async def test_structured_answers_follow_their_class(llm: Client) -> None:
    model = HybridLLM(client=llm)
    prompt = PromptTemplate("Which city has {what}?")
    cats = City(name="cats", mayor="cats")
    assert model.structured_predict(City, prompt, what="cats") == cats
    assert await model.astructured_predict(City, prompt, what="cats") == cats
    assert model.as_structured_llm(City).complete("Which city?").raw == cats
    assert list(model.stream_structured_predict(City, prompt, what="cats"))[-1] == cats


def test_reasoning_is_no_part_of_the_text_and_goes_back_with_its_turn(pair: Pair) -> None:
    client, _, cloud = pair(reasoning="Look outside.")
    model = HybridLLM(client=client)
    asked = [ChatMessage(content="Is it sunny?")]
    streamed = list(model.stream_chat(asked))
    assert streamed[0].additional_kwargs == {"thinking_delta": "Look outside."}
    assert streamed[-1].message.content == ANSWER
    model.chat([*asked, streamed[-1].message, ChatMessage(content="Sure?")])
    assert cloud.requests[-1].messages[1].reasoning == "Look outside."


def test_a_conversation_with_tools_becomes_ours() -> None:
    call = ToolCallBlock(tool_call_id="1", tool_name="weather", tool_kwargs={"city": "Bonn"})
    turns = prompt_of(
        [
            ChatMessage(role=MessageRole.SYSTEM, content="Be brief."),
            ChatMessage(blocks=[TextBlock(text="How is"), TextBlock(text="Bonn?")]),
            ChatMessage(role=MessageRole.CHATBOT, blocks=[call]),
            ChatMessage(role=MessageRole.TOOL, content="sunny", additional_kwargs={"tool_call_id": "1"}),
        ]
    )
    system, user, assistant, tool = messages_of(turns)
    assert (system.content, user.content) == ("Be brief.", "How is\nBonn?")
    assert assistant.tool_calls[0].values == {"city": "Bonn"}
    assert (tool.content, tool.tool_call_id) == ("sunny", assistant.tool_calls[0].id)


def test_an_image_is_refused(llm: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match="ImageBlock is no text"):
        HybridLLM(client=llm).chat([ChatMessage(blocks=[ImageBlock(url="http://x.example/a.png")])])


async def test_errors_keep_their_type(pair: Pair) -> None:
    model = HybridLLM(client=pair(error=errors.DeadlineExceeded("late", backend="cloud"))[0])
    with pytest.raises(errors.DeadlineExceeded):
        model.complete("Hi.")
    with pytest.raises(errors.DeadlineExceeded):
        await model.acomplete("Hi.")


async def test_leaving_and_cancelling_stop_the_backend(pair: Pair) -> None:
    client, _, cloud = pair(endless=True)
    model = HybridLLM(client=client)
    stream = model.stream_complete("Go on.")
    next(stream)
    stream.close()
    assert cloud.left == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await model.acomplete("Go on.")
    assert cloud.left == 2
    pieces: Any = await model.astream_complete("Go on.")
    await anext(pieces)
    await pieces.aclose()
    del pieces
    await asyncio.sleep(0.01)
    assert cloud.left == 3


async def test_the_embedded_model_answers_in_every_way(embedded: Client) -> None:
    model = HybridLLM(client=embedded, max_tokens=40)
    asked = "Is this review positive? 'A warm, funny film.'"
    assert (await model.acomplete(asked)).text == list(model.stream_complete(asked))[-1].text != ""
    with pytest.raises(errors.OutputInvalid, match="cut it off"):
        model.structured_predict(City, PromptTemplate(asked))
    assert isinstance(model.structured_predict(Mood, PromptTemplate(asked)), Mood)

"""`ChatHybridLLM` passes LangChain's standard tests, and keeps what is ours: `make clients`.

Of the standard tests are skipped: those of images, PDF and audio, since prompts are text; `test_serdes`, since
LangChain loads classes of a list of its own only; and that of recorded HTTP, since there is none.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import reduce
from operator import add
from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="make clients")
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelError,
    ModelInvalidRequestError,
    ModelRefusalError,
    ModelTimeoutError,
    OutputParserException,
)
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import BaseModel, ConfigDict

from hybrid_llm import HybridLLM, errors
from hybrid_llm.integrations.langchain import ChatHybridLLM, prompt_of
from hybrid_llm.router.conversation import messages_of
from tests.clients.conftest import Pair

SECRET = "The patient is Jane."


class Standard:
    """What both suites are told of the model."""

    client: HybridLLM

    @pytest.fixture(autouse=True)
    def _client(self, llm: HybridLLM) -> None:
        type(self).client = llm

    @property
    def chat_model_class(self) -> type[ChatHybridLLM]:
        return ChatHybridLLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"client": self.client}

    @pytest.fixture
    def model(self, _client: None, request: Any) -> ChatHybridLLM:
        more = getattr(request, "param", None) or {}
        return ChatHybridLLM(**self.standard_chat_model_params, **self.chat_model_params, **more)

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "capable"


class TestUnit(Standard, ChatModelUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"HYBRID_LLM_CONFIG": "hybrid.yaml"}, {}, {"config": None}


class TestIntegration(Standard, ChatModelIntegrationTests):
    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


def test_an_answer_says_where_and_why_it_was_made(pair: Pair) -> None:
    client, _, _ = pair()
    reply = ChatHybridLLM(client=client).invoke("Is it sunny?")
    made = reply.response_metadata
    assert (made["backend"], made["model_name"], made["rule"]) == ("cloud", "capable", "rules[0]")
    assert made["because"] == "the cloud knows more"
    assert made["cost"] == pytest.approx(reply.usage_metadata["total_tokens"] / 1000)
    assert made["finish_reason"] == "stop"


def test_a_call_can_only_add_privacy_tags(pair: Pair) -> None:
    client, edge, cloud = pair()
    private = ChatHybridLLM(client=client, privacy={"phi"})
    assert private.invoke(SECRET, privacy={"public"}).response_metadata["backend"] == "edge"
    assert ChatHybridLLM(client=client).invoke(SECRET, privacy={"phi"}).response_metadata["tags"] == ["phi"]
    assert (len(edge.requests), len(cloud.requests)) == (2, 0)


def test_fields_and_arguments_reach_the_request(pair: Pair) -> None:
    client, _, cloud = pair()
    model = ChatHybridLLM(client=client, task="hard", timeout=7.0, session_id="s", tenant="t", max_tokens=9, stop=["X"])
    model.invoke("Hi.", stop=["Y"], temperature=0.5, seed=3, presence_penalty=1.0)
    (sent,) = cloud.requests
    assert (sent.task, sent.deadline, sent.max_tokens) == ("hard", 7.0, 9)
    assert (sent.sampling.stop, sent.sampling.temperature, sent.sampling.seed) == (("Y",), 0.5, 3)
    assert sent.sampling.presence_penalty == 1.0


def test_a_misspelt_field_or_argument_is_an_error(llm: HybridLLM) -> None:
    with pytest.raises(ValueError, match="privcy"):
        ChatHybridLLM(client=llm, privcy={"phi"})
    with pytest.raises(TypeError, match="did you mean 'privacy'"):
        ChatHybridLLM(client=llm).invoke("Hi.", privcy={"phi"})


def test_a_model_that_no_backend_has_is_refused_by_name(llm: HybridLLM) -> None:
    with pytest.raises(ModelInvalidRequestError, match="there are auto, edge, capable"):
        ChatHybridLLM(client=llm, model="gpt-99").invoke("Hi.")


@pytest.mark.parametrize(
    ("error", "theirs"),
    [
        (errors.RequestRejected("too long", backend="cloud", reason="context_overflow"), ContextOverflowError),
        (errors.DeadlineExceeded("late", backend="cloud"), ModelTimeoutError),
        (errors.BackendUnavailable("gone", backend="cloud"), ModelError),
    ],
)
async def test_errors_are_ours_and_langchains_at_once(pair: Pair, error: Exception, theirs: type[Exception]) -> None:
    model = ChatHybridLLM(client=pair(error=error)[0])
    calls = [lambda: model.ainvoke(SECRET), lambda: asyncio.to_thread(model.invoke, SECRET)]
    calls += [lambda: asyncio.to_thread(list, model.stream(SECRET)), lambda: anext(model.astream(SECRET))]
    for call in calls:
        with pytest.raises(theirs) as raised:
            await call()
        assert isinstance(raised.value, errors.HybridLLMError)
        assert SECRET not in str(raised.value)


def test_a_refusal_is_one_of_langchains(refusing: HybridLLM) -> None:
    with pytest.raises(ModelRefusalError) as raised:
        ChatHybridLLM(client=refusing).invoke("It is forbidden.")
    assert isinstance(raised.value, errors.ContentRefused)


def test_a_stream_that_is_left_stops_the_backend(pair: Pair) -> None:
    client, _, cloud = pair(endless=True)
    for _ in ChatHybridLLM(client=client).stream("Go on."):
        break
    assert cloud.left == 1


async def test_cancelling_stops_the_backend(pair: Pair) -> None:
    client, _, cloud = pair(endless=True)
    model = ChatHybridLLM(client=client)
    async with aclosing(model.astream("Go on.")) as chunks:
        await anext(chunks)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await model.ainvoke("Go on.")
    await asyncio.sleep(0)
    assert cloud.left == 2


def test_reasoning_is_no_part_of_the_text_and_goes_back_with_its_turn(pair: Pair) -> None:
    client, _, cloud = pair(reasoning="Look outside.")
    model = ChatHybridLLM(client=client)
    whole = model.invoke("Is it sunny?")
    streamed = reduce(add, model.stream("Is it sunny?"))
    assert [block["type"] for block in whole.content_blocks] == ["reasoning", "text"]
    assert streamed.additional_kwargs == whole.additional_kwargs == {"reasoning_content": "Look outside."}
    model.invoke([HumanMessage("Is it sunny?"), whole, HumanMessage("Sure?")])
    assert cloud.requests[-1].messages[1].reasoning == "Look outside."


def test_a_conversation_with_tools_becomes_ours() -> None:
    call = {"name": "weather", "args": {"city": "Köln"}, "id": "1", "type": "tool_call"}
    turns = prompt_of(
        [
            SystemMessage("Be brief."),
            HumanMessage([{"type": "text", "text": "How is"}, {"type": "text", "text": "Köln?"}], name="jane"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("sunny", tool_call_id="1", name="weather"),
        ]
    )
    system, user, assistant, tool = messages_of(turns)
    assert (system.content, user.content) == ("Be brief.", "How is\nKöln?")
    assert assistant.tool_calls[0].values == {"city": "Köln"}
    assert (tool.content, tool.tool_call_id) == ("sunny", assistant.tool_calls[0].id)


def test_an_unknown_part_of_a_message_is_refused_without_its_text(llm: HybridLLM) -> None:
    with pytest.raises(errors.InvalidRequest) as raised:
        ChatHybridLLM(client=llm).invoke([HumanMessage([{"type": "tool_use", "text": SECRET}])])
    assert SECRET not in str(raised.value)


class Mood(BaseModel):
    """How a review sounds."""

    model_config = ConfigDict(extra="forbid")  # a small model would go on adding fields
    positive: bool


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_with_its_raw_message(llm: HybridLLM, method: Any) -> None:
    model = ChatHybridLLM(client=llm).with_structured_output(Mood, method=method, include_raw=True)
    found = model.invoke("A warm, funny film.")
    assert (found["parsed"], found["parsing_error"]) == (Mood(positive=True), None)
    assert isinstance(found["raw"], AIMessage)


def test_an_answer_that_is_cut_is_a_parsing_error_beside_its_raw_message(embedded: HybridLLM) -> None:
    model = ChatHybridLLM(client=embedded, max_tokens=2).with_structured_output(Mood, include_raw=True)
    found = model.invoke("A warm, funny film.")
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], OutputParserException)


def test_formats_of_answers_in_openais_form(llm: HybridLLM) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "mood", "schema": Mood.model_json_schema()}}
    assert ChatHybridLLM(client=llm).bind(response_format=wanted).invoke("Nice.").content == '{"positive": true}'
    with pytest.raises(errors.InvalidRequest, match="response_format"):
        ChatHybridLLM(client=llm).invoke("Nice.", response_format={"type": "xml"})


async def test_the_embedded_model_answers_in_every_way(embedded: HybridLLM) -> None:
    model = ChatHybridLLM(client=embedded, max_tokens=60)
    asked = "Is this review positive? 'A warm, funny film.'"
    whole = await model.ainvoke(asked)
    streamed = reduce(add, [chunk async for chunk in model.astream(asked)])
    assert whole.content == streamed.content != ""
    assert whole.usage_metadata == streamed.usage_metadata
    assert model.get_num_tokens(asked) > 0
    typed = model.with_structured_output(Mood)
    assert isinstance(typed.invoke(asked), Mood)
    assert isinstance(
        model.bind_tools([Mood], tool_choice="Mood").invoke(asked).tool_calls[0]["args"]["positive"], bool
    )

"""The official clients, unchanged, against a gateway with a model that runs: the demonstration model on this device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel

from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.policies import builtin_policy
from tests.gateway.conftest import ask, served

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Bergen"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"name": "get_weather", "description": "The weather in a city."}
CHAT_TOOLS = [{"type": "function", "function": {**TOOL, "parameters": WEATHER}}]
REVIEW = "Is this review positive? 'A warm, funny film.'"

REPETITIVE = "Summarise: the cat sat on the mat. the cat sat on the mat. the cat sat."
"""Of this the model makes an answer that repeats itself."""


class Verdict(BaseModel):
    sentiment: Literal["positive", "negative"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    edge = EdgeBackend(EdgeConfig(model=embedded_model()))
    client = HybridLLM([edge], builtin_policy("balanced", backends={edge.name: edge.location}))
    with served(client) as base:
        yield base


class TestChat:
    def test_an_answer_has_text_usage_model_and_request_id(self, client: openai.OpenAI) -> None:
        reply = client.chat.completions.create(model="auto", messages=ask(REVIEW), max_completion_tokens=16)
        assert reply.choices[0].message.content
        assert reply.choices[0].finish_reason in ("stop", "length")
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
        assert reply.model == embedded_model().name
        assert reply.id == f"chatcmpl-{reply._request_id}"

    def test_a_stream_adds_up_to_the_answer_and_ends_with_usage(self, client: openai.OpenAI) -> None:
        asked = {"model": "auto", "messages": ask(REVIEW), "max_completion_tokens": 16, "temperature": 0}
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] is not None
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    def test_parse_returns_an_object_of_the_pydantic_model(self, client: openai.OpenAI) -> None:
        reply = client.chat.completions.parse(model="auto", messages=ask(REVIEW), response_format=Verdict)
        assert isinstance(reply.choices[0].message.parsed, Verdict)

    def test_a_json_object_without_a_schema(self, client: openai.OpenAI) -> None:
        wanted = {"type": "json_object"}
        reply = client.chat.completions.create(
            model="auto", messages=ask(REVIEW), response_format=wanted, max_tokens=200, temperature=0
        )
        assert reply.choices[0].message.content.startswith("{")

    def test_a_tool_is_called_and_its_result_taken(self, client: openai.OpenAI) -> None:
        asked = {"model": "auto", "tools": CHAT_TOOLS, "max_completion_tokens": 64}
        first = client.chat.completions.create(**asked, messages=ask("Weather?"), tool_choice="required")
        message = first.choices[0].message
        assert first.choices[0].finish_reason == "tool_calls"
        assert message.tool_calls[0].function.name == "get_weather"
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "3 degrees"}
        turns = [*ask("Weather?"), message.model_dump(), result]
        second = client.chat.completions.create(**asked, messages=turns, tool_choice="none")
        assert second.choices[0].finish_reason != "tool_calls"

    def test_a_streamed_call_is_put_together_by_the_client(self, client: openai.OpenAI) -> None:
        choice = {"type": "function", "function": {"name": "get_weather"}}
        with client.chat.completions.stream(
            model="auto", messages=ask("Weather?"), tools=CHAT_TOOLS, tool_choice=choice, max_completion_tokens=64
        ) as stream:
            reply = stream.get_final_completion()
        call = reply.choices[0].message.tool_calls[0]
        assert (call.function.name, call.function.arguments[:8]) == ("get_weather", '{"city":')

    async def _async(self, url: str) -> str:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(model="auto", messages=ask(REVIEW), max_tokens=8, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    def test_the_async_client_streams_too(self, url: str) -> None:
        import asyncio

        assert asyncio.run(self._async(url))

    @pytest.mark.parametrize("stream", [False, True])
    def test_log_probabilities_and_their_alternatives(self, client: openai.OpenAI, *, stream: bool) -> None:
        asked = {"model": "auto", "messages": ask(REVIEW), "max_tokens": 4, "temperature": 0, "logprobs": True}
        asked |= {"top_logprobs": 2, "stream": stream}
        reply = client.chat.completions.create(**asked)
        choices = [chunk.choices[0] for chunk in (reply if stream else [reply])]
        tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
        text = "".join((choice.delta if stream else choice.message).content or "" for choice in choices)
        assert "".join(token.token for token in tokens) == text
        assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in tokens)
        assert all(len(token.top_logprobs) == 2 for token in tokens)

    @pytest.mark.parametrize(("presence", "frequency"), [(1.5, 0.0), (0.0, 2.0), (-1.0, -2.0)])
    def test_penalties_choose_by_the_formula_of_the_documentation(
        self, client: openai.OpenAI, presence: float, frequency: float
    ) -> None:
        """Of the likeliest tokens, the one that is best after `presence * (count > 0) + frequency * count` is taken."""
        asked = {"model": "auto", "messages": ask(REPETITIVE), "max_tokens": 48, "temperature": 0}
        plain = client.chat.completions.create(**asked).choices[0].message.content
        penalties = {"presence_penalty": presence, "frequency_penalty": frequency}
        reply = client.chat.completions.create(**asked, **penalties, logprobs=True, top_logprobs=20).choices[0]
        counts: Counter[str] = Counter()

        def left(scored: Any) -> float:
            count = counts[scored.token]
            return scored.logprob - presence * (count > 0) - frequency * count

        for token in reply.logprobs.content:
            assert left(token) >= max(map(left, token.top_logprobs)) - 1e-4
            counts[token.token] += 1
        assert reply.message.content != plain
        responses = client.responses.create(
            model="auto", input=REPETITIVE, max_output_tokens=48, temperature=0, extra_body=penalties
        )
        completions = client.completions.create(
            model="auto", prompt=REPETITIVE, max_tokens=48, temperature=0, **penalties
        )
        assert responses.output_text == completions.choices[0].text == reply.message.content

    def test_models_are_listed_and_found(self, client: openai.OpenAI) -> None:
        names = [model.id for model in client.models.list()]
        assert names == ["auto", "edge", embedded_model().name]
        assert client.models.retrieve("edge").id == "edge"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-9")

    @pytest.mark.parametrize(
        ("options", "param"),
        [
            ({"n": 2}, "n"),
            ({"presence_penalty": 2.5}, "presence_penalty"),
            ({"frequency_penalty": "high"}, "frequency_penalty"),
            ({"logit_bias": {"5": 10}}, "logit_bias"),
            ({"modalities": ["text", "audio"]}, "modalities"),
            ({"temperature": -1}, "temperature"),
            ({"temperature": "hot"}, "temperature"),
            ({"max_completion_tokens": 0.5}, "max_completion_tokens"),
            ({"stop": [""]}, "stop"),
            ({"seed": 1.5}, "seed"),
            ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
            ({"tools": CHAT_TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
            ({"response_format": {"type": "xml"}}, "response_format"),
            ({"extra_body": {"maximum": 3}}, "maximum"),
            ({"extra_body": {"hybrid": {"privacy": ["no-such-tag"]}}}, "privacy"),
            ({"extra_body": {"hybrid": {"backend": "edge"}}}, "hybrid"),
        ],
    )
    def test_what_cannot_be_done_is_refused_by_name(
        self, client: openai.OpenAI, options: dict[str, object], param: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="auto", messages=ask("secret-text"), **options)
        assert caught.value.param == param
        assert "secret-text" not in str(caught.value)

    def test_hints_and_neutral_values_are_taken(self, client: openai.OpenAI) -> None:
        reply = client.chat.completions.create(
            model="auto",
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "name": "ann", "content": REVIEW},
            ],
            max_completion_tokens=4,
            n=1,
            presence_penalty=0,
            frequency_penalty=0.0,
            logit_bias={},
            user="u",
            store=False,
            reasoning_effort="low",
            service_tier="auto",
        )
        assert reply.choices[0].message.content is not None


class TestResponses:
    def test_an_answer_and_one_that_follows_it(self, client: openai.OpenAI) -> None:
        first = client.responses.create(model="auto", input=REVIEW, instructions="Be brief.", max_output_tokens=12)
        assert first.status in ("completed", "incomplete")
        assert first.output_text
        second = client.responses.create(
            model="auto", input="And now?", previous_response_id=first.id, max_output_tokens=4
        )
        assert second.usage.input_tokens > first.usage.input_tokens
        assert client.responses.retrieve(first.id).output_text == first.output_text
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="auto", input="x", previous_response_id=first.id)

    def test_tokens_are_counted_as_an_answer_counts_them(self, client: openai.OpenAI) -> None:
        first = client.responses.create(model="auto", input=REVIEW, instructions="Be brief.", max_output_tokens=4)
        counted = client.responses.input_tokens.count(model="auto", input=REVIEW, instructions="Be brief.")
        assert counted.input_tokens == first.usage.input_tokens
        more = client.responses.input_tokens.count(model="auto", input="And now?", previous_response_id=first.id)
        assert more.input_tokens > client.responses.input_tokens.count(model="auto", input=REVIEW).input_tokens

    def test_what_is_not_stored_cannot_be_followed(self, client: openai.OpenAI) -> None:
        reply = client.responses.create(model="auto", input=REVIEW, max_output_tokens=4, store=False)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(reply.id)

    def test_the_events_come_in_their_order(self, client: openai.OpenAI) -> None:
        events = list(client.responses.create(model="auto", input=REVIEW, max_output_tokens=4, stream=True))
        kinds = [event.type for event in events]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        head = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
        tail = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
        assert kinds[:4] == head
        assert set(kinds[4:-4]) == {"response.output_text.delta"}
        assert kinds[-4:-1] == tail
        assert kinds[-1] in ("response.completed", "response.incomplete")
        assert events[-1].response.output_text == "".join(event.delta for event in events[4:-4])

    def test_a_call_and_its_result(self, client: openai.OpenAI) -> None:
        tools = [{"type": "function", **TOOL, "parameters": WEATHER, "strict": True}]
        asked = {"model": "auto", "tools": tools, "max_output_tokens": 64}
        with client.responses.stream(**asked, input="Weather?", tool_choice="required") as stream:
            call = stream.get_final_response().output[0]
        assert call.parsed_arguments["city"] in ("Oslo", "Bergen")
        turns = [
            {"role": "user", "content": "Weather?"},
            call.model_dump(exclude={"parsed_arguments"}),
            {"type": "function_call_output", "call_id": call.call_id, "output": "3 degrees"},
        ]
        assert client.responses.create(**asked, input=turns, tool_choice="none").output_text is not None

    def test_parse_returns_an_object_of_the_pydantic_model(self, client: openai.OpenAI) -> None:
        assert isinstance(
            client.responses.parse(model="auto", input=REVIEW, text_format=Verdict).output_parsed, Verdict
        )


class TestMessages:
    def test_an_answer_has_blocks_a_reason_and_usage(self, claude: anthropic.Anthropic) -> None:
        message = claude.messages.create(model="auto", max_tokens=12, system="Be brief.", messages=ask(REVIEW))
        assert message.content[0].type == "text"
        assert message.stop_reason in ("end_turn", "max_tokens")
        assert message.usage.output_tokens > 0

    def test_a_stream_adds_up_to_the_message(self, claude: anthropic.Anthropic) -> None:
        with claude.messages.stream(model="auto", max_tokens=12, messages=ask(REVIEW)) as stream:
            text = "".join(stream.text_stream)
            assert stream.get_final_message().content[0].text == text

    def test_a_tool_is_used_and_its_result_taken(self, claude: anthropic.Anthropic) -> None:
        tools = [{**TOOL, "input_schema": WEATHER}]
        asked = {"model": "auto", "max_tokens": 64, "tools": tools}
        with claude.messages.stream(**asked, messages=ask("Weather?"), tool_choice={"type": "any"}) as stream:
            first = stream.get_final_message()
        assert first.stop_reason == "tool_use"
        use = first.content[-1]
        assert use.input["city"] in ("Oslo", "Bergen")
        result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "3 degrees"}]}
        turns = [
            *ask("Weather?"),
            {"role": "assistant", "content": [block.model_dump() for block in first.content]},
            {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
        ]
        second = claude.messages.create(**asked, messages=turns, tool_choice={"type": "none"})
        assert second.stop_reason != "tool_use"

    def test_tokens_are_counted_as_they_are_read(self, claude: anthropic.Anthropic) -> None:
        counted = claude.messages.count_tokens(model="auto", messages=ask(REVIEW)).input_tokens
        message = claude.messages.create(model="auto", max_tokens=1, messages=ask(REVIEW))
        assert counted == message.usage.input_tokens + message.usage.cache_read_input_tokens

    @pytest.mark.parametrize(
        "options",
        [
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            {"messages": [*ask("secret-text"), {"role": "assistant", "content": "I say"}]},
            {"tools": [{"type": "bash_20250124", "name": "bash"}]},
            {"extra_body": {"temperature": 900}},
        ],
    )
    def test_what_cannot_be_done_is_refused(self, claude: anthropic.Anthropic, options: dict[str, object]) -> None:
        with pytest.raises(anthropic.BadRequestError) as caught:
            claude.messages.create(**{"model": "auto", "max_tokens": 4, "messages": ask("secret-text"), **options})
        assert caught.value.body["error"]["type"] == "invalid_request_error"
        assert "secret-text" not in str(caught.value)


def test_completions_of_old(client: openai.OpenAI) -> None:
    asked = {"model": "auto", "prompt": REVIEW, "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**asked)
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(pieces) == whole.choices[0].text != ""

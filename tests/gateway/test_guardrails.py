"""What official clients get of a refusal: a content filter at OpenAI, a refusal at Anthropic, never a whole answer."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

from hybrid_llm import HybridLLM
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeGuardrail
from tests.gateway.conftest import POLICY, ask, fakes, served

LONG = "an answer that is long enough for its beginning to be released before its end is judged, "
HARMLESS, HARMFUL, ASKED = "say something", "say something long", "say the forbidden word"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A gateway whose backend begins with harmless words and ends with a forbidden one, and whose cloud is harmless."""
    edge, cloud = fakes([LONG, "and the forb", "idden word"])
    cloud._scripts = [["all is well"]]
    policy = parse_policy(POLICY, backends={"edge": edge.location, "cloud": cloud.location})
    client = HybridLLM([edge, cloud], policy, sensors=FixedSensors(), guardrails=[FakeGuardrail()])
    with served(client) as base:
        yield base


class TestRequests:
    @pytest.mark.parametrize("stream", [False, True])
    def test_openai_gets_400_with_the_code_content_filter(self, client, stream):
        calls = (
            lambda: client.chat.completions.create(model="auto", messages=ask(ASKED), stream=stream),
            lambda: client.responses.create(model="auto", input=ASKED, stream=stream),
            lambda: client.completions.create(model="auto", prompt=ASKED, stream=stream),
        )
        for call in calls:
            with pytest.raises(openai.BadRequestError) as refused:
                call()
            assert refused.value.code == "content_filter"
            assert "forbidden" not in refused.value.message

    def test_anthropic_gets_an_empty_message_with_the_stop_reason_refusal(self, claude):
        whole = claude.messages.create(model="auto", max_tokens=64, messages=ask(ASKED))
        with claude.messages.stream(model="auto", max_tokens=64, messages=ask(ASKED)) as stream:
            streamed = stream.get_final_message()
        for message in (whole, streamed):
            assert (message.stop_reason, message.content) == ("refusal", [])
            assert message.stop_details.type == "refusal"


class TestAnswers:
    def test_chat_ends_with_the_reason_content_filter(self, client):
        whole = client.chat.completions.create(model="auto", messages=ask(HARMFUL)).choices[0]
        assert (whole.finish_reason, whole.message.content) == ("content_filter", None)
        assert "guardrail" in whole.message.refusal
        chunks = list(client.chat.completions.create(model="auto", messages=ask(HARMFUL), stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text
        assert (LONG + "and the ").startswith(text)
        assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "content_filter"

    def test_the_clients_parser_raises_its_own_error_for_it(self, client):
        class Anything(BaseModel):
            word: str

        with pytest.raises(openai.ContentFilterFinishReasonError):
            client.chat.completions.parse(model="auto", messages=ask(HARMFUL), response_format=Anything)

    def test_completions_end_with_the_reason_content_filter(self, client):
        whole = client.completions.create(model="auto", prompt=HARMFUL).choices[0]
        assert (whole.finish_reason, whole.text) == ("content_filter", "")
        chunks = list(client.completions.create(model="auto", prompt=HARMFUL, stream=True))
        assert chunks[-1].choices[0].finish_reason == "content_filter"

    def test_responses_are_incomplete_by_a_content_filter(self, client):
        whole = client.responses.create(model="auto", input=HARMFUL)
        events = list(client.responses.create(model="auto", input=HARMFUL, stream=True))
        assert events[-1].type == "response.incomplete"
        for response in (whole, events[-1].response):
            assert (response.status, response.incomplete_details.reason) == ("incomplete", "content_filter")
        (item,) = events[-1].response.output
        assert item.status == "incomplete"
        assert (LONG + "and the ").startswith(item.content[0].text)

    def test_anthropic_ends_with_the_stop_reason_refusal(self, claude):
        whole = claude.messages.create(model="auto", max_tokens=64, messages=ask(HARMFUL))
        assert (whole.stop_reason, whole.content) == ("refusal", [])
        with claude.messages.stream(model="auto", max_tokens=64, messages=ask(HARMFUL)) as stream:
            message = stream.get_final_message()
        assert message.stop_reason == "refusal"
        assert (LONG + "and the ").startswith(message.content[0].text)

    def test_an_allowed_answer_is_as_ever(self, client):
        reply = client.chat.completions.create(model="cloud", messages=ask(HARMLESS))
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("all is well", "stop")

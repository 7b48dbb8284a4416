"""Log-probabilities through the client: who is asked, what is joined, cached and shown, and that nothing shows text."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import get_type_hints

import pytest

import hybrid_llm
from hybrid_llm.core.errors import InvalidRequest, NoEligibleBackend, StreamInterrupted
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.core.request import Location
from hybrid_llm.router.caching.memory import MemoryCache
from tests.fakes import FakeBackend

CONTINUING = """\
version: 1
name: test
tags:
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
resilience: {continue_streams: true, retries: 1, retry_budget: 100%}
"""
MAIL = "jane.doe@example.org"


def token(word: str) -> TokenLogprob:
    other = Alternative(token="other", logprob=-2.0, bytes=b"other")
    return TokenLogprob(token=word, logprob=-0.5, bytes=word.encode(), top=(other,))


class Scoring(FakeBackend):
    """Gives each text of its script as one token; `{echo}` is the last word of the prompt."""

    def __init__(self, name, location, *scripts):
        super().__init__(name, location, *scripts)
        self.capabilities = replace(self.capabilities, logprobs=True)

    def stream(self, cleared):
        for chunk in super().stream(cleared):
            text = chunk.text.replace("{echo}", cleared.request.messages[-1].content.split()[-1])
            asked = cleared.request.logprobs is not None and text
            yield replace(chunk, text=text, logprobs=(token(text),) if asked else ())


@pytest.fixture
def edge():
    return Scoring("edge", Location.EDGE, ["on ", "the ", "device"])


def words(reply):
    return [each.token for each in reply.logprobs]


def test_a_backend_that_gives_none_is_left_out_by_name_and_is_not_called(make_client, edge, cloud):
    llm = make_client(cloud, edge, policy=CONTINUING)
    assert llm.generate("hi").backend == "cloud"
    reply = llm.generate("hi", logprobs=1)
    assert (reply.backend, words(reply)) == ("edge", ["on ", "the ", "device"])
    assert reply.decision.excluded == {"cloud": "it gives no log-probabilities"}
    assert len(cloud.requests) == 1, "the request that did not ask"


def test_where_no_backend_gives_any_the_error_says_why(make_client, cloud):
    with pytest.raises(NoEligibleBackend, match="cloud: it gives no log-probabilities"):
        make_client(cloud).generate("hi", logprobs=0)
    assert not cloud.requests


def test_a_backend_whose_capabilities_cannot_be_read_is_left_out(make_client, edge):
    class Broken(FakeBackend):
        capabilities = property(lambda _: 1 / 0, lambda *_: None)

    llm = make_client(Broken("cloud", Location.CLOUD), edge, policy=CONTINUING)
    assert llm.generate("hi", logprobs=0).backend == "edge"


@pytest.mark.parametrize("value", [-1, 21, 1.5, "3", True])
def test_what_is_no_whole_number_from_0_to_20_is_refused(make_client, edge, value):
    with pytest.raises(InvalidRequest, match=r"logprobs: .* whole number from 0 to 20"):
        make_client(edge).generate("hi", logprobs=value)
    assert not edge.requests


@pytest.mark.parametrize("how", ["generate", "agenerate", "collect", "stream"])
def test_every_way_to_an_answer_has_them(make_client, edge, how):
    llm = make_client(edge)
    if how == "agenerate":
        reply = asyncio.run(llm.agenerate("hi", logprobs=1))
    elif how == "generate":
        reply = llm.generate("hi", logprobs=1)
    else:
        stream = llm.stream("hi", logprobs=1)
        first = next(stream)
        assert [each.token for each in first.logprobs] == ["on "]
        reply = stream.collect() if how == "collect" else (list(stream), stream.generation)[1]
    assert words(reply) == ["on ", "the ", "device"]
    assert llm.generate("hi").logprobs == ()


def test_a_continued_answer_has_the_tokens_of_the_text_that_was_kept_and_of_the_rest(make_client, edge):
    cloud = Scoring("cloud", Location.CLOUD, ["in ", "the ", StreamInterrupted("cut", backend="cloud")])
    reply = make_client(cloud, edge, policy=CONTINUING).generate("hi", logprobs=1)
    assert [each.backend for each in reply.continuations] == ["edge"]
    assert "".join(words(reply)) == reply.text == "in the on the device"
    at = reply.continuations[0].at
    assert "".join(words(reply)[:2]) == reply.text[:at]
    assert edge.requests[-1].logprobs == 1


def test_a_backend_that_gives_none_does_not_continue_either(make_client, edge):
    cut = StreamInterrupted("cut", backend="edge")
    edge = Scoring("edge", Location.EDGE, ["on ", cut], [cut])
    plain = FakeBackend("cloud", Location.CLOUD, ["whole"])
    with pytest.raises(StreamInterrupted):
        make_client(edge, plain).generate("hi", logprobs=1)
    assert not plain.requests


def test_a_value_behind_a_pseudonym_is_one_token_without_alternatives(make_client):
    cloud = Scoring("cloud", Location.CLOUD, ["Ask ", "{echo}", " now"])
    reply = make_client(cloud, policy=CONTINUING).generate(f"Write to {MAIL}", logprobs=1)
    assert MAIL not in cloud.requests[0].messages[0].content
    assert reply.text == f"Ask {MAIL} now"
    assert words(reply) == ["Ask ", MAIL, " now"]
    assert [len(each.top) for each in reply.logprobs] == [1, 0, 1]


def test_the_cache_tells_requests_with_and_without_apart_and_keeps_the_tokens(make_client, edge):
    llm = make_client(edge, cache=MemoryCache())
    asked = [llm.generate("hi", logprobs=count) for count in (None, 0, 1, None, 0, 1)]
    assert [reply.cached for reply in asked] == [False] * 3 + [True] * 3
    assert [words(reply) for reply in asked[3:]] == [words(reply) for reply in asked[:3]]
    assert words(asked[5]) == ["on ", "the ", "device"]


def test_an_answer_without_tokens_from_a_cache_of_the_app_is_not_taken(make_client, edge):
    class Forgetful(MemoryCache):
        def get(self, cleared):
            found = super().get(cleared)
            return None if found is None else replace(found, logprobs=())

    llm = make_client(edge, cache=Forgetful())
    assert [llm.generate("hi", logprobs=1).cached for _ in range(2)] == [False, False]


def test_what_is_no_record_of_a_token_is_a_fault_of_the_backend(make_client, edge):
    class Odd(FakeBackend):
        def stream(self, cleared):
            self.requests.append(cleared.request)
            yield Chunk(text="x", logprobs=({"token": "x"},), finish_reason=FinishReason.STOP, usage=Usage())

    odd = Odd("cloud", Location.CLOUD)
    odd.capabilities = replace(odd.capabilities, logprobs=True)
    reply = make_client(odd, edge, policy=CONTINUING).generate("hi", logprobs=1)
    assert reply.backend == "edge"
    assert reply.attempts[0].reason == "raised"


def test_the_types_of_the_fields_can_be_read_although_one_is_named_as_its_type():
    assert get_type_hints(TokenLogprob)["bytes"] is get_type_hints(Alternative)["bytes"] is bytes


def test_as_plain_data_they_have_the_shape_of_the_openai_api(make_client, edge):
    reply = make_client(edge).generate("hi", logprobs=1)
    document = json.loads(json.dumps(reply.to_dict()))
    other = {"token": "other", "logprob": -2.0, "bytes": list(b"other")}
    assert document["logprobs"][0] == {
        "token": "on ",
        "logprob": -0.5,
        "bytes": [111, 110, 32],
        "top_logprobs": [other],
    }
    assert make_client(edge).generate("hi").to_dict()["logprobs"] == []


def test_no_repr_log_event_or_recording_shows_a_token(make_client, edge, caplog, tmp_path):
    events = []
    recorder = hybrid_llm.DecisionRecorder(tmp_path / "decisions.jsonl")
    with caplog.at_level(logging.DEBUG):
        llm = make_client(edge, hooks=[events.append, recorder])
        reply = llm.generate("hi", logprobs=1)
        llm.close()
    recorder.close()
    recorded = (tmp_path / "decisions.jsonl").read_text()
    assert '"edge"' in recorded
    chunk = Chunk(logprobs=reply.logprobs)
    shown = [repr(reply), repr(chunk), repr(reply.logprobs), repr(events), caplog.text, recorded]
    assert not any(word in text for text in shown for word in ("device'", "other", "-0.5", "b'on"))

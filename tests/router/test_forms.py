"""What each location sees of a request, how values are restored in answers, and what keeps a request on the device."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import BackendUnavailable, HybridLLMError
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.limits import Defaults
from hybrid_llm.core.request import Location, Message, Request, Tool
from hybrid_llm.lab.verify.world import RecordingCache
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

POLICY = parse_policy(
    "version: 1\nname: p\n"
    "tags:\n"
    "  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email, us_ssn]}\n"
    "  secret: {allow: [edge], detect: [payment_card]}\n"
    "  fleeting: {allow: [edge, cloud], cache: []}\n"
    "rules: [{prefer: [cloud, edge]}]\n"
)
MAIL = "jane.doe@example.org"
CONTINUING = parse_policy(
    "version: 1\nname: p\nrules: [{prefer: [cloud, edge]}]\nresilience: {continue_streams: true, retries: 0}\n"
)


class Echo(FakeBackend):
    """Says the last message again, letter by letter, or in the template given."""

    template = "{}"

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        self.requests.append(require_clearance(cleared, self.location))
        for letter in self.template.format(self.requests[-1].messages[-1].content):
            yield Chunk(text=letter)
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP, usage=Usage(completion_tokens=1))

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        for chunk in self.stream(cleared):
            yield chunk


@pytest.fixture
def cloud() -> Echo:
    return Echo("cloud", Location.CLOUD)


@pytest.fixture
def edge() -> Echo:
    return Echo("edge", Location.EDGE)


@pytest.fixture
def llm(edge, cloud):
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors()) as client:
        yield client


def everything(request: Request) -> str:
    return "\n".join(request.visible_text())


def test_the_cloud_sees_pseudonyms_and_the_app_gets_its_values(llm, cloud, edge):
    reply = llm.generate(f"Write to {MAIL}, and to {MAIL}!")
    assert reply.backend == "cloud"
    assert reply.text == f"Write to {MAIL}, and to {MAIL}!"
    seen = everything(cloud.requests[0])
    assert "jane" not in seen
    assert len({word.rstrip(",!") for word in seen.split() if word.startswith("EMAIL_")}) == 1
    assert not edge.requests


def test_async_streams_restore_the_values_too(llm, cloud):
    async def run() -> str:
        return "".join([chunk.text async for chunk in llm.astream(f"Write to {MAIL}.")])

    assert asyncio.run(run()) == f"Write to {MAIL}."
    assert MAIL not in everything(cloud.requests[0])


def test_on_the_device_the_request_stays_as_it_is(llm, cloud, edge):
    cloud.ready = False
    assert llm.generate(f"Write to {MAIL}.").backend == "edge"
    assert MAIL in everything(edge.requests[0])


def test_when_the_cloud_fails_the_device_gets_the_values(edge):
    broken = FakeBackend("cloud", Location.CLOUD, [BackendUnavailable("down", backend="cloud")])
    with HybridLLM([edge, broken], POLICY, sensors=FixedSensors()) as client:
        reply = client.generate(f"Write to {MAIL}.")
    assert (reply.backend, reply.text) == ("edge", f"Write to {MAIL}.")
    assert MAIL not in everything(broken.requests[0])


def test_every_text_of_the_request_is_replaced(llm, cloud):
    tool = Tool(name="send", description=f"sends to {MAIL}", parameters=json.dumps({"default": MAIL}))
    cloud.template = '"{}"'
    llm.generate(
        [
            {"role": "system", "content": f"You are {MAIL}."},
            {"role": "user", "content": "go"},
            {"role": "tool", "content": MAIL},
        ],
        output_schema={"type": "string", "enum": [MAIL]},
        tools=[tool],
        stop=[MAIL],
    )
    seen = everything(cloud.requests[0])
    assert "jane" not in seen
    assert seen.count("EMAIL_") == 6


def test_a_session_has_one_pseudonym_for_a_value_on_every_turn_and_another_session_another(llm, cloud):
    first = llm.generate(f"I am {MAIL}.", session_id="s")
    history = [
        {"role": "user", "content": f"I am {MAIL}."},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "Who am I?"},
    ]
    llm.generate(history, session_id="s")
    llm.generate(f"I am {MAIL}.", session_id="other")
    one, two, three = (everything(request) for request in cloud.requests)
    assert "jane" not in one + two + three
    assert one in two
    assert three not in two


def test_a_value_that_the_session_knows_is_replaced_even_if_no_detector_fires(edge, cloud):
    class After:
        """Finds what follows `id `, and nothing without that word."""

        name = "email"

        def find(self, text: str):
            from hybrid_llm.router.privacy.detectors import Finding

            at = text.find("id 4711")
            if at >= 0:
                yield Finding(kind="email", start=at + 3, end=at + 7)

    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors(), detectors=[After()]) as client:
        assert client.generate("my id 4711", session_id="s").text == "my id 4711"
        assert client.generate("so 4711 it is", session_id="s").text == "so 4711 it is"
        assert client.generate("so 4711 it is", session_id="other").text == "so 4711 it is"
    seen = [everything(request) for request in cloud.requests]
    assert "4711" not in seen[0] + seen[1]
    assert "4711" in seen[2], "another session does not know it"


def test_a_declared_tag_without_findings_keeps_the_request_on_the_device(llm, cloud, edge):
    reply = llm.generate("My name is Jane.", privacy={"pii"})
    assert reply.backend == "edge"
    assert not cloud.requests
    assert "no detector finds what to replace" in reply.decision.excluded["cloud"]


def test_one_local_only_tag_keeps_the_whole_request_on_the_device(llm, cloud):
    assert llm.generate(f"{MAIL} pays with 4111 1111 1111 1111").backend == "edge"
    assert not cloud.requests


def test_a_finding_between_the_pseudonyms_keeps_the_request_on_the_device(edge, cloud):
    class Everything:
        name = "email"

        def find(self, text: str):
            from hybrid_llm.router.privacy.detectors import Finding

            at = len(text) - 1 if "_" in text else 0
            yield Finding(kind="email", start=at, end=at + 1)

    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors(), detectors=[Everything()]) as client:
        reply = client.generate("abc")
    assert reply.backend == "edge"
    assert not cloud.requests
    assert "still finds something" in reply.decision.excluded["cloud"]


def test_a_value_restored_inside_json_is_escaped(edge, cloud):
    class Quoted:
        name = "email"

        def find(self, text: str):
            from hybrid_llm.router.privacy.detectors import Finding

            start = text.find('"j\\d"@x.org')
            if start >= 0:
                yield Finding(kind="email", start=start, end=start + 11)

    cloud.template = '{{"to": "{}"}}'
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors(), detectors=[Quoted()]) as client:
        reply = client.generate('"j\\d"@x.org', output_schema={"type": "object"})
    assert reply.backend == "cloud"
    assert json.loads(reply.text) == {"to": '"j\\d"@x.org'}


@given(
    st.lists(
        st.sampled_from([MAIL, "a@b.example", "078-05-1120", "x ", "EMAIL_ABCDE", "é", "日本", "\n", '"']), max_size=12
    )
)
def test_an_echo_of_any_text_comes_back_unchanged(parts):
    text = "say: " + " ".join(parts)
    cloud, edge = Echo("cloud", Location.CLOUD), Echo("edge", Location.EDGE)
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors()) as client:
        reply = client.generate(text)
    assert reply.text == text
    for request in cloud.requests:
        assert not any(part in everything(request) for part in ("jane", "078-05"))


def test_decide_sends_nothing_and_a_closed_client_knows_no_value(llm, cloud, edge):
    assert llm.decide(f"Write to {MAIL}.").order == ("cloud", "edge")
    assert not [*cloud.requests, *edge.requests]


class Recorder:
    def __init__(self) -> None:
        self.events = []

    def __call__(self, event) -> None:
        self.events.append(event)


def test_an_identical_request_is_answered_from_the_cache_and_marked(edge, cloud):
    seen = Recorder()
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors(), cache=MemoryCache(), hooks=[seen]) as client:
        first, second = client.generate("hello"), client.generate("hello")
        assert (first.cached, second.cached) == (False, True)
        assert first.text == second.text == "hello"
        assert second.backend == "cloud"
        assert client.generate("hello", temperature=0.5).cached is False
        assert client.generate("hello", tenant="other").cached is False
        assert client.generate("hello", privacy={"fleeting"}).cached is False
        assert client.generate("hello", privacy={"fleeting"}).cached is False, "its tag forbids every cache"
    assert len(cloud.requests) == 5
    assert [event.error for event in seen.events] == [""] * 6


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_answer_is_cached_only_if_the_model_that_gave_it_is_greedy(edge, cloud, mode):
    cloud.capabilities = replace(cloud.capabilities, draws=True)
    options = {"sensors": FixedSensors(), "cache": MemoryCache()}
    with (
        HybridLLM([edge, cloud], POLICY, **options) as client,
        HybridLLM([edge, cloud], POLICY, defaults=Defaults(temperature=0.0), **options) as greedy,
    ):

        def cached(llm, **options):
            pair = [llm.generate, lambda *a, **b: asyncio.run(llm.agenerate(*a, **b))][mode == "async"]
            return [pair("hello", **options).cached for _ in range(2)]

        assert cached(client) == [False, False], "nobody named a temperature, and the model recommends a draw"
        assert cached(client, top_k=5) == [False, False]
        assert cached(client, temperature=0.0) == [False, True]
        assert cached(greedy, top_p=0.5) == [False, True], "the configuration names it"
        cloud.ready = False
        assert cached(client) == [False, True], "the device is greedy"
        edge.capabilities = replace(edge.capabilities, draws=True)
        assert cached(client) == [False, False], "another model, which draws, is there now"


def test_an_answer_that_a_drawing_model_began_is_not_cached(edge, cloud):
    cloud.capabilities = replace(cloud.capabilities, draws=True)
    begin = cloud.stream

    def breaks_off(cleared):
        yield next(begin(cleared))
        raise BackendUnavailable("gone", backend="cloud")

    cloud.stream = breaks_off
    with HybridLLM([edge, cloud], CONTINUING, sensors=FixedSensors(), cache=MemoryCache()) as client:
        assert client.generate("hello").continuations
        cloud.ready = False
        assert not client.generate("hello").cached


def test_a_cache_in_the_cloud_never_sees_what_may_not_leave(edge, cloud):
    class CloudCache(MemoryCache):
        location = Location.CLOUD

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Request] = []

        def put(self, cleared, answer) -> None:
            super().put(cleared, answer)
            self.seen.append(cleared.request)

    cache = CloudCache()
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors(), cache=cache) as client:
        for text in ("open", f"Write to {MAIL}.", "4111 1111 1111 1111"):
            client.generate(text)
    assert [everything(request) for request in cache.seen] == ["open"]


def test_an_answer_is_cached_only_where_the_tags_of_its_content_allow(cloud):
    class Talkative(Echo):
        template = "{}: ask jane.doe@example.org, card 4111 1111 1111 1111"

    cache = RecordingCache(Location.CLOUD)
    edge = Talkative("edge", Location.EDGE)
    cloud.ready = False
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors(), cache=cache) as client:
        client.generate("open")
        edge.template = "{}"
        client.generate("open")
    assert [call.answer for call in cache.calls if call.answer] == ["open"]


def test_a_cached_answer_is_not_used_if_another_backend_comes_first_now(edge, cloud):
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors(), cache=MemoryCache()) as client:
        client.generate("hello")
        cloud.ready = False
        reply = client.generate("hello")
    assert (reply.cached, reply.backend) == (False, "edge")


def test_a_cache_evicts_old_and_least_used_entries():
    now = [0.0]
    cache = MemoryCache(max_entries=2, ttl_s=10.0, clock=lambda: now[0])
    cloud, edge = Echo("cloud", Location.CLOUD), Echo("edge", Location.EDGE)
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors(), cache=cache) as client:
        for text in ("a", "b", "a", "c"):
            client.generate(text)
        assert client.generate("a").cached
        assert not client.generate("b").cached
        now[0] = 11.0
        assert not client.generate("a").cached
        assert Message(role="user", content="a") in cloud.requests[-1].messages


class Place:
    """What pydantic's models offer, by hand: the library needs no pydantic."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def model_json_schema(cls) -> dict:
        return {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}

    @classmethod
    def model_validate_json(cls, json_data: str):
        return cls(**json.loads(json_data))


def test_an_answer_with_a_schema_is_an_object(edge, cloud):
    cloud.template = '{{"name": "{}"}}'
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors()) as client:
        assert client.generate("Ulm", output_schema=Place.model_json_schema()).parsed == {"name": "Ulm"}
        assert client.generate("Ulm", output_schema=Place).parsed.name == "Ulm"
        assert json.loads(cloud.requests[-1].output_schema) == Place.model_json_schema()
        with pytest.raises(HybridLLMError, match="no output_schema"):
            _ = client.generate("Ulm").parsed

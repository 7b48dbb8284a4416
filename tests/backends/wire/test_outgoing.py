"""The last check before a request leaves: the bytes hold what was cleared, all of it, and nothing else."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.wire.messages import check_clearance, outgoing, request_from_wire, request_to_wire
from hybrid_llm.core.clearance import Cleared, Purpose, require_clearance
from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.request import Location, Message, Request, Sampling, Tool
from hybrid_llm.policies import parse_policy
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.router.privacy import PrivacyGuard
from tests.fakes import A_DAY

POLICY = parse_policy("version: 1\nname: p\ntags: {public: {allow: [edge, cloud], share_name: true}}\n")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.text(string.ascii_letters, min_size=1, max_size=8)

PARTS = ["message", "role", "schema", "tag", "more", "stop", "tool"]
PARTS += ["task", "request_id", "tenant", "session_id", "answer_prefix"]


@st.composite
def requests(draw: st.DrawFn) -> Request:
    messages = st.builds(Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=TEXTS)
    tools = st.builds(Tool, name=NAMES, description=TEXTS, parameters=TEXTS)
    return Request(
        messages=tuple(draw(st.lists(messages, min_size=1, max_size=4))),
        task=draw(NAMES),
        privacy=draw(st.sampled_from([frozenset(), frozenset({"public"})])),
        sampling=Sampling(temperature=draw(st.floats(0, 2)), stop=tuple(draw(st.lists(TEXTS, max_size=2)))),
        output_schema=draw(st.none() | TEXTS),
        logprobs=draw(st.none() | st.integers(0, 20)),
        tools=tuple(draw(st.lists(tools, max_size=2))),
        answer_prefix=draw(TEXTS),
        session_id=draw(st.none() | NAMES),
        tenant=draw(st.none() | NAMES),
        request_id=draw(NAMES),
    )


def cleared(request: Request, location: Location = Location.CLOUD) -> Cleared:
    guard = PrivacyGuard()
    return guard.clear(guard.assess(request, POLICY), location)


SIMPLE = Request(messages=(Message(role="user", content="words"),), privacy=frozenset({"public"}), deadline=A_DAY)


@given(requests())
def test_the_bytes_of_any_cleared_request_pass_and_hold_the_same(request):
    data = outgoing(cleared(request), remaining=1.0)
    message = pb.GenerateRequest.FromString(data)
    assert [m.content for m in message.messages] == [m.content for m in request.messages]
    assert message.request_id == request.request_id


@given(requests(), st.data())
def test_another_text_anywhere_is_found(request, data):
    good = cleared(request)
    message = pb.GenerateRequest.FromString(outgoing(good, remaining=1.0))
    match data.draw(st.sampled_from(PARTS)):
        case "message":
            message.messages[0].content += "!"
        case "role":
            message.messages[0].role = message.messages[0].role % 4 + 1
        case "schema":
            message.output_schema += "!"
        case "tag":
            message.tags.append("more")
        case "more":
            message.messages.add(role=pb.ROLE_USER, content="")
        case "stop":
            message.sampling.stop.append("")
        case "tool":
            message.tools.add()
        case name:
            setattr(message, name, getattr(message, name) + "!")
    with pytest.raises(PrivacyViolation):
        check_clearance(message.SerializeToString(deterministic=True), good.clearance)


def test_bytes_that_a_request_does_not_have_are_found():
    good = cleared(SIMPLE)
    data = outgoing(good, remaining=1.0)
    unknown_field = bytes([0xA2, 0x06, 6]) + b"SECRET"  # number 100, length-delimited
    for more in (data + unknown_field, data + b"\xff", b"\xff" + data):
        with pytest.raises(PrivacyViolation) as caught:
            check_clearance(more, good.clearance)
        assert "SECRET" not in str(caught.value)


def test_a_clearance_for_another_location_or_purpose_is_refused():
    guard = PrivacyGuard()
    assessment = guard.assess(SIMPLE, POLICY)
    for_cache = guard.clear(assessment, Location.CLOUD, Purpose.CACHE)
    for wrong in (cleared(SIMPLE, Location.EDGE), for_cache, replace(for_cache, request=SIMPLE), SIMPLE):
        with pytest.raises(PrivacyViolation):
            outgoing(wrong, remaining=1.0)
    assert require_clearance(for_cache, Location.CLOUD, Purpose.CACHE).messages == SIMPLE.messages
    with pytest.raises(PrivacyViolation):
        require_clearance(cleared(SIMPLE), Location.CLOUD, Purpose.CACHE)


class Shifty:
    """A message whose text is another one when it is read again: a mistake between the clearance and the bytes."""

    role = "user"
    tool_calls, tool_call_id, reasoning = (), "", ""

    def __init__(self) -> None:
        self._texts = ["words", "SECRET"]

    def texts(self):
        yield self.content

    @property
    def content(self) -> str:
        return self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]


def test_a_text_that_changes_after_the_clearance_is_found_in_the_bytes():
    good = cleared(SIMPLE)
    shifty = replace(good, request=replace(good.request, messages=(Shifty(),)))
    with pytest.raises(PrivacyViolation) as caught:
        outgoing(shifty, remaining=1.0)
    assert "SECRET" not in str(caught.value)


def test_a_role_that_the_protocol_does_not_have_is_found_in_the_bytes():
    good = cleared(SIMPLE)
    message = pb.GenerateRequest.FromString(outgoing(good, remaining=1.0))
    message.messages[0].role = 99  # type: ignore[assignment]
    with pytest.raises(PrivacyViolation):
        check_clearance(message.SerializeToString(deterministic=True), good.clearance)


def test_what_an_older_client_leaves_out_is_neutral_whatever_the_model_recommends():
    older = pb.GenerateRequest(sampling=pb.Sampling(top_p=1.0, repetition_penalty=1.0))
    read = request_from_wire(older, deadline=1.0).sampling
    done = read.completed({"temperature": 0.6, "top_k": 5, "min_p": 0.2, "top_p": 0.9})
    assert replace(done, explicit=()) == Sampling()


@pytest.mark.parametrize(
    ("sampling", "completed"),
    [
        (Sampling(), (0.6, 5, 0.2)),
        (Sampling(temperature=0.9, min_p=0.1), (0.9, 5, 0.1)),
        (Sampling(explicit=("min_p", "temperature")), (0.0, 5, 0.0)),
    ],
)
def test_settings_that_nobody_named_are_left_to_the_nodes_model(sampling, completed):
    request = Request(messages=(Message(role="user", content="hi"),), sampling=sampling)
    read = request_from_wire(request_to_wire(request, remaining=1.0), deadline=1.0).sampling
    done = read.completed({"temperature": 0.6, "top_k": 5, "min_p": 0.2})
    assert (done.temperature, done.top_k, done.min_p) == completed

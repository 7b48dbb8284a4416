"""Tools as an app meets them: what it may pass, what a backend sees, what comes back, and the loop over it."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import threading
import time
import typing
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm import Tool, ToolCall, ToolCallDelta
from hybrid_llm.core.clearance import require_clearance
from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    OutputInvalid,
    StreamInterrupted,
    ToolFailed,
)
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.limits import Defaults, RequestLimits
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.request import make_request
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

POLICY = """\
version: 1
name: tools
tags:
  phi: {allow: [edge], detect: [medical_record]}
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
rules:
  - prefer: [edge, cloud]
    when: request.tools > 4
  - prefer: [cloud, edge]
resilience: {retries: 0, continue_streams: true}
"""
MAIL = "jane.doe@example.org"
RECORD = "medical record number 77-123456"


def send(to: str, text: str = "") -> str:
    """Send a message.

    Args:
        to: Whom to,
            by address.
        text: What.
    """
    return f"sent to {to}"


SEND = Tool.of(send)


class Model(FakeBackend):
    """A fake whose answer is what *answers* returns for the request: chunks, and errors to raise."""

    def __init__(self, name: str, location: Location, answers: Callable[[Request], Iterable[Chunk | Exception]]):
        super().__init__(name, location)
        self._answers = answers

    def stream(self, cleared):
        request = require_clearance(cleared, self.location)
        self.requests.append(request)
        for step in self._answers(request):
            if isinstance(step, Exception):
                raise step
            yield step


def piece(text: str, index: int = 0, name: str = "") -> Chunk:
    return Chunk(tool_calls=(ToolCallDelta(index=index, name=name, arguments=text),))


def end(reason: FinishReason = FinishReason.TOOL_CALLS) -> Chunk:
    return Chunk(tokens=0, finish_reason=reason)


def calls(name: str, arguments: str, size: int = 1) -> Callable[[Request], list[Chunk]]:
    """An answer that calls *name* with *arguments*, *size* characters at a time."""
    pieces = [piece(arguments[at : at + size]) for at in range(0, len(arguments), size)]
    return lambda _: [piece("", name=name), *pieces, end()]


def says(text: str) -> Callable[[Request], list[Chunk]]:
    return lambda _: [Chunk(text=text), end(FinishReason.STOP)]


def after_result(first: Callable, then: Callable) -> Callable[[Request], list[Chunk]]:
    """*first* until there is a result of a tool, and *then* afterwards."""
    return lambda request: (then if request.messages[-1].role == "tool" else first)(request)


@pytest.fixture
def make():
    made = []

    def client(*backends: FakeBackend, **options) -> HybridLLM:
        policy = parse_policy(POLICY, backends={b.name: b.location for b in backends})
        made.append(HybridLLM(backends, policy, sensors=FixedSensors(), **options))
        return made[-1]

    yield client
    for each in made:
        each.close()


def request(prompt="hi", **options) -> Request:
    return make_request(prompt, options, Defaults())


# What an app may pass


class Colour(Enum):
    RED = "red"


def test_a_function_becomes_a_tool_by_its_types_and_its_docstring():
    def paint(
        colour: Colour,
        what: Annotated[str, "the thing"],
        sizes: list[int],
        by: dict[str, float] | None = None,
        mode: Literal["a", 2] = "a",
    ) -> None:
        """Paint things.

        Slowly.

        Args:
            colour: Which one.
        """

    tool = Tool.of(paint)
    assert (tool.name, tool.description) == ("paint", "Paint things.\n\nSlowly.")
    assert json.loads(tool.parameters) == {
        "type": "object",
        "properties": {
            "colour": {"type": "string", "enum": ["red"], "description": "Which one."},
            "what": {"type": "string", "description": "the thing"},
            "sizes": {"type": "array", "items": {"type": "integer"}},
            "by": {"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]},
            "mode": {"enum": ["a", 2], "default": "a"},
        },
        "required": ["colour", "what", "sizes"],
        "additionalProperties": False,
    }
    assert json.loads(SEND.parameters)["properties"]["to"]["description"] == "Whom to, by address."


@pytest.mark.skipif(importlib.util.find_spec("pydantic") is None, reason="needs pydantic")
def test_a_pydantic_model_becomes_a_tool_the_argument_of_one_and_its_result(make):
    from pydantic import BaseModel

    class Address(BaseModel):
        street: str

    class Move(BaseModel):
        """Move house."""

        to: Address

    def places():
        return [Address(street="x")]

    client = make(Model("edge", Location.EDGE, after_result(calls("places", "{}"), says("done"))))
    assert client.run_tools("hi", tools=[places]).steps[0].result == '[{"street": "x"}]'
    tool = request(tools=[Move]).tools[0]
    assert (tool.name, tool.description) == ("Move", "Move house.")
    assert json.loads(tool.parameters)["properties"] == {"to": {"$ref": "#/$defs/Address"}}


def untyped(x):
    pass


def starred(*x: int):
    pass


def bare(x: typing.List):  # noqa: UP006
    pass


class Opaque(Enum):
    IT = object()


def opaque(x: Opaque):
    pass


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"tools": "send"}, "tools", "list"),
        ({"tools": [5]}, "tools", "typed function"),
        ({"tools": [untyped]}, "tools", "needs a type"),
        ({"tools": [starred]}, "tools", "passed by name"),
        ({"tools": [bare]}, "tools", "no JSON Schema"),
        ({"tools": [opaque]}, "tools", "no JSON Schema"),
        ({"tools": [lambda: 1]}, "tools", "1 to 64"),
        ({"tools": [Tool(name="a b")]}, "tools", "tools[0]: a name"),
        ({"tools": [Tool(name="auto")]}, "tools", "tool_choice"),
        ({"tools": [SEND, send]}, "tools", "same name"),
        ({"tools": [SEND, Tool(name="f", parameters='{"type": "array"}')]}, "tools", "tools[1].parameters"),
        ({"tools": [Tool(name="f", parameters='{"properties": {"a": {"not": {}}}}')]}, "tools", "`not`"),
        ({"tools": [Tool(name=f"f{n}") for n in range(129)]}, "tools", "the limit is 128"),
        ({"tools": [Tool(name="f", description="x" * 600_000)]}, "tools", "tool_bytes"),
        ({"tools": [SEND], "tool_choice": "sned"}, "tool_choice", "one of the tools"),
        ({"tool_choice": "required"}, "tool_choice", "one of the tools"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", "True or False"),
    ],
)
def test_what_is_no_tool_is_refused_by_name(options, field, words):
    with pytest.raises(InvalidRequest) as caught:
        request(**options)
    assert caught.value.field == field
    assert words in str(caught.value)


def test_tool_choice_takes_the_words_and_the_shapes_of_other_apis():
    chosen = {"type": "function", "function": {"name": "send"}}
    for value, meant in [("any", "required"), ("none", "none"), ("send", 0), (chosen, 0)]:
        assert request(tools=[send], tool_choice=value).tool_choice == meant


ASSISTANT = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": {"y": "é"}}},
    ],
}


def test_a_conversation_with_calls_and_results_is_taken_as_other_apis_have_it_and_ids_become_numbers():
    made = request(
        [
            {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
            {"role": "user", "content": "hi"},
            {**ASSISTANT, "reasoning_content": "why"},
            {"role": "tool", "tool_call_id": "b", "content": "2"},
            {"role": "tool", "tool_call_id": "a", "name": "f", "content": "1"},
        ]
    )
    assert [message.role for message in made.messages] == ["developer", "user", "assistant", "tool", "tool"]
    assert made.messages[0].content == "be\nbrief"
    assert made.messages[2].reasoning == "why"
    assert [call.id for call in made.messages[2].tool_calls] == ["call00001", "call00002"]
    assert [call.arguments for call in made.messages[2].tool_calls] == ['{"x": 1}', '{"y": "\\u00e9"}']
    assert [message.tool_call_id for message in made.messages[3:]] == ["call00002", "call00001"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "content[0] is of the kind 'image_url'",
        ),
        ({"role": "user", "content": [{"type": MAIL}]}, "of an unknown kind"),
        ({"role": "user", "content": [{"type": [MAIL]}]}, "of an unknown kind"),
        ({"role": "user", "content": None}, "content that is text"),
        ({"role": "user", "content": "x", "tool_calls": ASSISTANT["tool_calls"]}, "only an assistant"),
        ({"role": "tool", "content": "x", "tool_call_id": MAIL}, "no tool call before it"),
        (
            {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "JSON object",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": object()}}}]},
            "JSON object",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"x": NaN}'}}]},
            "JSON object",
        ),
        ({"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f g"}}]}, "letters, digits"),
        ({"role": "assistant", "content": "x", "tool_calls": [MAIL]}, "a tool call is"),
        ({"role": "user", "content": "x", "tool_cals": []}, "did you mean 'tool_calls'"),
    ],
)
def test_what_is_no_message_is_refused_with_its_place_and_without_its_text(message, words):
    with pytest.raises(InvalidRequest) as caught:
        request([{"role": "user", "content": "hi"}, message])
    assert words in str(caught.value)
    assert MAIL not in str(caught.value)


def test_the_limits_of_tools_can_be_set():
    make_request("x", {"tools": [Tool(name=f"f{n}") for n in range(129)]}, Defaults(), limits=RequestLimits(tools=129))


# What a backend sees, and what comes back


@pytest.mark.parametrize("size", [1, 3, 200])
def test_pseudonyms_are_in_what_the_cloud_sees_and_restored_in_arguments_however_they_are_cut(make, size):
    def answers(asked):
        sent = json.loads(asked.messages[-2].tool_calls[0].arguments)["to"]
        text = json.dumps({"to": f"{sent}, \u00e9\n {sent}", "text": sent})
        return [Chunk(reasoning=f"to {sent}"), Chunk(text=f"I ask {sent}."), *calls("send", text, size)(asked)]

    cloud = Model("cloud", Location.CLOUD, answers)
    described = Tool(name="send", description=f"not to {MAIL}", parameters=SEND.parameters)
    conversation = [
        {"role": "user", "content": "write to her"},
        Message(
            role="assistant",
            reasoning=f"she is {MAIL}",
            tool_calls=(ToolCall(id=MAIL, name="send", arguments=json.dumps({"to": MAIL, "n": 1})),),
        ),
        {"role": "tool", "tool_call_id": MAIL, "content": json.dumps({"known": MAIL})},
    ]
    stream = make(cloud).stream(conversation, tools=[described])
    deltas = [delta for chunk in stream for delta in chunk.tool_calls]
    reply = stream.generation
    assert MAIL not in repr([list(each.visible_text()) for each in cloud.requests]) + cloud.requests[0].shape()
    assert MAIL not in repr([call.id for message in cloud.requests[0].messages for call in message.tool_calls])
    assert "".join(delta.arguments for delta in deltas) == reply.tool_calls[0].arguments
    assert reply.tool_calls[0].values == {"to": f"{MAIL}, \u00e9\n {MAIL}", "text": MAIL}
    assert (reply.text, reply.reasoning) == (f"I ask {MAIL}.", f"to {MAIL}")
    assert reply.finish_reason is FinishReason.TOOL_CALLS
    assert reply.backend == "cloud"


@pytest.mark.parametrize("where", ["result", "arguments", "reasoning", "description"])
def test_private_text_anywhere_keeps_the_request_on_the_device(make, where):
    edge, cloud = (Model(each.value, each, says("ok")) for each in (Location.EDGE, Location.CLOUD))
    put = {each: RECORD if each == where else "fine" for each in ("result", "arguments", "reasoning", "description")}
    call = ToolCall(id="a", name="send", arguments=json.dumps({"to": put["arguments"]}))
    conversation = [
        Message(role="user", content="hi"),
        Message(role="assistant", tool_calls=(call,), reasoning=put["reasoning"]),
        Message(role="tool", tool_call_id="a", content=put["result"]),
    ]
    tool = Tool(name="send", description=put["description"], parameters=SEND.parameters)
    assert make(edge, cloud).generate(conversation, tools=[tool]).backend == "edge"
    assert cloud.requests == []


def test_a_policy_sees_how_many_tools_there_are(make):
    edge, cloud = (Model(each.value, each, says("ok")) for each in (Location.EDGE, Location.CLOUD))
    client = make(edge, cloud)
    assert client.decide("hi", tools=[Tool(name=f"f{n}") for n in range(5)]).order[0] == "edge"
    assert client.decide("hi", tools=[Tool(name=f"f{n}") for n in range(4)]).order[0] == "cloud"


STRICT = Tool(name="send", parameters=SEND.parameters)


@pytest.mark.parametrize(
    ("answers", "options"),
    [
        (calls("send", '{"to": 5}'), {}),
        (calls("send", '{"to": "x"'), {}),
        (calls("send", "[]"), {}),
        (calls("other", "{}"), {}),
        (calls("send", '{"to": "x"}'), {"tool_choice": "none"}),
        (says("no"), {"tool_choice": "required"}),
        (lambda _: [piece('{"to": "x"}', n, "send") for n in range(2)] + [end()], {"parallel_tool_calls": False}),
        (lambda _: [piece("{", name="send"), piece("}", name="send"), end()], {}),
    ],
)
def test_calls_that_are_not_what_was_asked_for_are_one_typed_error(make, answers, options):
    client = make(Model("edge", Location.EDGE, answers))
    with pytest.raises(OutputInvalid) as caught:
        client.generate("hi", tools=[STRICT], **options)
    assert caught.value.reason == "tool_call"
    with pytest.raises(OutputInvalid):
        asyncio.run(client.agenerate("hi", tools=[STRICT], **options))


@pytest.mark.parametrize("first", [piece("{}", 1, "send"), piece("{}"), piece("{}", -1)])
def test_a_piece_of_a_call_without_a_beginning_is_an_error_before_which_the_next_backend_answers(make, first):
    broken = Model("cloud", Location.CLOUD, lambda _: [first, end()])
    with pytest.raises(AllBackendsFailed) as caught:
        make(broken).generate("hi", tools=[STRICT])
    assert isinstance(caught.value.failures["cloud"], OutputInvalid)
    assert make(broken, Model("edge", Location.EDGE, says("ok"))).generate("hi", tools=[STRICT]).text == "ok"


def test_one_call_is_no_several(make):
    client = make(Model("edge", Location.EDGE, calls("send", '{"to": "x"}')))
    assert len(client.generate("hi", tools=[send], parallel_tool_calls=False).tool_calls) == 1


def cut(*pieces: Chunk, reason: FinishReason = FinishReason.LENGTH) -> Callable[[Request], list[Chunk]]:
    """An answer that a limit cuts after *pieces*."""
    return lambda _: [*pieces, end(reason)]


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.REPETITION])
@pytest.mark.parametrize("last", ['{"to', '{"to": "x"', '"x', "{", '{"to": 5', ""])
@pytest.mark.parametrize("choice", ["auto", "required", "send"])
def test_a_call_that_a_limit_cut_is_left_out(make, reason, last, choice):
    answers = cut(piece('{"to": "x"}', name="send"), piece(last, 1, "send"), reason=reason)
    reply = make(Model("edge", Location.EDGE, answers)).generate("hi", tools=[send], tool_choice=choice)
    assert [call.values for call in reply.tool_calls] == [{"to": "x"}]
    assert reply.finish_reason is reason


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_an_answer_that_a_limit_cut_may_have_no_call_yet(make, choice):
    for pieces in ([piece('{"to', name="send")], [Chunk(text="Well")]):
        reply = make(Model("edge", Location.EDGE, cut(*pieces))).generate("hi", tools=[send], tool_choice=choice)
        assert (reply.tool_calls, reply.finish_reason) == ((), FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("pieces", "options"),
    [
        ([piece('{"to": 5}', name="send")], {}),
        ([piece('{"to": "x"}', name="other"), piece("{", 1, "send")], {}),
        ([piece('{"to": "x"', name="send"), piece('{"to": "x"}', 1, "send")], {}),
        ([piece('{"to": "x"}', name="send")], {"tool_choice": "none"}),
        ([piece('{"to": "x"}', name="send"), piece("{", 1, "send")], {"parallel_tool_calls": False}),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_whole_calls_of_an_answer_that_a_limit_cut_are_checked_too(make, pieces, options, full):
    broken = [*pieces, StreamInterrupted("cut", backend="edge", received_tokens=2)]
    client = make(Model("edge", Location.EDGE, (lambda _: broken) if full else cut(*pieces)))
    with pytest.raises(OutputInvalid) as caught:
        client.generate("hi", tools=[STRICT], max_tokens=len(pieces), **options)
    assert caught.value.reason == "tool_call"


# A stream that breaks off

WHOLE = json.dumps({"to": 'Zo\u00eb "Z" <z at x>', "text": "line\nline \\ {[}]"})


def begins(at: int) -> Callable[[Request], list[Chunk | Exception]]:
    text = [Chunk(reasoning=each) for each in "I think."] + [Chunk(text=each) for each in "Well: "]
    both = [piece(each) for each in WHOLE]
    steps = [*text, piece("", name="send"), *both, piece("", 1, "send"), *(piece(each, 1) for each in WHOLE)]
    cut = StreamInterrupted("cut", backend="cloud", received_tokens=1)
    return lambda _: [*steps[:at], cut] if at <= len(steps) else [*steps, end()]


def goes_on(asked: Request) -> list[Chunk]:
    """What a backend writes after the partial answer of *asked*: the rest of the same, in larger pieces."""
    thought, said = asked.answer_reasoning, asked.answer_prefix
    steps = [] if said or asked.answer_calls else [Chunk(reasoning="I think."[len(thought) :])]
    steps += [] if asked.answer_calls else [Chunk(text="Well: "[len(said) :])]
    have = list(asked.answer_calls)
    for index in range(max(len(have) - 1, 0), 2):
        given = have[index].arguments if index < len(have) else ""
        steps += [] if index < len(have) else [piece("", index, "send")]
        steps += [piece(WHOLE[len(given) :], index)]
    return [*steps, end()]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2 * len(WHOLE) + 15), st.sampled_from(["cloud", "edge"]))
def test_an_answer_cut_in_reasoning_text_or_arguments_is_continued_to_the_same_calls(at, first):
    second = "edge" if first == "cloud" else "cloud"
    backends = [Model(first, Location(first), begins(at)), Model(second, Location(second), goes_on)]
    policy = POLICY.replace("prefer: [cloud, edge]", f"prefer: [{first}, {second}]")
    parsed = parse_policy(policy, backends={b.name: b.location for b in backends})
    with HybridLLM(backends, parsed, sensors=FixedSensors()) as client:
        stream = client.stream("hi", tools=[send], max_tokens=1000)
        chunks = list(stream)
    reply = stream.generation
    assert (reply.reasoning, reply.text) == ("I think.", "Well: ")
    assert [call.arguments for call in reply.tool_calls] == [WHOLE, WHOLE]
    assert len({delta.id for chunk in chunks for delta in chunk.tool_calls if delta.id}) == 2
    assert [each.backend for each in reply.continuations] == [second]


def test_an_answer_cut_in_arguments_that_nobody_continues_ends_in_one_typed_error(make):
    client = make(Model("cloud", Location.CLOUD, begins(20)))
    with pytest.raises(StreamInterrupted):
        client.generate("hi", tools=[send])


# The loop

TWICE = after_result(calls("send", '{"to": "Zo\u00eb"}'), says("done"))


def test_the_loop_calls_functions_and_answers_with_their_results(make):
    cloud = Model("cloud", Location.CLOUD, TWICE)
    run = make(cloud).run_tools("write", tools=[send], max_tokens=9)
    assert (run.text, run.is_complete, run.pending) == ("done", True, ())
    assert [(step.call.values, step.result, step.backend) for step in run.steps] == [
        ({"to": "Zo\u00eb"}, "sent to Zo\u00eb", "cloud")
    ]
    assert [message.role for message in cloud.requests[-1].messages] == ["user", "assistant", "tool"]
    assert len(run.replies) == 2
    assert make(cloud).generate(list(run.messages), tools=[send]).tool_calls, "the conversation is a prompt"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_functions_may_be_async_and_take_enums_and_results_may_be_any_json(make, mode):
    async def paint(colour: Colour) -> dict:
        assert colour is Colour.RED
        await asyncio.sleep(0)
        return {"painted": [colour.value]}

    answers = after_result(calls("paint", '{"colour": "red"}'), says("done"))
    client = make(Model("edge", Location.EDGE, answers))
    if mode == "sync":
        run = client.run_tools("paint", tools=[paint])
    else:
        run = asyncio.run(client.arun_tools("paint", tools=[paint]))
    assert run.steps[0].result == '{"painted": ["red"]}'
    assert run.text == "done"


def fails(to: str) -> str:
    raise ValueError("no such person")


def hangs(to: str) -> str:
    time.sleep(A_WHILE)
    return "late"


A_WHILE = 3.0


def gives_up(to: str) -> str:
    raise TimeoutError("the tool's own")


def cannot_say(to: str) -> str:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError(MAIL)

    raise Silent


def names_a_file(to: str) -> str:
    raise FileNotFoundError("caf\udce9")


def endless(to: str) -> Iterator[int]:
    return itertools.count()


def raw(to: str) -> dict[str, list[bytes]]:
    return {"found": [MAIL.encode()]}


async def half_async(to: str) -> str:
    return half(to)


class Unwritable:
    def model_dump(self, mode: str) -> dict[str, object]:
        raise ValueError("no JSON of it")


def unwritable(to: str) -> Unwritable:
    return Unwritable()


def half(to: str) -> str:
    return "caf\udce9"


@pytest.mark.parametrize(
    ("tool", "reason", "told"),
    [
        (fails, "raised", "ValueError: no such person"),
        (gives_up, "raised", "TimeoutError: the tool's own"),
        (cannot_say, "raised", "error: Silent"),
        (names_a_file, "raised", "FileNotFoundError: caf?"),
        (hangs, "late", "in time"),
        (endless, "result", "count is no JSON"),
        (raw, "result", "bytes is no JSON"),
        (half, "result", "not Unicode"),
        (half_async, "result", "not Unicode"),
        (unwritable, "result", "no JSON of it"),
    ],
)
def test_a_tool_that_fails_is_reported_to_the_model_or_to_the_app(make, tool, reason, told):
    answers = after_result(calls(tool.__name__, '{"to": "x"}'), says("sorry"))
    client = make(Model("edge", Location.EDGE, answers))
    run = client.run_tools("hi", tools=[tool], tool_timeout=0.2)
    assert run.steps[0].error == reason
    assert told in run.steps[0].result
    assert run.text == "sorry"
    with pytest.raises(ToolFailed) as caught:
        asyncio.run(client.arun_tools("hi", tools=[tool], tool_timeout=0.2, on_error="raise"))
    assert (caught.value.tool, caught.value.reason) == (tool.__name__, reason)
    assert MAIL not in run.steps[0].result
    with pytest.raises(ToolFailed) as caught:
        client.run_tools("hi", tools=[tool], tool_timeout=0.2, on_error="raise")
    assert (caught.value.__cause__, caught.value.__context__) == (None, None), "their texts may be private"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_async_tool_that_does_not_return_is_cancelled(make, mode):
    ended = threading.Event()

    async def forever(to: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "x"

    client = make(Model("edge", Location.EDGE, after_result(calls("forever", '{"to": "x"}'), says("sorry"))))
    if mode == "sync":
        run = client.run_tools("hi", tools=[forever], tool_timeout=0.2)
    else:
        run = asyncio.run(client.arun_tools("hi", tools=[forever], tool_timeout=0.2))
    assert run.steps[0].error == "late"
    assert ended.wait(30)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_no_tool_is_called_once_the_deadline_is_over(make, mode):
    called = []

    def after(to: str) -> str:
        called.append(to)
        return "x"

    def answers(_):
        return [piece('{"to": "x"}', name="hangs"), piece('{"to": "x"}', 1, name="after"), end()]

    client = make(Model("edge", Location.EDGE, answers))
    run = (
        client.run_tools
        if mode == "sync"
        else lambda *args, **options: asyncio.run(client.arun_tools(*args, **options))
    )
    with pytest.raises(DeadlineExceeded):
        run("hi", tools=[hangs, after], deadline=0.3, max_concurrency=1)
    assert called == []


def several(*names: str) -> Callable[[Request], list[Chunk]]:
    """An answer that calls a tool of each name; the argument is its number."""
    pieces = [piece(json.dumps({"number": at}), at, name) for at, name in enumerate(names)]
    return after_result(lambda _: [*pieces, end()], says("done"))


class Meeting:
    """Tools of one number that return once *size* of them run at a time, and what else they can do."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size)
        self._lock = threading.Lock()
        self.running = self.most = 0

    def meet(self, number: int) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self._barrier.wait(30)
        time.sleep(0.02 * (3 - number))  # the first returns last
        with self._lock:
            self.running -= 1
        return f"met {number}"

    def fail(self, number: int) -> str:
        self.meet(number)
        raise ValueError(f"no {number}")

    def hang(self, number: int) -> str:
        self.meet(number)
        time.sleep(A_WHILE)
        return "late"


def run_in(mode: str, client: HybridLLM, **options):
    return client.run_tools("hi", **options) if mode == "sync" else asyncio.run(client.arun_tools("hi", **options))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_tools_of_one_answer_run_side_by_side_and_their_results_stand_in_order(make, mode):
    meeting = Meeting(3)

    async def meet_async(number: int) -> str:
        return await asyncio.to_thread(meeting.meet, number)

    edge = Model("edge", Location.EDGE, several("meet", "meet_async", "meet"))
    run = run_in(mode, make(edge), tools=[meeting.meet, meet_async])
    assert [step.result for step in run.steps] == ["met 0", "met 1", "met 2"]
    results = [message for message in edge.requests[-1].messages if message.role == "tool"]
    assert [(each.content, each.tool_call_id) for each in results] == [
        (f"met {n}", f"call0000{n + 1}") for n in range(3)
    ]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("most", [1, 2])
def test_no_more_tools_run_at_a_time_than_the_app_allows(make, mode, most):
    meeting = Meeting(most)
    client = make(Model("edge", Location.EDGE, several(*["meet"] * 4)))
    run = run_in(mode, client, tools=[meeting.meet], max_concurrency=most)
    assert (len(run.steps), meeting.most) == (4, most)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_tool_that_raises_or_never_returns_does_not_lose_the_others(make, mode):
    meeting = Meeting(3)
    tools = [meeting.fail, meeting.hang, meeting.meet]
    client = make(Model("edge", Location.EDGE, several("fail", "hang", "meet")))
    run = run_in(mode, client, tools=tools, tool_timeout=1.0)
    assert [step.error for step in run.steps] == ["raised", "late", ""]
    assert (run.steps[2].result, run.text) == ("met 2", "done")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_with_on_error_raise_no_tool_begins_once_one_has_failed(make, mode):
    called = []

    def then(number: int) -> str:
        called.append(number)
        return "x"

    def fail(number: int) -> str:
        raise ValueError

    client = make(Model("edge", Location.EDGE, several("then", "fail", "then")))
    with pytest.raises(ToolFailed) as caught:
        run_in(mode, client, tools=[then, fail], on_error="raise", max_concurrency=1)
    assert (called, caught.value.tool) == ([0], "fail")


def test_cancelling_the_task_cancels_every_tool_that_is_async(make):
    begun, ended = [], []

    async def forever(number: int) -> str:
        begun.append(number)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)
        return "x"

    async def cancel() -> None:
        client = make(Model("edge", Location.EDGE, several("forever", "forever", "forever")))
        task = asyncio.ensure_future(client.arun_tools("hi", tools=[forever], max_concurrency=2))
        while len(begun) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (sorted(begun), sorted(ended)) == ([0, 1], [0, 1])

    asyncio.run(asyncio.wait_for(cancel(), 60))


def test_arguments_arrive_as_the_types_of_the_function_wherever_they_stand(make):
    seen = []

    def mix(
        one: Colour | None, all_of: list[Colour], by: dict[str, Annotated[Colour, "x"]], some: set[int] | str
    ) -> str:
        seen.append((one, all_of, by, some))
        return "x"

    arguments = json.dumps({"one": "red", "all_of": ["red"], "by": {"a": "red"}, "some": [1, 1]})
    answers = after_result(calls("mix", arguments), says("done"))
    assert make(Model("edge", Location.EDGE, answers)).run_tools("hi", tools=[mix]).steps[0].error == ""
    assert seen == [(Colour.RED, [Colour.RED], {"a": Colour.RED}, {1})]


def test_calls_of_an_answer_that_was_cut_are_not_made(make):
    answers = cut(piece('{"to": "x"}', name="send"), piece("{", 1, "send"))
    run = make(Model("edge", Location.EDGE, answers)).run_tools("hi", tools=[send])
    assert (run.steps, len(run.pending), run.is_complete) == ((), 1, False)


def test_the_deadline_holds_for_the_whole_run(make):
    client = make(Model("edge", Location.EDGE, calls("hangs", '{"to": "x"}')))
    with pytest.raises(DeadlineExceeded, match=r"0\.5 s passed while tools ran") as caught:
        client.run_tools("hi", tools=[hangs], deadline=0.5)
    assert (caught.value.phase, caught.value.backend) == ("tools", "edge")


@pytest.mark.parametrize("tools", [send, "send", {"send": send}, 5])
def test_tools_that_are_no_list_are_refused(make, tools):
    with pytest.raises(InvalidRequest, match="pass a list"):
        make(Model("edge", Location.EDGE, calls("send", "{}"))).run_tools("hi", tools=tools)


def test_a_schema_that_is_no_text_is_refused_with_what_makes_one(make):
    tool = Tool(name="send", parameters={"type": "object"})
    with pytest.raises(InvalidRequest, match=r"tools\[0\].*json\.dumps"):
        make(Model("edge", Location.EDGE, calls("send", "{}"))).run_tools("hi", tools=[tool])


def test_the_loop_ends_after_max_steps_and_at_a_tool_without_a_function(make):
    endless = Model("edge", Location.EDGE, calls("send", '{"to": "x"}'))
    run = make(endless).run_tools("hi", tools=[send], max_steps=3)
    assert (len(run.replies), len(run.steps), len(run.pending)) == (3, 2, 1)
    run = make(endless).run_tools("hi", tools=[STRICT])
    assert (len(run.replies), len(run.steps), len(run.pending)) == (1, 0, 1)
    assert not run.is_complete


def test_the_route_of_the_first_step_is_kept_until_it_fails_or_a_result_may_not_go_there(make):
    down = iter([True])

    def flaky(asked):
        return [BackendUnavailable("down", backend="cloud")] if next(down, False) else TWICE(asked)

    edge, cloud = Model("edge", Location.EDGE, TWICE), Model("cloud", Location.CLOUD, flaky)
    run = make(edge, cloud).run_tools("hi", tools=[send])
    assert [reply.backend for reply in run.replies] == ["edge", "edge"], "the cloud is back, and nobody asked for it"

    def look_up(to: str) -> str:
        return f"{to} has the {RECORD}"

    answers = after_result(calls("look_up", '{"to": "x"}'), says("done"))
    edge, cloud = (Model(each.value, each, answers) for each in (Location.EDGE, Location.CLOUD))
    run = make(edge, cloud).run_tools("hi", tools=[look_up])
    assert [reply.backend for reply in run.replies] == ["cloud", "edge"]
    assert RECORD not in repr([list(each.visible_text()) for each in cloud.requests])


def test_a_forced_call_is_forced_once(make):
    cloud = Model("cloud", Location.CLOUD, TWICE)
    make(cloud).run_tools("hi", tools=[send], tool_choice="required")
    assert [each.tool_choice for each in cloud.requests] == ["required", "auto"]


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 0},
        {"on_error": "ask"},
        {"tool_timeout": 0},
        {"max_concurrency": 0},
        {"tools": []},
        {"tools": None},
    ],
)
def test_a_setting_of_the_loop_out_of_range_is_refused(make, options):
    with pytest.raises(InvalidRequest):
        make(Model("edge", Location.EDGE, TWICE)).run_tools("hi", **{"tools": [send], **options})

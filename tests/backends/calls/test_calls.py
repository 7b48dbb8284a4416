"""Tool calls and reasoning: what a grammar lets a model write is parsed to calls that validate, however it is cut."""

import json
import random

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.calls.formats import HERMES, LLAMA3, MISTRAL, PLAIN, ModelFormat, answer_text
from hybrid_llm.backends.calls.grammar import check_tool
from hybrid_llm.backends.calls.parser import MalformedCall
from hybrid_llm.backends.schema import UnusableSchema
from hybrid_llm.core.request import PartialAnswer, Request
from hybrid_llm.core.tools import Tool, ToolCall
from tests.backends.calls.walks import ASKED, FORMATS, collect, parser, tool, walk

EMPTY = {"type": "object", "properties": {}, "additionalProperties": False}
NAME = {**EMPTY, "properties": {"name": {"type": "string", "maxLength": 4}}, "required": ["name"]}
SCALARS = st.sampled_from(
    [
        {"type": "string", "maxLength": 5},
        {"type": "integer", "minimum": -9, "maximum": 120},
        {"type": "boolean"},
        {"enum": ["Oslo", "Lisbon", 3, None]},
        {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"},
        {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 2}]},
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.builds(lambda item, most: {"type": "array", "items": item, "maxItems": most}, inner, st.just(2))
        | st.dictionaries(st.text("abc_", min_size=1, max_size=3), inner, max_size=2).map(
            lambda properties: {**EMPTY, "properties": properties}
        )
    ),
    max_leaves=4,
)
PARAMETERS = st.dictionaries(st.text('abcé "\\', min_size=1, max_size=4), VALUES, max_size=3).flatmap(
    lambda properties: st.sets(st.sampled_from(sorted(properties)) if properties else st.nothing()).map(
        lambda required: {**EMPTY, "properties": properties, "required": sorted(required)}
    )
)
CHOICES = st.sampled_from(["auto", "none", "required", 0, 1])
MODELS = st.builds(
    ModelFormat,
    calls=st.sampled_from(FORMATS),
    reasons=st.booleans(),
).flatmap(lambda model: st.sampled_from([model, ModelFormat(calls=model.calls, reasons=True, begins_reasoning=True)]))


@st.composite
def requests(draw):
    tools = (tool("f", draw(PARAMETERS)), tool("g_2-b", draw(PARAMETERS)))
    schema = draw(st.none() | st.just(json.dumps(NAME)))
    return Request(
        messages=ASKED,
        tools=tools,
        tool_choice=draw(CHOICES),
        parallel_tool_calls=draw(st.booleans()),
        output_schema=schema,
    )


def cut(text, seed):
    draw, pieces = random.Random(seed), []
    while text:
        size = draw.randint(1, 9)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def check(request, parts):
    """What an app may rely on."""
    offered = request.tools if isinstance(request.tool_choice, str) else (request.tools[request.tool_choice],)
    schemas = {each.name: json.loads(each.parameters) for each in offered}
    for call in parts.tool_calls:
        jsonschema.validate(call.values, schemas[call.name])
    if request.tool_choice != "auto":
        assert bool(parts.tool_calls) is (request.tool_choice != "none")
    assert request.parallel_tool_calls or len(parts.tool_calls) <= 1
    if request.output_schema is not None and not parts.tool_calls:
        jsonschema.validate(json.loads(parts.text), NAME)


@settings(max_examples=30, deadline=None)
@given(MODELS, requests(), st.integers(0, 2**32))
def test_whatever_the_grammar_lets_pass_is_text_or_whole_calls_that_follow_their_schemas(model, request, seed):
    written = walk(model, request, seed)
    parts = collect(parser(model, request), cut(written.text, seed), cut=not written.whole)
    if written.whole:
        check(request, parts)
    whole = collect(parser(model, request), [written.text], cut=not written.whole)
    assert (whole.text, whole.reasoning, whole.tool_calls) == (parts.text, parts.reasoning, parts.tool_calls)


@settings(max_examples=20, deadline=None)
@given(MODELS, MODELS, requests(), st.integers(0, 2**32), st.floats(0, 1))
def test_an_answer_cut_anywhere_is_continued_to_a_whole_one_by_a_model_of_another_format(
    first, second, request, seed, share
):
    written = walk(first, request, seed)
    at = int(len(written.text) * share)
    begun = collect(parser(first, request), [written.text[:at]], cut=True)
    partial = PartialAnswer(text=begun.text, reasoning=begun.reasoning, tool_calls=begun.tool_calls)
    further = request.continue_from(partial)
    prefix = answer_text(second, further)
    rest = walk(second, further, seed + 1, prefix)
    one = parser(second, request)
    one.resume(prefix)
    count = len(begun.tool_calls)
    begun_and = collect_into(begun, one, cut(rest.text, seed), cut=not rest.whole)
    assert len(begun_and.tool_calls) >= count
    if rest.whole:
        check(request, begun_and)


def collect_into(parts, one, pieces, *, cut):
    from tests.backends.calls.walks import add

    for piece in pieces:
        add(parts, one.push(piece))
    add(parts, one.finish(cut=cut))
    return parts


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "}"}}\n</tool_call>'
ASK_F = Request(messages=ASKED, tools=(tool("f", {"type": "object"}),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CALL, ("", [("f", '{"a": "}"}')])),
        (f"Let me see.\n{CALL}\n{CALL}\n", ("Let me see.", [("f", '{"a": "}"}')] * 2)),
        ("no <tool> here", ("no <tool> here", [])),
        ("<tool_cal", ("<tool_cal", [])),
    ],
)
def test_text_and_calls_are_told_apart(text, expected):
    parts = collect(parser(ModelFormat(calls=HERMES), ASK_F), list(text))
    assert (parts.text, [(call.name, call.arguments) for call in parts.tool_calls]) == expected


@pytest.mark.parametrize("at", range(1, len(CALL)))
def test_a_call_that_a_limit_cuts_anywhere_leaves_nothing_of_it_in_the_text(at):
    parts = collect(parser(ModelFormat(calls=HERMES), ASK_F), [f"Well: {CALL[:at]}"], cut=True)
    assert parts.text.rstrip() == "Well:"


@pytest.mark.parametrize(
    "text",
    [
        CALL[:-3],
        CALL.replace('"f"', '"other"'),
        CALL.replace('"name"', '"nam"'),
        CALL.replace('{"a"', '["a"'),
        CALL + "more",
        "<tool_call>",
        CALL.replace('"arguments"', '"parameters"'),
    ],
)
def test_half_a_call_or_one_of_no_tool_is_an_error_and_never_text(text):
    with pytest.raises(MalformedCall):
        collect(parser(ModelFormat(calls=HERMES), ASK_F), list(text))


def test_reasoning_is_no_part_of_text_or_arguments_and_may_itself_show_a_call():
    model = ModelFormat(calls=HERMES, reasons=True)
    text = f"<think>\nI could write {CALL}.</think>\n\n{CALL}"
    parts = collect(parser(model, ASK_F), list(text))
    assert parts.text == ""
    assert parts.reasoning == f"\nI could write {CALL}."
    assert [call.arguments for call in parts.tool_calls] == ['{"a": "}"}']


def test_a_document_that_looks_like_a_call_stays_a_document():
    request = Request(messages=ASKED, tools=(tool("f", EMPTY),), output_schema=json.dumps(NAME))
    for calls in (LLAMA3, PLAIN, MISTRAL):
        parts = collect(parser(ModelFormat(calls=calls), request), list('{"name": "f"}'))
        assert (parts.text, parts.tool_calls) == ('{"name": "f"}', ())


def test_a_partial_answer_is_written_as_the_model_itself_would_have():
    calls = (ToolCall(name="f", arguments="{}"), ToolCall(name="f", arguments='{"a'))
    request = Request(
        messages=ASKED, tools=ASK_F.tools, answer_prefix="So:", answer_reasoning="why", answer_calls=calls
    )
    assert answer_text(ModelFormat(calls=HERMES, reasons=True), request) == (
        '<think>why</think>\n\nSo:<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n'
        '{"name": "f", "arguments": {"a'
    )
    assert answer_text(ModelFormat(calls=PLAIN), request) == (
        'So:{"name": "f", "arguments": {}}\n{"name": "f", "arguments": {"a'
    )


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Tool(name="f", parameters='{"type": "array"}'), "tools[3].parameters: arguments are an object"),
        (Tool(name="f", parameters="nonsense"), "tools[3].parameters: "),
        (
            Tool(name="f", parameters='{"properties": {"x": {"not": {}}}}'),
            "tools[3].parameters: `not` at /properties/x",
        ),
        (Tool(name="a b"), "tools[3]: a name has 1 to 64"),
    ],
)
def test_a_tool_that_no_grammar_can_hold_is_refused_by_its_place(made, says):
    with pytest.raises(UnusableSchema) as caught:
        check_tool(made, 3)
    assert says in str(caught.value)

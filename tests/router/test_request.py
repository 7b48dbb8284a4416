"""What an app passes is checked before anything else happens, and the message never repeats the prompt."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import DeadlineExceeded, InvalidRequest
from hybrid_llm.core.limits import Defaults
from hybrid_llm.core.request import GenerateOptions, Message, Tool
from hybrid_llm.router.request import make_request

SECRET = "SECRET-PROMPT"


def make(prompt=SECRET, **options):
    return make_request(prompt, options, Defaults())


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": math.inf}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"presence_penalty": math.nan}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"frequency_penalty": math.inf}, "frequency_penalty"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": -3.0}, "deadline"),
        ({"deadline": math.inf}, "deadline"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"privacy": "phi"}, "privacy"),
        ({"privacy": [""]}, "privacy"),
        ({"tenant": ""}, "tenant"),
        ({"session_id": "a\nb"}, "session_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"output_schema": "{"}, "output_schema"),
        ({"output_schema": "[]"}, "output_schema"),
        ({"output_schema": {"a": object()}}, "output_schema"),
        ({"output_schema": {"not": {"type": "string"}}}, "output_schema"),
        ({"output_schema": {"type": "string", "pattern": "(?=a)b"}}, "output_schema"),
        ({"output_schema": {"$ref": "#/nowhere"}}, "output_schema"),
        ({"output_schema": int}, "output_schema"),
        ({"tools": [{"name": "f"}]}, "tools"),
        ({"task": ""}, "task"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(options, field):
    with pytest.raises(InvalidRequest) as caught:
        make(**options)
    assert caught.value.field == field
    assert str(caught.value).startswith(field)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "   \n",
        [],
        [{"role": "user", "content": ""}],
        7,
        None,
        b"bytes",
        [SECRET],
        [{"role": "boss", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": "x", "extra": "y"}],
        [{"role": "user", "content": None}],
        "\ud800",
    ],
)
def test_a_prompt_that_is_no_prompt_is_refused(prompt):
    with pytest.raises(InvalidRequest) as caught:
        make(prompt)
    assert caught.value.field == "prompt"
    assert SECRET not in str(caught.value)


def test_a_misspelt_option_is_an_error_that_names_the_right_one():
    with pytest.raises(TypeError, match=r"'privcy'; did you mean 'privacy'\?"):
        make(privcy={"phi"})


def test_every_form_of_a_prompt_becomes_messages():
    message = Message(role="user", content="hi")
    for prompt in ("hi", message, [message], [{"role": "user", "content": "hi"}], (message,)):
        assert make(prompt).messages == (message,)


def test_defaults_fill_what_the_call_leaves_open_and_tags_add_up():
    request = make_request(
        "x", GenerateOptions(privacy={"a"}), Defaults(max_tokens=7, deadline=3.0, privacy=frozenset({"b"}))
    )
    assert (request.max_tokens, request.deadline, request.privacy) == (7, 3.0, frozenset({"a", "b"}))


def test_the_deadline_of_the_policy_holds_where_nobody_else_names_one():
    assert make_request("x", {}, Defaults(), deadline=5.0).deadline == 5.0
    assert make_request("x", {"deadline": 2}, Defaults(deadline=3.0), deadline=5.0).deadline == 2.0


def test_the_text_of_a_request_never_shows_in_its_repr():
    request = make(SECRET, stop=["never"], output_schema={"title": SECRET})
    assert SECRET not in repr(request)


@given(
    st.text(max_size=50),
    st.dictionaries(
        st.sampled_from(sorted(GenerateOptions.__annotations__)),
        st.one_of(
            st.none(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=3), max_size=3)
        ),
    ),
)
def test_any_input_gives_a_request_or_the_one_error_for_it(prompt, options):
    try:
        request = make_request(prompt, options, Defaults())
    except (InvalidRequest, TypeError):
        return
    assert request.max_tokens > 0
    assert math.isfinite(request.deadline)


def test_a_keyword_that_no_backend_could_enforce_is_refused_by_name_and_nothing_else_of_the_schema_is_told():
    with pytest.raises(InvalidRequest, match="`uniqueItems`") as caught:
        make("x", output_schema={"type": "array", "uniqueItems": True, "title": SECRET})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({1: 2}, "it has a name of the type int; names in JSON are texts"),
        ({"properties": {"a/b": {None: {}}}}, "/properties/a~1b: it has a name of the type NoneType; "),
        ({"enum": [0, ({True: 1},)]}, "/enum/1/0: it has a name of the type bool; "),
        ({"const": {"a": {SECRET}}}, "/const/a: set is no type of JSON"),
    ],
)
def test_a_schema_that_json_cannot_hold_is_refused_with_its_place(schema, fault):
    with pytest.raises(InvalidRequest) as caught:
        make("x", output_schema=schema)
    assert str(caught.value).startswith(f"output_schema: {fault}")
    assert SECRET not in str(caught.value)


WRONG = {
    "privacy": [5, {"phi": 1}, b"phi", ["phi", 7], "phi"],
    "task": [5, "", ["chat"], "\ud800"],
    "max_tokens": ["5", 1.5, True, [5], 10**5000],
    "deadline": ["5", True, [5], math.nan, 10**400],
    "temperature": ["5", True, [5], 10**400],
    "top_p": ["5", True, [0.5]],
    "top_k": ["5", 1.5, True],
    "min_p": ["5", True, [0.5]],
    "repetition_penalty": ["5", True, [1.0]],
    "presence_penalty": ["1", True, [1.0]],
    "frequency_penalty": ["1", True, [1.0]],
    "seed": ["5", 1.5, True],
    "stop": [5, {"a": 1}, b"a", ["a", 5], ["a", None], "\ud800"],
    "logprobs": ["5", True, 1.5, -1, 21],
    "priority": ["5", True, 1.5, -1, 10],
    "output_schema": [5, True, [], object(), object, {1: {}, (2,): {}}],
    "tools": [5, "f", Tool(name="f"), {"name": "f"}, [{"name": "f"}], [None], [Tool(name="")], [Tool(name=5)]],
    "tool_choice": [5, "", "any", ["auto"], {}, "f"],
    "parallel_tool_calls": ["yes", 1, 0.0],
    "session_id": [5, "", "a\nb", ["a"]],
    "tenant": [5, "", "a\nb", ["a"]],
    "request_id": [5, "", "a\nb", ["a"]],
    "backends": [5, "edge", [], [5], {"edge": 1}, b"edge"],
}


def test_the_table_of_wrong_types_has_every_option():
    assert WRONG.keys() == GenerateOptions.__annotations__.keys()


@pytest.mark.parametrize("name", sorted(GenerateOptions.__annotations__))
def test_none_means_that_an_option_is_not_given(name):
    given = make(SECRET, **{"max_tokens": 9, name: None})
    plain = make(SECRET, **({} if name == "max_tokens" else {"max_tokens": 9}))
    same = {"request_id": given.request_id, "created": given.created}
    assert replace(plain, **same) == given


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values], ids=itertools.count()
)
def test_an_option_of_the_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(InvalidRequest) as caught:
        make(**{name: value})
    assert caught.value.field == name
    assert str(caught.value).startswith(name)
    assert caught.value.__context__ is None


def test_none_means_not_given_in_a_tool_too():
    (tool,) = make(tools=[Tool(name="f", description=None, parameters=None)]).tools
    assert tool == Tool(name="f")


def test_a_model_class_whose_schema_raises_is_refused_without_its_text():
    class Odd:
        @classmethod
        def model_json_schema(cls):
            raise RuntimeError(SECRET)

    with pytest.raises(InvalidRequest) as caught:
        make("x", output_schema=Odd)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


def test_the_deadline_counts_from_the_call_and_ends_the_checks():
    with pytest.raises(DeadlineExceeded):
        make_request("x", {"deadline": 2.0}, Defaults(), created=time.monotonic() - 3.0).check_deadline()


def test_a_call_comes_before_the_configuration_and_that_before_the_model():
    recommended = {"temperature": 0.6, "top_p": 0.9, "top_k": 50, "min_p": 0.1}
    request = make_request("hi", {"top_p": 1.0, "seed": 4}, Defaults(top_k=7, temperature=0.0))
    sampling = request.sampling.completed(recommended)
    assert (sampling.top_p, sampling.top_k, sampling.temperature, sampling.min_p) == (1.0, 7, 0.0, 0.1)
    assert make("hi").sampling.completed(recommended).temperature == 0.6
    assert make("hi").sampling.completed({}) == make("hi").sampling

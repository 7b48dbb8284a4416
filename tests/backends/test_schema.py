"""A schema is enforced exactly, or refused with its keyword and place before anything runs."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from hybrid_llm.backends.schema import UnusableSchema, check_schema
from tests.backends.bombs import BOMBS

BYTES = LLTokenizer("byte")


def accepts(schema: str, text: str) -> bool:
    matcher = LLMatcher(BYTES, check_schema(schema), log_level=0)
    return bool(matcher.consume_tokens(BYTES.tokenize_str(text))) and bool(matcher.is_accepting())


def refusal(schema: object) -> str:
    with pytest.raises(UnusableSchema) as caught:
        check_schema(schema if isinstance(schema, str) else json.dumps(schema))
    assert caught.value.__cause__ is None
    return str(caught.value).removeprefix("output_schema: ")


TREE = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}


@pytest.mark.parametrize(
    ("schema", "place", "says"),
    [
        ({"$ref": "#"}, "/$ref", "without an end"),
        ({"$anchor": "a", "$ref": "#a"}, "/$ref", "without an end"),
        ({"$id": "http://x/a", "allOf": [{"$ref": "http://x/a"}]}, "/allOf/0/$ref", "without an end"),
        (TREE, "/properties/next/$ref", "without an end"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "/items/$ref", "without an end"),
        ({"anyOf": [{"$ref": "#"}, TREE | {"properties": {"next": {"$ref": "#"}}}]}, "/anyOf/", "without an end"),
        ({"a": {"b": {"$ref": "#/a/b"}}, "$ref": "#/a/b"}, "", "without an end"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            "",
            "without an end",
        ),
        ({"properties": {"a": {"type": "strin"}}}, "/properties/a/type", "did you mean string?"),
        ({"properties": {"a/b~": {"type": 5}}}, "/properties/a~1b~0/type", "name of a type"),
        ({"items": {"type": ["string", "nul"]}}, "/items/type", "did you mean null?"),
        ({"properties": {"a": {"maxLenght": 3}}}, "/properties/a/maxLenght", "did you mean maxLength?"),
        ({"properties": {"a": 5}}, "/properties/a", "an object, true or false"),
        ({"properties": []}, "/properties", "an object of schemas"),
        ({"anyOf": [{"minLength": -1}]}, "/anyOf/0/minLength", "0 or more"),
        ({"anyOf": []}, "/anyOf", "not empty"),
        ({"enum": []}, "/enum", "not empty"),
        ({"multipleOf": 0}, "/multipleOf", "above 0"),
        ({"required": "a"}, "/required", "a list of names"),
        ({"$ref": "http://example.org/x"}, "/$ref", "must point into the schema"),
        ({"items": {"$ref": "#/$defs/no"}}, "/items/$ref", "must point into the schema"),
        ({"properties": {"a": {"uniqueItems": True}}}, "`uniqueItems` at /properties/a/uniqueItems", "cannot be"),
        ({"not": {}}, "`not` at /not", "cannot be enforced"),
        ({"x-guidance": {"lenient": True}}, "/x-guidance", "no keyword"),
        ({"enum": [1, 9007199254740993]}, "/enum/1", "as a string"),
        ({"properties": {"a": {"const": {"b": [9007199254740993]}}}}, "/properties/a/const/b/0", "as a string"),
        ('{"const": 1e400}', "/const", "as a string"),
        ('{"const": 1e-400}', "/const", "as a string"),
        ('{"const": 0.1000000000000000055}', "/const", "as a string"),
        ({"type": "integer", "maximum": 9007199254740993}, "/maximum", "2^53"),
        ({"type": "integer", "maximum": 9223372036854775807}, "/maximum", "2^53"),
        ({"minimum": -1e300}, "/minimum", "2^53"),
        ('{"minimum": 0.1000000000000000055}', "/minimum", "write fewer"),
        ({"multipleOf": 9007199254740993}, "/multipleOf", "2^53"),
        ({"type": "string", "enum": [1]}, "", "contradict each other (`type`)"),
        ({"properties": {"a": {"type": "string", "enum": [1]}}, "required": ["a"], "type": "object"}, "", "`required`"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "", "(`minimum`, `maximum`)"),
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, "", "`exclusiveMinimum`"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "", "`required`"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "", "`required`"),
        ({"items": {"format": "colour", "type": "string"}}, "/items", "`format`"),
        ({"items": {"pattern": "(?=a)b", "type": "string"}}, "/items", "`pattern`"),
        ({"type": "array", "minItems": 10**9}, "/minItems", "no answer is that long"),
        ({"items": {"type": "integer", "multipleOf": 999983}}, "/items/multipleOf", "divisors exceed 10000"),
        ({"allOf": [{"multipleOf": 101}, {"multipleOf": 103}]}, "/allOf/1/multipleOf", "divisors exceed 10000"),
        ({"type": "string", "pattern": "^((a{100}){100}){100}$"}, "/pattern", "repetitions"),
        ({"type": "string", "pattern": "a" * 5000}, "/pattern", "4096 characters"),
        ({"patternProperties": {"[" * 5000: {}}}, "/patternProperties/[", "4096 characters"),
        ({"allOf": [{"pattern": f"a.{{{n}}}b"} for n in range(20, 40)]}, "/allOf", "more than 4 patterns"),
        ({"enum": list(range(5001))}, "/enum", "more than 5000 values"),
        ({"anyOf": [{}] * 6000}, "", "more than 5000 schemas"),
        (json.dumps({"enum": ["x" * 200_000]}), "", "more than 131072 characters"),
        ('{"a": 1, "a": 2}', "", "`a` twice"),
        ('{"minimum": NaN}', "", "NaN"),
        ('{"minimum": Infinity}', "", "Infinity"),
        ("true", "", "a JSON object"),
        ("{", "", "not JSON"),
        ("[" * 100_000, "", "nested too deeply"),
        ('{"items":' * 200 + "{}" + "}" * 200, "/items", "nested"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_keyword_and_place(schema, place, says):
    text = refusal(schema)
    assert text.startswith(place)
    assert says in text


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"enum": [9007199254740992]}, "9007199254740992", "9007199254740993"),
        ({"const": 120000000000000000000}, "120000000000000000000", "1"),
        ({"type": "integer", "maximum": 9007199254740991}, "9007199254740991", "9007199254740992"),
        ({"type": "integer", "maximum": 17179869184}, "17179869184", "17179869185"),
        ({"type": "number", "multipleOf": 0.1}, "0.3", "0.35"),
        ({"properties": {"type": {"type": "string"}}, "type": "object"}, '{"type": "x"}', '{"type": 1}'),
        ({"type": "array", "items": {"$ref": "#"}}, "[[], [[]]]", "1"),
        (
            {
                "type": "object",
                "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
                "required": ["next"],
            },
            '{"next": {"next": null}}',
            "{}",
        ),
        ({"components": {"schemas": {"A": {"type": "string"}}}, "$ref": "#/components/schemas/A"}, '"x"', "1"),
        ({"$anchor": "a", "type": "array", "items": {"$ref": "#a"}}, "[]", "1"),
        ({"title": "A", "description": "minimum", "default": {"type": "strin"}, "type": "string"}, '"x"', "1"),
        ({"enum": [{"$ref": "#"}, {"type": "strin"}]}, '{"$ref": "#"}', "1"),
        ({"anyOf": [{"type": "string"}, False]}, '"x"', "1"),
    ],
)
def test_what_is_taken_is_enforced(schema, good, bad):
    assert accepts(json.dumps(schema), good)
    assert not accepts(json.dumps(schema), bad)


NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20),
    st.integers(2**53 - 5, 2**53 + 5),
    st.decimals(-1000, 1000, places=5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-10, 10, places=20),
)


@given(NUMBERS)
@example(1801439850948199.0)
@settings(max_examples=200, deadline=None)
def test_a_constant_is_that_number_or_refused(number):
    text = format(number, "f") if isinstance(number, Decimal) else json.dumps(number)
    schema = f'{{"const": {text}}}'
    try:
        check_schema(schema)
    except UnusableSchema:
        written = Decimal(text) if "." in text else Decimal(text).normalize()
        assert len(written.as_tuple().digits) > 15 or not 1e-22 < abs(number) < 1e22
        return
    plain = format(Decimal(text).normalize(), "f")
    spelt = (plain, "-" + plain, repr(float(number)), repr(float(number)).replace("e-0", "e-").replace("e+", "e"))
    assert any(accepts(schema, one) for one in spelt)


KEYWORDS = [
    "type",
    "enum",
    "$ref",
    "anyOf",
    "allOf",
    "items",
    "properties",
    "required",
    "minimum",
    "maxLength",
    "const",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["string", "object", "#", "#/items", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYWORDS, "a"]), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=4))
@settings(max_examples=400, deadline=None)
def test_any_json_is_taken_or_refused_without_another_error(schema):
    try:
        grammar = check_schema(json.dumps(schema))
    except UnusableSchema as error:
        assert str(error).startswith("output_schema")
        return
    matcher = LLMatcher(BYTES, grammar, log_level=0)
    assert not matcher.is_error()
    assert not matcher.is_stopped()
    assert matcher.compute_ff_tokens() is not None
    assert not matcher.is_stopped() or matcher.is_accepting()


def test_many_schemas_that_refer_to_each_other_take_linear_work():
    names = [f"d{at}" for at in range(1500)]
    chain = {name: {"$ref": f"#/$defs/{after}"} for name, after in pairwise(names)}
    schema = {"$defs": {names[-1]: {"type": "string"}, **chain}, "$ref": "#/$defs/d0"}
    try:
        check_schema(json.dumps(schema))
    except UnusableSchema as error:
        assert "end" not in str(error)  # the grammar compiler has a limit of its own


@given(BOMBS)
@settings(max_examples=150, deadline=None)
def test_no_schema_that_is_taken_costs_much(schema):
    """Seconds mean a hang; what is taken costs milliseconds on an idle machine."""
    begun = time.monotonic()
    try:
        matcher = LLMatcher(BYTES, check_schema(json.dumps(schema)), log_level=0)
        for _ in range(8):
            matcher.compute_bitmask()
            matcher.consume_tokens(matcher.compute_ff_tokens() or [])
    except UnusableSchema:
        pass
    assert time.monotonic() - begun < 20.0

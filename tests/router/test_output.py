"""What comes back follows the app's own schema, or ends in `OutputInvalid`, which quotes nothing of it."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from dataclasses import replace
from decimal import Decimal
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import OutputInvalid
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.request import Location
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.output import OutputParser
from tests.fakes import FakeBackend

CANARY = "quoted answer"
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
WAYS = pytest.mark.parametrize("way", ["generate", "agenerate"])


class Model:
    """What pydantic's models offer."""

    @classmethod
    def model_json_schema(cls) -> dict:
        return NAMED

    @classmethod
    def model_validate_json(cls, data: str) -> str:
        name = json.loads(data)["name"]
        if name == CANARY:
            raise ValueError(f"{name} is not allowed")
        return name


def ask(llm, way, **options):
    return llm.generate("x", **options) if way == "generate" else asyncio.run(llm.agenerate("x", **options))


@WAYS
@pytest.mark.parametrize(
    ("schema", "text", "reason", "keyword"),
    [
        (NAMED, '{"name": 1}', "schema", "type"),
        (NAMED, "{}", "schema", "required"),
        (NAMED, f'{{"name": "{CANARY}"', "not_json", ""),
        (NAMED, "", "not_json", ""),
        ({"type": "number"}, "NaN", "not_json", ""),
        ({"type": "integer", "maximum": 10}, "11", "schema", "maximum"),
        ({"enum": ["a"]}, f'"{CANARY}"', "schema", "enum"),
        ({"type": "string", "pattern": "^a+$"}, f'"{CANARY}"', "schema", "pattern"),
        ({"patternProperties": {"^a": {"type": "null"}}}, '{"b": 1, "ab": 2}', "schema", "type"),
        (
            {"patternProperties": {"^a": {}}, "additionalProperties": False},
            '{"b": 1}',
            "schema",
            "additionalProperties",
        ),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "null"}}, '{"a": 1, "b": 1}', "schema", "type"),
        ({"type": "array"}, "[" * 100_000, "not_json", ""),
        ({"type": "number", "multipleOf": 0.1}, "0.35", "schema", "multipleOf"),
        (Model, '{"name": 5}', "", ""),
        (Model, f'{{"name": "{CANARY}"}}', "model", ""),
        (Model, "{}", "model", ""),
        (Model, "no", "not_json", ""),
    ],
)
def test_an_answer_that_does_not_follow_the_schema_is_an_error(make_client, schema, text, reason, keyword, way):
    llm = make_client(FakeBackend("edge", Location.EDGE, [text]), FakeBackend("cloud", Location.CLOUD))
    if not reason:
        assert ask(llm, way, output_schema=schema).parsed == 5
        return
    with pytest.raises(OutputInvalid) as caught:
        ask(llm, way, output_schema=schema)
    error = caught.value
    assert (error.reason, error.keyword, error.backend) == (reason, keyword, "edge")
    assert CANARY not in f"{error} {error!r} {vars(error)} {error.args}"
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "number", "multipleOf": 0.1}, "0.3"),
        ({"type": "integer"}, "1.0"),
        ({"type": "integer"}, "1e2"),
        ({"const": 1.0}, "1"),
        ({"type": "integer", "maximum": 9007199254740992}, "9007199254740992"),
        ({"type": "array", "items": [{"type": "string"}]}, '["a", 1]'),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, '["a", 1]'),
        ({"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}, '"x"'),
        ('{"type": "string"}', '"x"'),
    ],
)
def test_an_answer_that_follows_the_schema_is_parsed(make_client, schema, text):
    answer = make_client(FakeBackend("edge", Location.EDGE, [text])).generate("x", output_schema=schema)
    assert answer.parsed == json.loads(text)


class Watched(Model):
    """Notes the threads in which answers are checked."""

    threads: ClassVar[list[str]] = []

    @classmethod
    def model_validate_json(cls, data: str) -> str:
        cls.threads.append(threading.current_thread().name)
        return super().model_validate_json(data)


@pytest.mark.parametrize(("size", "thread"), [(10, "MainThread"), (12_500, "hybrid-llm-route")])
def test_an_event_loop_does_not_wait_while_a_long_answer_is_checked(make_client, size, thread):
    text = json.dumps({"name": "x" * size})
    llm = make_client(FakeBackend("edge", Location.EDGE, [text]))
    Watched.threads.clear()
    asyncio.run(llm.agenerate("x", output_schema=Watched))
    assert [name.partition("_")[0] for name in Watched.threads] == [thread]


def test_how_long_a_check_takes_is_judged_by_the_answer_and_the_schema():
    wide = OutputParser({"enum": [f"name {number}" for number in range(1000)]})
    assert OutputParser(NAMED).is_quick('{"name": "x"}')
    assert not OutputParser(NAMED).is_quick("x" * 12_500)
    assert not wide.is_quick("x" * 50)


def test_an_answer_that_is_refused_late_is_recorded_with_its_error(make_client):
    events = []
    llm = make_client(FakeBackend("edge", Location.EDGE, [json.dumps({"nome": "x" * 12_500})]), hooks=[events.append])
    with pytest.raises(OutputInvalid):
        asyncio.run(llm.agenerate("x", output_schema=NAMED))
    assert [attempt.error for attempt in events[0].attempts] == ["OutputInvalid"]


def test_each_reading_of_a_parsed_answer_is_an_object_of_its_own(make_client):
    answer = make_client(FakeBackend("edge", Location.EDGE, ['{"name": "x"}'])).generate("x", output_schema=NAMED)
    answer.parsed["name"] = "changed"
    assert answer.parsed == {"name": "x"}


def test_a_stream_gives_its_text_and_then_the_error(make_client):
    events = []
    llm = make_client(FakeBackend("edge", Location.EDGE, ['{"na', "me"]), hooks=[events.append])
    stream = llm.stream("x", output_schema=NAMED)
    assert next(stream).text + next(stream).text == '{"name'
    with pytest.raises(OutputInvalid):
        next(stream)
    assert [event.error for event in events] == ["OutputInvalid"]
    assert events[0].attempts[0].error == "OutputInvalid"
    assert llm.signals().backends["edge"].breaker == "closed"


class Cut(FakeBackend):
    def stream(self, cleared):
        yield Chunk(text='{"name": "')
        yield Chunk(finish_reason=FinishReason.LENGTH)


@pytest.mark.parametrize("schema", [NAMED, Model])
def test_an_answer_that_was_cut_is_returned_and_has_no_object(make_client, schema):
    answer = make_client(Cut("edge", Location.EDGE)).generate("x", output_schema=schema)
    assert answer.text == '{"name": "'
    with pytest.raises(OutputInvalid, match="max_tokens cut it off") as caught:
        _ = answer.parsed
    assert caught.value.reason == "cut"


def test_a_continued_answer_is_checked_as_a_whole(make_client, cloud):
    class Breaks(FakeBackend):
        def stream(self, cleared):
            yield Chunk(text='{"name": ')
            raise ValueError

    policy = "version: 1\nname: t\nresilience: {retries: 0, continue_streams: true}\n"
    good = make_client(Breaks("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD, ['"x"}']), policy=policy)
    assert good.generate("x", output_schema=NAMED).parsed == {"name": "x"}
    bad = make_client(
        Breaks("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD, ['{"name": "x"}']), policy=policy
    )
    with pytest.raises(OutputInvalid) as caught:
        bad.generate("x", output_schema=NAMED)
    assert caught.value.backend == "cloud"


class Spoilt(MemoryCache):
    def get(self, cleared):
        found = super().get(cleared)
        return found and replace(found, text="{}")


def test_a_cached_answer_that_does_not_follow_the_schema_is_not_returned(make_client):
    llm = make_client(FakeBackend("edge", Location.EDGE, ['{"name": "x"}']), cache=Spoilt())
    for _ in range(2):
        answer = llm.generate("x", output_schema=NAMED)
        assert (answer.parsed, answer.cached) == ({"name": "x"}, False)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"patternProperties": {"^a": {"type": "null"}}, "additionalProperties": False}, {"ab": None}),
        ({"patternProperties": {"^a": {}}, "properties": {"b": {}}, "additionalProperties": False}, {"a": 1, "b": 2}),
        ({"properties": {"pattern": {"type": "string"}, "patternProperties": {}}}, {"pattern": "(", "b": 1}),
        ({"additionalProperties": {"pattern": "^x"}}, {"b": "xy", "c": 1}),
        ({"additionalProperties": True}, {"b": 1}),
        ({"additionalProperties": False}, []),
    ],
)
def test_names_are_checked_as_the_schema_has_them(schema, value):
    assert OutputParser(schema)(json.dumps(value), "edge") == value


@pytest.mark.parametrize("schema", [{"pattern": "^(a+)+$"}, {"patternProperties": {"^(a+)+$": False}}])
def test_a_pattern_takes_linear_time_wherever_it_stands(schema):
    """Python's own `re` would take longer than the universe is old."""
    text = "a" * 5_000 + "b"
    parse = OutputParser(schema)
    if "pattern" in schema:
        with pytest.raises(OutputInvalid):
            parse(json.dumps(text), "edge")
    else:
        assert parse(json.dumps({text: 1}), "edge") == {text: 1}


def test_nothing_of_a_schema_is_left_once_the_request_is_over(make_client):
    """Descriptions, names, values and patterns of a schema may be private."""

    def held(word):
        gc.collect()
        texts = [text for one in gc.get_objects() for text in gc.get_referents(one) if isinstance(text, str)]
        return {text for text in texts if word in text and text != word}

    def use(word):
        properties = {word: {"description": f"of {word}", "enum": [word]}, "b": {"pattern": f"^{word}+$"}}
        schema = {"patternProperties": {f"^{word}": {}}, "properties": properties, "type": "object"}
        edge = FakeBackend("edge", Location.EDGE, [json.dumps({"b": word})])
        answer = make_client(edge).generate("x", output_schema=schema)
        assert answer.parsed == {"b": word}
        assert held(word)
        edge.requests.clear()
        edge._scripts.clear()

    word = "".join(["z", "q", "j"] * 5)
    use(word)
    assert held(word) == set()


@given(
    divisor=st.decimals("0.0001", "1000", places=4, allow_nan=False),
    factor=st.integers(-(10**6), 10**6),
    odd=st.booleans(),
)
def test_multiples_are_exact(divisor, factor, odd):
    parse = OutputParser(json.dumps({"multipleOf": "X"}).replace('"X"', str(divisor)))
    value = divisor * factor + (divisor / 2 if odd else 0)
    text = format(Decimal(value), "f")
    if odd:
        with pytest.raises(OutputInvalid):
            parse(text, "edge")
    else:
        assert parse(text, "edge") == json.loads(text)

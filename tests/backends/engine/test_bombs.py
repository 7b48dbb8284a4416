"""A schema, a pattern or a setting that cannot be served costs its own request only: never the engine, nor others."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings

from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.schema_trial import SchemaTrials
from hybrid_llm.backends.schema import UnusableSchema
from tests.backends.bombs import BOMBS

HOG = """
import sys
from hybrid_llm.backends.node.schema_trial import limit
limit()
sys.stdin.read()
{does}
"""


@pytest.fixture(scope="module")
def engine(demo_model):
    return load_engine(EngineConfig(model=demo_model, max_slots=3, threads=1, max_waiting=64))


@given(schema=BOMBS)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_engine_lives_whatever_schemas_it_gets(schema, engine, make_request, run):
    """Ten at once: more than the steps that may fail in a row before a broken device is assumed."""
    bad = [make_request(range(5, 12), 4, output_schema=json.dumps(schema)) for _ in range(10)]
    good = make_request(range(5, 12), 6)
    answers = run(engine, [*bad, good])
    assert answers.error(good) is None
    assert {answers.error(request) for request in bad} <= {None, "rejected"}


def test_schemas_whose_grammar_grows_too_large_are_rejected_and_the_engine_lives(engine, make_request, run):
    schema = json.dumps({"type": "string", "pattern": "^(\\p{L}{1,100}){1,100}$"})
    for _ in range(2):
        requests = [make_request(range(5, 12), 60, output_schema=schema) for _ in range(2)]
        answers = run(engine, requests)
        assert {answers.error(request) for request in requests} <= {None, "rejected"}
    good = make_request(range(5, 12), 6)
    assert run(engine, [good]).error(good) is None


def test_an_unusable_schema_is_rejected_without_a_word_of_it():
    async def scenario():
        trials = SchemaTrials()
        await trials.check('{"type": "string"}')
        for _ in range(2):
            with pytest.raises(UnusableSchema, match="cannot be turned into a grammar"):
                await trials.check('{"items": {"multipleOf": 999983}}')
        with pytest.raises(UnusableSchema, match="cannot be turned into a grammar"):
            await trials.check('{"$ref": "#"}')

    asyncio.run(scenario())


@pytest.mark.parametrize("does", ["while True: pass", "b = [bytearray(1 << 26) for _ in range(99)]"])
def test_a_schema_that_takes_too_much_is_refused_once_and_others_go_on(does, tmp_path):
    """Time of a processor, and memory."""
    hog = tmp_path / "hog.py"
    hog.write_text(HOG.format(does=does))

    async def scenario():
        trials = SchemaTrials(worker=(str(hog),), wall_s=60.0)
        for _ in range(2):
            with pytest.raises(UnusableSchema, match="too much time or memory"):
                await trials.check("{}")

    asyncio.run(scenario())


@pytest.mark.parametrize("does", ["time.sleep(999)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_machine_that_is_too_busy_or_has_no_memory_says_nothing_about_the_schema(does, tmp_path):
    hog, seen = tmp_path / "hog.py", tmp_path / "seen"
    once = f"import os, signal, time; seen = {str(seen)!r}\nif not os.path.exists(seen): open(seen, 'w'); {does}"
    hog.write_text(HOG.format(does=f"{once}\nprint('usable', end='')"))

    async def scenario():
        trials = SchemaTrials(worker=(str(hog),), wall_s=8.0)
        with pytest.raises(TimeoutError):
            await trials.check("{}")
        while not seen.exists():  # this machine may be too busy itself
            with pytest.raises(TimeoutError):
                await trials.check("{}")
        assert [await trials.check("{}") for _ in range(2)] == [None, None]

    asyncio.run(scenario())

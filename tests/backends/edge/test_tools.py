"""Tool calls of random weights on real ONNX sessions: at temperature 1 the arguments always parse and validate."""

import json

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import RequestRejected
from hybrid_llm.core.generation import AnswerParts, FinishReason
from hybrid_llm.core.tools import Tool, ToolCall
from tests.backends.calls.test_calls import PARAMETERS


@pytest.fixture(scope="module")
def backend(tiny):
    from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig

    made = EdgeBackend(EdgeConfig(model=tiny.int4, threads=1, spin=False))
    yield made
    made.close()


def answered(backend, cleared):
    parts, chunks = AnswerParts(), list(backend.stream(cleared))
    for chunk in chunks:
        parts.add(chunk)
    assert sum(chunk.tokens for chunk in chunks) == chunks[-1].usage.completion_tokens
    return parts, chunks[-1]


def offered(*schemas):
    return tuple(Tool(name=f"f{n}", parameters=json.dumps(schema)) for n, schema in enumerate(schemas))


def sampled(seed):
    from hybrid_llm.core.request import Sampling

    return Sampling(temperature=1.0, seed=seed)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PARAMETERS, min_size=1, max_size=2), st.integers(0, 2**31), st.booleans())
def test_the_arguments_of_random_weights_follow_their_schemas(backend, clear, schemas, seed, parallel):
    options = {"tools": offered(*schemas), "tool_choice": "required", "parallel_tool_calls": parallel}
    parts, last = answered(backend, clear(**options, sampling=sampled(seed), max_tokens=250))
    whole = [call for call in parts.tool_calls if call.is_whole]
    for call in whole:
        jsonschema.validate(call.values, schemas[int(call.name[1:])])
    if last.finish_reason is FinishReason.TOOL_CALLS:
        assert whole
        assert len(whole) == len(parts.tool_calls)
    else:
        assert last.finish_reason is FinishReason.LENGTH
    assert parts.text == ""


CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}, "n": {"type": "integer", "maximum": 9}}}
CITY = {**CITY, "required": ["city", "n"], "additionalProperties": False}


@pytest.mark.parametrize("cut", range(1, 28, 3))
def test_a_call_cut_anywhere_is_continued_to_one_that_validates(backend, clear, cut):
    begun = '{"city": "Oslo", "n": -123}'[:cut]
    options = {"tools": offered(CITY), "tool_choice": 0, "sampling": sampled(cut), "max_tokens": 200}
    parts, last = answered(backend, clear(**options, answer_calls=(ToolCall(name="f0", arguments=begun),)))
    if last.finish_reason is FinishReason.TOOL_CALLS:
        calls = [begun + "".join(parts.tool_calls[0].arguments)] if parts.tool_calls else [begun]
        jsonschema.validate(json.loads(calls[0]), CITY)


def test_a_call_that_does_not_follow_the_schema_cannot_be_continued(backend, clear):
    options = {"tools": offered(CITY), "answer_calls": (ToolCall(name="f0", arguments='{"city": "Paris'),)}
    with pytest.raises(RequestRejected) as caught:
        answered(backend, clear(**options, max_tokens=20))
    assert caught.value.reason == "unsupported"

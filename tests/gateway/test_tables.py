"""The tables of fields: total over the official clients' parameters, and true."""

from __future__ import annotations

import json
from copy import deepcopy
from random import Random
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import responses as openai_responses
from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionToolUnionParam
from openai.types.responses.response_create_params import ToolChoice
from openai.types.responses.response_input_message_content_list_param import ResponseInputContentParam
from openai.types.responses.response_input_param import ResponseInputItemParam

from hybrid_llm.gateway.asked import Dialect
from hybrid_llm.gateway.chat import ChatCompletions
from hybrid_llm.gateway.completions import Completions
from hybrid_llm.gateway.messages import Messages
from hybrid_llm.gateway.parameters import Kinds, Parameter, Use
from hybrid_llm.gateway.responses import Responses
from hybrid_llm.gateway.shapes import check_of
from hybrid_llm.gateway.tables import chat, messages, responses
from hybrid_llm.router.failures import Failure
from tests.gateway import official
from tests.gateway.official import TYPES, kinds, mutated, parameters, sample

DIALECTS: dict[str, Dialect] = {
    dialect.table.path: dialect for dialect in (ChatCompletions(), Completions(), Responses(), Messages())
}
SAID = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "auto", "messages": SAID},
    "/v1/completions": {"model": "auto", "prompt": "hello"},
    "/v1/responses": {"model": "auto", "input": "hello"},
    "/v1/messages": {"model": "auto", "max_tokens": 8, "messages": SAID},
}
EVERY = [(path, name, one) for path, dialect in DIALECTS.items() for name, one in dialect.table.parameters.items()]
OFFICIAL: list[tuple[Kinds, set[str]]] = [
    (chat.PARTS, kinds(ChatCompletionContentPartParam)),
    (chat.TOOLS, kinds(ChatCompletionToolUnionParam)),
    (responses.ITEMS, kinds(ResponseInputItemParam)),
    (responses.PARTS, kinds(ResponseInputContentParam)),
    (responses.TOOLS, kinds(openai_responses.ToolParam)),
    (responses.CHOICES, kinds(ToolChoice)),
    (messages.BLOCKS, kinds(official.anthropic.ContentBlockParam) | kinds(official.beta.BetaContentBlockParam)),
    (messages.TOOLS, kinds(official.anthropic.ToolUnionParam) | kinds(official.beta.BetaToolUnionParam)),
    (messages.CHOICES, kinds(official.anthropic.ToolChoiceParam)),
]
"""Each table of kinds, and the kinds that the official clients know."""


def verdict(path: str, body: Any) -> Failure | None:
    """The failure of *body*; None if it is taken. Anything else is raised."""
    try:
        DIALECTS[path].read(body)
    except Failure as failure:
        return failure
    return None


@pytest.mark.parametrize("path", TYPES)
def test_every_parameter_of_the_official_clients_is_in_the_table(path: str) -> None:
    assert parameters(path) <= DIALECTS[path].table.parameters.keys()


@pytest.mark.parametrize(("table", "known"), OFFICIAL, ids=lambda one: getattr(one, "place", ""))
def test_every_kind_of_the_official_clients_is_in_the_table(table: Kinds, known: set[str]) -> None:
    assert known
    assert known <= {*table.supported, *table.ignored, *table.refused}


@pytest.mark.parametrize(("path", "name", "parameter"), EVERY, ids=lambda one: str(one)[:40])
def test_the_code_does_what_the_table_says(path: str, name: str, parameter: Parameter) -> None:
    def read(value: Any) -> Failure | None:
        return verdict(path, BODIES[path] | {name: value})

    if parameter.use is Use.REFUSED:
        assert all(read(value) is None for value in (None, *parameter.neutral))
        failure = read("something else")
        assert failure is not None
        assert (failure.status, failure.code, failure.param) == (400, "unsupported_parameter", name)
    elif parameter.use is Use.IGNORED:
        assert read({"any": "thing"}) is None
    elif name not in BODIES[path]:
        assert read(None) is None
        failure = read(object())
        assert failure is not None
        assert failure.param == name


PLACES: dict[str, Any] = {
    "messages[].content[].type": lambda kind: {"messages": [{"role": "user", "content": [{"type": kind}]}]},
    "input[].type": lambda kind: {"input": [{"type": kind}]},
    "input[].content[].type": lambda kind: {"input": [{"role": "user", "content": [{"type": kind}]}]},
    "tools[].type": lambda kind: {"tools": [{"type": kind}]},
    "tool_choice.type": lambda kind: {"tool_choice": {"type": kind}},
    "response_format.type": lambda kind: {"response_format": {"type": kind}},
    "text.format.type": lambda kind: {"text": {"format": {"type": kind}}},
}


@pytest.mark.parametrize("path", DIALECTS)
def test_kinds_are_known_or_refused_as_the_table_says(path: str) -> None:
    for table in DIALECTS[path].table.kinds:
        for kind in (*table.supported, *table.ignored, *table.refused, "unheard-of"):
            failure = verdict(path, BODIES[path] | PLACES[table.place](kind))
            unknown = failure is not None and failure.code == "unsupported_value"
            assert unknown is (kind in (*table.refused, "unheard-of")), (table.place, kind, failure)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(sorted(TYPES)), st.integers(0, 2**32), st.integers(0, 3))
def test_bodies_of_official_types_with_faults_are_read_or_refused_as_the_schema_says(
    path: str, seed: int, faults: int
) -> None:
    """What the published schema forbids is refused, and nothing ends in another exception."""
    random = Random(seed)
    body = BODIES[path] | sample(random.choice(TYPES[path]), random)
    for _ in range(faults):
        body = mutated(deepcopy(body), random)
        if not body:
            return
    failure = verdict(path, body)
    valid = jsonschema.Draft202012Validator(DIALECTS[path].table.schema()).is_valid(body)
    assert valid or failure is not None
    if failure is not None:
        assert failure.status == 400
        json.dumps(failure.as_openai(), ensure_ascii=True)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.just(0.5) | st.sampled_from(["", "a", "text", "x" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "a"]), inner),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(EVERY), VALUES)
def test_checks_agree_with_a_validator_of_json_schemas(every: tuple[str, str, Parameter], value: Any) -> None:
    schema = every[2].schema
    try:
        check_of(schema)(value, "value")
        taken = True
    except Failure:
        taken = False
    assert taken is jsonschema.Draft202012Validator(schema).is_valid(value)

"""What the integrations share, without the libraries, which tests/clients brings."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm import HybridLLM, errors
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.request import Location
from hybrid_llm.core.tools import ToolCall
from hybrid_llm.integrations.common import aclient_for, both, client_for, details, mapped, options_of
from hybrid_llm.integrations.openai_form import schema_of, tools_of
from hybrid_llm.policies import parse_policy
from tests.fakes import FakeBackend

LIBRARIES = {
    "langchain": ("langchain_core", "langchain-core"),
    "llama_index": ("llama_index", "llama-index-core"),
    "pydantic_ai": ("pydantic_ai", "pydantic-ai-slim"),
    "litellm": ("litellm", "litellm"),
    "llm": ("llm", "llm"),
}
SECRET = "The patient is Jane."
TAGS = st.frozensets(st.sampled_from(["phi", "pii", "public"]))


@pytest.fixture
def client():
    backend = FakeBackend("edge", Location.EDGE, ["a", "b"])
    with HybridLLM([backend], parse_policy("version: 1\nname: p\n", backends={"edge": Location.EDGE})) as client:
        yield client


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "hybrid.yaml"
    path.write_text("version: 1\npolicy: balanced\nbackends: {edge: {kind: onnx, model: embedded}}\n")
    return path


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(name):
    module, package = LIBRARIES[name]
    if find_spec(module) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(ImportError, match=re.escape(install_hint(name.replace("_", "-")))):
        importlib.import_module(f"hybrid_llm.integrations.{name}")


def test_a_client_that_is_given_answers_and_one_of_a_file_is_opened_once(client, config, monkeypatch):
    monkeypatch.chdir(config.parent)
    assert client_for(client, config) is client
    opened = client_for(None, config)
    assert opened is client_for(None, "hybrid.yaml") is asyncio.run(aclient_for(None, config))
    assert asyncio.run(aclient_for(client, config)) is client
    opened.close()


def test_a_file_is_read_beside_the_event_loop(config, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(config.read_text())

    async def opened() -> HybridLLM:
        return await aclient_for(None, other)

    found = asyncio.run(opened())
    assert [each.name for each in found.backends] == ["edge"]
    found.close()
    with pytest.raises(errors.ConfigError):
        asyncio.run(aclient_for(None, tmp_path / "none.yaml"))


@given(TAGS, TAGS)
def test_a_call_never_takes_a_privacy_tag_away(own, more):
    options = options_of(None, {"privacy": own, "task": "a"}, {"privacy": more, "task": None})  # type: ignore[arg-type]
    assert frozenset(options.get("privacy") or ()) >= own | more
    assert options["task"] == "a"


def test_a_name_of_a_model_is_a_wish_for_the_backends_that_have_it(client):
    assert options_of(client, {}, {}, model="auto") == {}
    assert (
        options_of(client, {}, {}, model="fake") == options_of(client, {}, {}, model="edge") == {"backends": ("edge",)}
    )
    assert options_of(client, {}, {"backends": ["cloud"]}, model="edge") == {"backends": ["cloud"]}
    with pytest.raises(errors.InvalidRequest, match="there are auto, edge, fake"):
        options_of(client, {}, {}, model="gpt-99")


def test_what_is_said_of_an_answer_is_json_and_has_none_of_its_text(client):
    made = details(client, client.generate(SECRET))
    assert (made["backend"], made["finish_reason"], made["cost"]) == ("edge", "stop", 0.0)
    assert SECRET not in json.dumps(made)


class Foreign(Exception):
    """An error of another library, whose constructor wants what nobody has."""

    def __init__(self, message: str, *, response: object) -> None:
        super().__init__(message)
        self.response, self.status_code = response, 500


def made(kind: type[HybridLLMError]) -> HybridLLMError:
    """An error of *kind*; each argument without a default is None."""
    needed = [each for each in inspect.signature(kind.__init__).parameters.values() if each.default is each.empty]
    named = {each.name: None for each in needed if each.kind is each.KEYWORD_ONLY}
    return kind("it failed", **{name: {} if name == "failures" else value for name, value in named.items()})


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_can_be_another_librarys_too(name):
    kind = getattr(errors, name)
    ours = made(kind)
    theirs = dict.fromkeys(vars(ours), "of another library")
    joined = both(ours, Foreign, status_code=503, response=None, **theirs)
    assert isinstance(joined, kind)
    assert isinstance(joined, Foreign)
    assert (str(joined), joined.args, joined.status_code) == (str(ours), ours.args, 503)  # type: ignore[attr-defined]
    assert vars(ours).items() <= vars(joined).items()
    assert type(joined).__name__ == kind.__name__


def test_errors_of_others_pass_and_ours_are_raised_without_a_cause():
    with pytest.raises(KeyError), mapped(lambda error: error):
        raise KeyError("x")
    with pytest.raises(errors.DeadlineExceeded) as raised, mapped(lambda error: both(error, Foreign)):
        raise errors.DeadlineExceeded("late", backend="edge")
    assert isinstance(raised.value, Foreign)
    assert raised.value.__suppress_context__


def test_tools_and_formats_of_openai():
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    (tool, bare) = tools_of(
        [
            {"type": "function", "function": {"name": "weather", "description": "Tells.", "parameters": schema}},
            {"type": "function", "function": {"name": "now"}},
        ]
    )
    assert (tool.name, tool.description, json.loads(tool.parameters)) == ("weather", "Tells.", schema)
    assert json.loads(bare.parameters) == {"type": "object", "properties": {}}
    assert ToolCall(id="1", name="now").as_openai()["function"] == {"name": "now", "arguments": "{}"}
    assert schema_of({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}) == schema
    assert (schema_of({"type": "json_object"}), schema_of({"type": "text"}), schema_of(None)) == (
        {"type": "object"},
        None,
        None,
    )


@pytest.mark.parametrize("described", [{"type": "web_search"}, {"type": "function"}, {"function": {"name": "x"}}])
def test_tools_of_a_providers_servers_are_refused(described):
    with pytest.raises(errors.InvalidRequest, match="type 'function'"):
        tools_of([described])


@pytest.mark.parametrize("wanted", [{"type": "xml"}, {"type": "json_schema"}, {}])
def test_unknown_formats_are_refused(wanted):
    with pytest.raises(errors.InvalidRequest, match="response_format"):
        schema_of(wanted)

"""A request uses the tools of a real MCP server: over pipes and HTTP, sync and async, under the privacy guard."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm import HybridLLM
from hybrid_llm.core.errors import ConfigError, HybridLLMError, InvalidRequest, ToolFailed
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.request import Location, Request
from hybrid_llm.core.tools import TOOL_NAME, ToolCallDelta
from hybrid_llm.integrations.mcp import McpTools
from hybrid_llm.integrations.mcp.tools import _names
from hybrid_llm.policies import parse_policy
from tests.fakes import FakeBackend
from tests.integrations.hosts import ROOT, script

POLICY = """
version: 1
name: tools
tags: {phi: {allow: [edge], detect: [medical_record]}}
rules: [{prefer: [cloud, edge]}]
"""
Calls = list[tuple[str, dict[str, object]]]


class Obeying(FakeBackend):
    """A model that calls what it is told to, answer by answer, and then repeats the results."""

    def __init__(self, name: str, location: Location, *answers: Calls) -> None:
        super().__init__(name, location)
        self._answers = list(answers)

    def stream(self, cleared):  # type: ignore[no-untyped-def]  # as the base class
        request: Request = cleared.request
        self.requests.append(request)
        step = sum(message.role == "assistant" for message in request.messages)
        if step < len(self._answers):
            for index, (name, arguments) in enumerate(self._answers[step]):
                yield Chunk(
                    tool_calls=(ToolCallDelta(index=index, id=f"c{index}", name=name, arguments=json.dumps(arguments)),)
                )
            yield Chunk(tokens=0, finish_reason=FinishReason.TOOL_CALLS)
            return
        yield Chunk(text="; ".join(message.content for message in request.messages if message.role == "tool"))
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP)


def client(*answers: Calls) -> HybridLLM:
    backends = [Obeying("edge", Location.EDGE, *answers), Obeying("cloud", Location.CLOUD, *answers)]
    return HybridLLM(backends, parse_policy(POLICY))  # type: ignore[arg-type]


def pipes(folder: Path) -> McpTools:
    command, environment = script("tests.integrations.tool_server", folder)
    return McpTools.connect(command, env={**environment, "MINE": "1"}, cwd=ROOT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tools")


@pytest.fixture(scope="module")
def tools(folder) -> Iterator[McpTools]:
    with pipes(folder) as connected:
        yield connected


@pytest.fixture(scope="module")
def url(folder) -> Iterator[str]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command, _ = script("tests.integrations.tool_server", folder, port)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert time.monotonic() < limit
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    process.wait()


WEATHER = ("get_weather", {"place": {"city": "Oslo", "days": 2}})


def test_the_tools_have_the_schemas_of_the_server_and_names_that_every_format_allows(tools):
    by_name = {tool.name: tool for tool in tools.tools}
    assert set(by_name) == {"get_weather", "files_record", "broken", "slow", "parts", "environment", "die"}
    assert by_name["get_weather"].description == "Tell the weather of a place."
    schema = json.loads(by_name["get_weather"].parameters)
    assert schema["$defs"]["Place"]["properties"]["days"]["maximum"] == 7


def test_a_run_calls_the_tools_of_the_server_and_the_model_reads_their_results(tools):
    with client([WEATHER, ("parts", {})]) as llm:
        run = llm.run_tools("x", tools=tools.tools)
    assert run.is_complete
    assert run.steps[0].result == "sunny in Oslo for 2 days"
    assert run.steps[1].result == "a text\n[image/png, which cannot be read here]\na: file:///a.txt"
    assert run.text == f"{run.steps[0].result}; {run.steps[1].result}"


def test_an_async_run_uses_the_same_connection_and_a_connection_of_its_own(tools, folder):
    async def run() -> list[str]:
        async with client([WEATHER]) as llm:
            shared = await llm.arun_tools("x", tools=tools.tools)
            async with pipes(folder) as own:
                return [shared.text, (await llm.arun_tools("x", tools=own.tools)).text]

    assert asyncio.run(run()) == ["sunny in Oslo for 2 days"] * 2


def test_a_server_over_http_is_used_as_one_over_pipes(url):
    with McpTools.connect(url=url, only=["get_weather"], prefix="far_") as far, client() as llm:
        assert [tool.name for tool in far.tools] == ["far_get_weather"]
        with client([("far_get_weather", WEATHER[1])]) as llm:
            assert llm.run_tools("x", tools=far.tools).text == "sunny in Oslo for 2 days"


def test_a_private_value_in_a_result_keeps_the_next_step_on_the_device(tools):
    with client([("files_record", {"number": 123456})]) as llm:
        run = llm.run_tools("x", tools=tools.tools)
        edge, cloud = llm.backends
    assert [reply.backend for reply in run.replies] == ["cloud", "edge"]
    assert "77-123456" in run.text
    assert not any("77-123456" in text for request in cloud.requests for text in request.visible_text())  # type: ignore[attr-defined]
    assert len(edge.requests) == 1  # type: ignore[attr-defined]


def test_what_a_tool_reports_as_an_error_is_told_to_the_model_or_ends_the_run(tools):
    with client([("broken", {})]) as llm:
        run = llm.run_tools("x", tools=tools.tools)
        assert (run.steps[0].error, "the disk is gone" in run.steps[0].result) == ("raised", True)
        with pytest.raises(ToolFailed) as raised:
            llm.run_tools("x", tools=tools.tools, on_error="raise")
    assert "disk" not in str(raised.value)


def test_arguments_that_the_server_refuses_are_an_error_of_the_tool(tools):
    async def call() -> str:
        (tool,) = [tool for tool in tools.tools if tool.name == "get_weather"]
        assert tool.call is not None
        return await tool.call(place={"city": "Oslo", "days": 99})

    with pytest.raises(HybridLLMError, match="less than or equal to 7"):
        asyncio.run(call())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_tool_that_is_late_is_cancelled_on_the_server(tools, folder, kind):
    left = folder / "left"
    left.unlink(missing_ok=True)
    with client([("slow", {"seconds": 60})]) as llm:
        if kind == "sync":
            run = llm.run_tools("x", tools=tools.tools, tool_timeout=0.3)
        else:
            run = asyncio.run(llm.arun_tools("x", tools=tools.tools, tool_timeout=0.3))
    assert run.steps[0].error == "late"
    limit = time.monotonic() + 3
    while not left.exists():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_cancelled_run_cancels_the_call_on_the_server(tools, folder):
    left = folder / "left"
    left.unlink(missing_ok=True)

    async def cancel() -> None:
        async with client([("slow", {"seconds": 60})]) as llm:
            task = asyncio.ensure_future(llm.arun_tools("x", tools=tools.tools))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        for _ in range(300):
            if left.exists():
                return
            await asyncio.sleep(0.01)

    asyncio.run(cancel())
    assert left.exists()


def test_the_server_gets_the_variables_that_it_is_given_and_no_others_of_ours(tools, monkeypatch):
    with client([("environment", {})]) as llm:
        found = json.loads(llm.run_tools("x", tools=tools.tools).steps[0].result)
    assert found["MINE"] == "1"
    assert "HYBRID_LLM_MODELS" not in found


def test_a_server_that_ends_is_an_error_of_the_tool_and_closing_it_is_no_error(folder):
    with pipes(folder) as own, client([("die", {})], [("parts", {})]) as llm:
        run = llm.run_tools("x", tools=own.tools)
    assert [step.error for step in run.steps] == ["raised", "raised"]
    assert threading.active_count() < 30


def test_our_own_server_is_a_server_of_tools_too(tmp_path):
    command = [str(Path(sys.executable).with_name("hybrid-llm")), "mcp"]
    with McpTools.connect(command, only=["explain"]) as own, client([("explain", {"prompt": "Hello"})]) as llm:
        run = llm.run_tools("x", tools=own.tools)
    assert "policy balanced" in run.text


def test_a_grammar_holds_a_model_to_the_schema_of_the_server(tools):
    """The embedded model calls what it must: with arguments that the server takes."""
    (weather,) = [tool for tool in tools.tools if tool.name == "get_weather"]
    with HybridLLM.from_config({"version": 1, "backends": {"edge": {"kind": "onnx", "model": "embedded"}}}) as llm:
        run = llm.run_tools("The weather?", tools=[weather], tool_choice="required", max_steps=2, max_tokens=200)
    if run.steps:  # the demonstration model may write a city without end
        assert run.steps[0].result.startswith("sunny in ")
        assert run.steps[0].error == ""


def misused() -> Iterator[tuple[Callable[[], object], str]]:
    yield lambda: McpTools.connect(), "either a command"
    yield lambda: McpTools.connect(["x"], url="http://127.0.0.1/mcp"), "either a command"
    yield lambda: McpTools.connect("x y"), "either a command"
    yield lambda: McpTools.connect(url="http://tools.example/mcp"), "use https"
    yield lambda: McpTools.connect(url="ftp://tools.example/mcp"), "no URL of a server"
    yield lambda: McpTools.connect(["/no/such/program"]).__enter__(), "No such file"
    yield lambda: McpTools.connect([sys.executable, "-c", ""], timeout=20).__enter__(), "cannot be used"
    yield lambda: McpTools.connect(["sleep", "30"], timeout=0.3).__enter__(), "not answered within 0.3 s"
    yield lambda: McpTools.connect(url="http://127.0.0.1:9/mcp").__enter__(), "127.0.0.1 cannot be used"


@pytest.mark.parametrize(("call", "expected"), list(misused()))
def test_a_server_that_cannot_be_used_is_one_typed_error(call, expected):
    with pytest.raises(ConfigError, match=expected):
        call()


LISTS = """
import json, sys
tool = {"name": "f", "inputSchema": {"type": "object"}}
info = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
for line in sys.stdin:
    asked = json.loads(line)
    listed = {"tools": [tool] * int(sys.argv[1])} | ({"nextCursor": "more"} if sys.argv[2:] else {})
    found = {"initialize": info, "tools/list": listed}.get(asked.get("method"))
    if "id" in asked:
        answer = {"result": found} if found else {"error": {"code": -32601, "message": "no"}}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}), flush=True)
"""
"""A server that lists one name again and again, and says that there is more."""


def test_a_server_may_list_a_thousand_tools_of_one_name():
    with McpTools.connect([sys.executable, "-c", LISTS, "1000"]) as tools:
        assert len({tool.name for tool in tools.tools}) == 1000
        assert all(TOOL_NAME.fullmatch(tool.name) for tool in tools.tools)


@pytest.mark.parametrize("arguments", [["1001"], ["400", "more"], ["0", "more"]])
def test_a_server_whose_list_of_tools_has_no_end_is_one_typed_error(arguments):
    with pytest.raises(ConfigError, match="lists more than 1,000 tools"):
        McpTools.connect([sys.executable, "-c", LISTS, *arguments]).__enter__()


def test_tools_are_there_while_the_server_is_connected_and_unknown_ones_are_refused(folder):
    unconnected = pipes(folder)
    with pytest.raises(HybridLLMError, match="not connected yet"):
        _ = unconnected.tools
    command, environment = script("tests.integrations.tool_server", folder)
    with pytest.raises(InvalidRequest, match="the server has no weather; it has broken"):
        McpTools.connect(command, env=environment, cwd=ROOT, only=["weather"]).__enter__()


@given(st.lists(st.text(max_size=80), max_size=12))
def test_every_name_becomes_one_that_every_format_of_calls_allows_and_each_is_different(names):
    found = list(_names(names))
    assert len(set(found)) == len(names)
    assert all(TOOL_NAME.fullmatch(name) for name in found)

"""Hosts use our MCP server by the official client: over standard input and output, and over HTTP on loopback."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError, StdioServerParameters

from hybrid_llm import HybridLLM
from hybrid_llm.cli.mcp import serve_http
from hybrid_llm.integrations.mcp import mcp_server
from tests.integrations.hosts import ROOT, SlowBackend, script, slow_client

COMMAND = str(Path(sys.executable).with_name("hybrid-llm"))
PRIVATE = "Patient file MRN 83920174: zebra crossing"
MODES = ("2026-07-28", "legacy")


@contextmanager
def serving(client: HybridLLM) -> Iterator[str]:
    found: list[Any] = []
    ready = threading.Event()

    def on_ready(url: str, _: int, stop: Any) -> None:
        found.extend((url, stop))
        ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(serve_http(client, "127.0.0.1:0", on_ready)))
    thread.start()
    try:
        assert ready.wait(20)
        yield found[0]
    finally:
        found[1]()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, SlowBackend]]:
    client = slow_client()
    with serving(client) as url:
        edge = client.backends[0]
        assert isinstance(edge, SlowBackend)
        yield url, edge


def call(target: Any, tool: str, arguments: dict[str, Any], *, mode: str = "auto", **more: Any) -> Any:
    async def run() -> Any:
        async with Client(target, mode=mode) as client:
            return await client.call_tool(tool, arguments, **more)

    return asyncio.run(run())


def until(holds: Any, seconds: float = 5.0) -> None:
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize("mode", MODES)
def test_a_host_of_each_era_is_answered_over_http_and_learns_who_answered_and_why(served, mode):
    url, _ = served
    result = call(url, "generate", {"prompt": "Hello", "max_tokens": 5}, mode=mode)
    answer = result.structured_content
    assert not result.is_error
    assert result.content[0].text == answer["text"] == "w0 w1 w2 w3 w4 "
    assert (answer["backend"], answer["because"]) == ("edge", "the device first")
    assert answer["usage"] | {"reasoning_tokens": 0} == answer["usage"]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (3, 5)
    assert answer["cost"] == 0.0
    assert answer["order"] == ["edge", "cloud"]


def test_a_whole_conversation_and_the_options_that_a_policy_reads_are_followed(served):
    url, edge = served
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]
    result = call(url, "generate", {"messages": turns, "task": "hard", "max_tokens": 5})
    assert result.structured_content["backend"] == "cloud"
    assert result.structured_content["because"] == "it is hard"
    result = call(url, "generate", {"messages": turns, "task": "hard", "max_tokens": 5, "backends": ["edge"]})
    assert result.structured_content["backend"] == "edge"
    assert [message.role for message in edge.requests[-1].messages] == ["system", "user"]


def test_a_private_prompt_stays_on_the_device_whatever_a_host_wishes(served):
    url, _ = served
    asked = {"prompt": PRIVATE, "task": "hard", "max_tokens": 5}
    assert call(url, "generate", asked).structured_content["backend"] == "edge"
    result = call(url, "generate", asked | {"backends": ["cloud"]})
    error = result.structured_content["error"]
    assert result.is_error
    assert (error["code"], error["type"]) == ("no_eligible_backend", "NoEligibleBackend")
    assert "phi" in error["excluded"]["cloud"]
    assert "zebra" not in json.dumps(error)


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        ({}, "invalid_value", "prompt"),
        ({"prompt": "x", "messages": []}, "invalid_value", "prompt"),
        ({"prompt": "x", "max_tokns": 5}, "invalid_value", "max_tokns"),
        ({"prompt": "x", "max_tokens": "5"}, "invalid_value", "max_tokens"),
        ({"prompt": "x", "max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"prompt": ["zebra"]}, "invalid_value", "prompt"),
        ({"messages": [{"role": "zebra", "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"prompt": "x", "privacy": ["secrt"]}, "invalid_value", "privacy"),
        ({"prompt": "x", "backends": ["zork"]}, "invalid_value", "backends"),
        ({"prompt": "x", "max_tokens": 500, "deadline": 0.2, "backends": ["edge"]}, "deadline_exceeded", None),
    ],
)
def test_what_is_wrong_with_a_call_is_an_error_of_the_tool_with_code_and_field(served, arguments, code, field):
    url, _ = served
    result = call(url, "generate", arguments)
    error = result.structured_content["error"]
    assert result.is_error
    assert (error["code"], error.get("field")) == (code, field)
    assert result.content[0].text == f"{code}: {error['message']}"
    assert "zebra" not in result.content[0].text


def test_a_tool_or_resource_that_there_is_not_is_an_error_of_the_protocol(served):
    url, _ = served

    async def misspelt() -> None:
        async with Client(url) as client:
            with pytest.raises(MCPError, match="there are generate, explain, policy_simulate"):
                await client.call_tool("generat", {})

    asyncio.run(misspelt())


def test_the_text_comes_in_notifications_of_progress_for_a_host_that_asks(served):
    url, _ = served
    seen: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total, message))

    result = call(url, "generate", {"prompt": "Hello", "max_tokens": 5}, progress_callback=progress)
    assert "".join(message or "" for _, _, message in seen) == result.structured_content["text"]
    assert [done for done, _, _ in seen] == sorted({done for done, _, _ in seen})
    assert len(seen) >= 2
    assert {total for _, total, _ in seen} == {5.0}


@pytest.mark.parametrize("mode", MODES)
def test_a_call_that_a_host_cancels_over_http_ends_the_work_of_the_backend(served, mode):
    url, edge = served
    before = edge.abandoned

    async def cancel() -> None:
        async with Client(url, mode=mode) as client:
            task = asyncio.ensure_future(client.call_tool("generate", {"prompt": "Hello", "max_tokens": 500}))
            while not edge.running:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            limit = asyncio.get_running_loop().time() + 2.0
            while edge.running and asyncio.get_running_loop().time() < limit:
                await asyncio.sleep(0.01)

    asyncio.run(cancel())
    assert (edge.running, edge.abandoned) == (0, before + 1)


def test_a_call_that_a_host_cancels_over_pipes_ends_the_work_of_the_backend(tmp_path):
    left = tmp_path / "left"
    (command, *arguments), environment = script("tests.integrations.hosts", left)
    parameters = StdioServerParameters(command=command, args=arguments, env=dict(environment), cwd=ROOT)

    async def cancel() -> None:
        started = asyncio.Event()

        async def progress(*_: Any) -> None:
            started.set()

        async with Client(parameters) as client:
            asked = {"prompt": "Hello", "max_tokens": 500}
            task = asyncio.ensure_future(client.call_tool("generate", asked, progress_callback=progress))
            await asyncio.wait_for(started.wait(), 20)
            assert not left.exists()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for _ in range(200):
                if left.exists():
                    return
                await asyncio.sleep(0.01)

    asyncio.run(cancel())
    assert left.exists()


def test_explain_decides_and_sends_nothing(served):
    url, edge = served
    before = len(edge.requests)
    result = call(url, "explain", {"prompt": PRIVATE, "task": "hard"})
    found = result.structured_content
    assert (found["order"], found["tags"], found["allowed"]) == (["edge"], ["phi"], ["edge"])
    assert "phi" in found["excluded"]["cloud"]
    assert "rules[0]" in result.content[0].text
    assert "zebra" not in json.dumps(result.structured_content)
    assert len(edge.requests) == before


SIMULATED = """
version: 1
name: tried
tags: {phi: {allow: [edge], detect: [medical_record]}}
rules: [{prefer: [cloud, edge], because: the cloud first}]
"""
CASES = """
version: 1
cases:
  - {name: private stays, request: {text: "Patient file MRN 83920174"}, expect: {order: [edge], tags: [phi]}}
  - {name: wrong, request: {task: chat}, expect: {order: [edge, cloud]}}
"""


def test_a_policy_is_tried_with_requests_and_cases_and_does_not_take_effect(served):
    url, _ = served
    requests = [{"name": "plain", "prompt": "Hello"}, {"prompt": PRIVATE}]
    result = call(url, "policy_simulate", {"policy": SIMULATED, "requests": requests, "cases": CASES})
    trial = result.structured_content
    plain, private = trial["requests"]
    assert (plain["name"], plain["order"], plain["changed"]) == ("plain", ["cloud", "edge"], True)
    assert (private["name"], private["order"], private["changed"]) == ("requests[1]", ["edge"], False)
    assert [case["passed"] for case in trial["cases"]] == [True, False]
    assert trial["cases"][1]["mismatches"] == [{"what": "order", "expected": "edge > cloud", "actual": "cloud > edge"}]
    assert trial["passed"] is False
    assert call(url, "explain", {"prompt": "Hello"}).structured_content["policy"] == "hosts"


def test_a_policy_with_an_error_is_an_error_with_its_position(served):
    url, _ = served
    for named in ({"policy": "version: 1\nname: p\nrules: [{prefer: [clod]}]\n"}, {"cases": "version: 1\n"}):
        error = call(url, "policy_simulate", named).structured_content["error"]
        assert (error["code"], error["type"]) == ("invalid_policy", "PolicyError")
        assert error["errors"][0]["line"] >= 1
    trial = call(url, "policy_simulate", {"policy": "offline-first"}).structured_content
    assert (trial["policy"], trial["passed"]) == ("offline-first", True)


def test_the_policy_and_the_signals_are_resources(served):
    url, _ = served

    async def read() -> tuple[str, Any]:
        async with Client(url) as client:
            assert {each.uri for each in (await client.list_resources()).resources} == {
                "hybrid://policy",
                "hybrid://signals",
            }
            policy = (await client.read_resource("hybrid://policy")).contents[0].text
            signals = json.loads((await client.read_resource("hybrid://signals")).contents[0].text)
            with pytest.raises(MCPError, match="hybrid://policy"):
                await client.read_resource("hybrid://other")
            return policy, signals

    policy, signals = asyncio.run(read())
    assert "name: hosts" in policy
    assert set(signals["backends"]) == {"edge", "cloud"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1:1"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "text/plain"}, 400),
    ],
)
def test_pages_of_browsers_and_other_hosts_are_refused(served, headers, status):
    url, edge = served
    port = int(url.rpartition(":")[2].partition("/")[0])
    before = len(edge.requests)
    for version in ("2026-07-28", "2025-11-25"):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        sent = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        connection.request("POST", "/mcp", json.dumps(body), sent | {"mcp-protocol-version": version} | headers)
        assert connection.getresponse().status == status
        connection.close()
    assert len(edge.requests) == before


def test_whatever_a_call_holds_is_a_result_and_never_an_error_of_the_server():
    async def run() -> None:
        async with slow_client() as llm, Client(mcp_server(llm)) as client:
            odd: list[Any] = [None, -1.5, "x", [[]], {"a": 1}, "\ud800"]
            for tool in ("generate", "explain", "policy_simulate"):
                for name in ("prompt", "messages", "privacy", "deadline", "backends", "output_schema", "policy"):
                    for value in odd:
                        result = await client.call_tool(tool, {"prompt": "x", "max_tokens": 5, name: value})
                        code = (result.structured_content.get("error") or {}).get("code")
                        assert code != "internal_error", (tool, name, value)

    asyncio.run(run())


# The command


def conversation(*messages: dict[str, Any]) -> bytes:
    return b"".join(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n" for message in messages)


META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def test_the_command_answers_over_pipes_writes_nothing_but_the_protocol_and_logs_no_text(tmp_path):
    asked = {"name": "generate", "arguments": {"prompt": "Is this zebra good? 'Dull.'", "max_tokens": 4}}
    lines = conversation(
        {"id": 1, "method": "server/discover", "params": {"_meta": META}},
        {"id": 2, "method": "tools/call", "params": asked | {"_meta": META}},
        {"id": 3, "method": "tools/call", "params": {"name": "generate", "arguments": {"zebra": "x"}, "_meta": META}},
    )
    process = subprocess.Popen(
        [COMMAND, "mcp", "--verbose"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(lines + b'{"zebra": not json\n')
    process.stdin.flush()
    found = {message["id"]: message for message in (json.loads(process.stdout.readline()) for _ in range(3))}
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == b""
    assert found[1]["result"]["serverInfo" if "serverInfo" in found[1]["result"] else "supportedVersions"]
    assert found[2]["result"]["structuredContent"]["backend"] == "edge"
    assert found[3]["result"]["isError"] is True
    assert b"generate: answered" in err
    assert b"Dull" not in err
    assert b"zebra" not in err


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130)])
def test_a_signal_ends_the_command_though_standard_input_stays_open(sent, code):
    process = subprocess.Popen([COMMAND, "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(conversation({"id": 1, "method": "tools/list", "params": {"_meta": META}}))
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(sent)
        assert process.wait(10) == code
    finally:
        process.kill()
        process.communicate()


def test_the_command_serves_http_on_loopback_only_and_stops_at_sigterm(tmp_path):
    done = subprocess.run([COMMAND, "mcp", "--http", "0.0.0.0:0"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "use 127.0.0.1" in done.stderr
    ready = tmp_path / "port"
    process = subprocess.Popen(
        [COMMAND, "mcp", "--http", "127.0.0.1:0", "--ready-file", str(ready)], stdout=subprocess.PIPE, text=True
    )
    try:
        until(ready.exists, 20)
        url = f"http://127.0.0.1:{ready.read_text().strip()}/mcp"
        result = call(url, "generate", {"prompt": "Is this good? 'Dull.'", "max_tokens": 4})
        assert result.structured_content["backend"] == "edge"
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
    assert process.stdout is not None
    assert process.stdout.read().strip() == f"ready on {url}"

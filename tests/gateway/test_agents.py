"""Coding agents: requests in the shapes that they send by default, and loops of 50 calls by the official clients."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from typing import Any

import anthropic
import openai
import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState
from hybrid_llm.core.tools import ToolCallDelta
from hybrid_llm.policies import parse_policy
from tests.fakes import FakeBackend
from tests.gateway.conftest import served
from tests.gateway.test_http import ALONE, send

TURNS = 50
READ = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "An absolute path"},
        "limit": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991},
        "answers": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "string"}},
        "kinds": {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True},
    },
    "required": ["path"],
    "additionalProperties": False,
}
PATCH = {"type": "grammar", "syntax": "lark", "definition": 'start: "begin" LINE+\nLINE: /.+/'}


class Worker(FakeBackend):
    """Thinks, and calls the first tool until there are as many results as it is asked for; then it says how many."""

    def __init__(self) -> None:
        super().__init__("edge", Location.EDGE)
        self.capabilities = Capabilities(model="worker", context_window=200_000, output_schema=True, tools=True)

    def state(self) -> BackendState:
        return BackendState(name=self.name, location=self.location, context_window=200_000)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        request = require_clearance(cleared, self.location)
        self.requests.append(request)
        done = sum(message.role == "tool" for message in request.messages)
        wanted = re.search(r"Read (\d+) files", request.messages[0].content)
        calls = wanted is not None and done < int(wanted[1])
        yield Chunk(reasoning="I should look.")
        if calls:
            schema = json.loads(request.tools[0].parameters)
            arguments = json.dumps({schema["required"][0]: f"/file/{done}"})
            yield Chunk(tool_calls=(ToolCallDelta(index=0, id="c", name=request.tools[0].name),))
            yield Chunk(tool_calls=(ToolCallDelta(index=0, arguments=arguments[:5]),))
            yield Chunk(tool_calls=(ToolCallDelta(index=0, arguments=arguments[5:]),))
        else:
            yield Chunk(text=f"{done} files")
        reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
        yield Chunk(tokens=0, finish_reason=reason, usage=Usage(prompt_tokens=3, completion_tokens=3))


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker()


@pytest.fixture(scope="module")
def url(worker: Worker) -> Iterator[str]:
    with served(HybridLLM([worker], parse_policy(ALONE, backends={"edge": Location.EDGE}))) as base:
        yield base


CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
CLAUDE_CODE: dict[str, Any] = {
    "model": "claude-opus-5",
    "max_tokens": 32_000,
    "stream": True,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: version=1; entrypoint=cli;"},
        {"type": "text", "text": "You help with software.", **CACHED},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>Be tidy.</system-reminder>"},
                {"type": "text", "text": "Fix the tests.", **CACHED},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Look first.", "signature": "c2lnbmVk"},
                {"type": "redacted_thinking", "data": "c2VjcmV0"},
                {"type": "text", "text": "I look."},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "Read",
                    "input": {"path": "/a"},
                    "caller": {"type": "direct"},
                },
                {"type": "tool_use", "id": "toolu_2", "name": "Read", "input": {"path": "/b"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "text of a", "is_error": False},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": [{"type": "text", "text": "no"}],
                    **CACHED,
                },
            ],
        },
        {"role": "system", "content": "The user has opened another file."},
    ],
    "tools": [
        {"name": "Read", "description": "Read a file.", "input_schema": READ, "eager_input_streaming": True},
        {"name": "mcp__docs__search", "description": "", "input_schema": {"type": "object"}, "defer_loading": True},
        {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8, **CACHED},
    ],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "adaptive", "display": "summarized"},
    "output_config": {"effort": "high"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "metadata": {"user_id": '{"device_id":"d","account_uuid":"","session_id":"s"}'},
    "speed": "standard",
    "temperature": 1,
}
CODEX: dict[str, Any] = {
    "model": "gpt-6-sol",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix the tests."}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": "Z0FBQUFB"},
        {
            "type": "message",
            "role": "assistant",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "I look."}],
        },
        {"type": "function_call", "name": "exec_command", "arguments": '{"path":"ls"}', "call_id": "call_1"},
        {"type": "function_call_output", "call_id": "call_1", "output": "a.py"},
        {
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "call_2",
            "name": "apply_patch",
            "input": "begin",
        },
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "done"}]},
        {"type": "function_call", "namespace": "docs", "name": "find", "arguments": "{}", "call_id": "call_3"},
        {"type": "function_call_output", "call_id": "call_3", "output": "found"},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
    ],
    "tools": [
        {"type": "function", "name": "exec_command", "description": "Run.", "strict": False, "parameters": READ},
        {"type": "custom", "name": "apply_patch", "description": "Edit files.", "format": PATCH},
        {
            "type": "namespace",
            "name": "docs",
            "description": "Of an MCP server.",
            "tools": [{"type": "function", "name": "find", "strict": False, "parameters": {"type": "object"}}],
        },
        {"type": "web_search", "external_web_access": False},
        {"type": "tool_search", "execution": "client", "description": "", "parameters": {}},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto", "context": "all_turns"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "service_tier": "priority",
    "prompt_cache_key": "0199-thread",
    "text": {"verbosity": "low"},
    "client_metadata": {"x-codex-installation-id": "i"},
}
CHAT_TURNS = [
    {"role": "system", "content": "You edit code."},
    {"role": "user", "content": [{"type": "text", "text": "Fix it.", "cache_control": {"type": "ephemeral"}}]},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "Look first.",
        "tool_calls": [
            {"id": "c1", "index": 0, "type": "function", "function": {"name": "read", "arguments": '{"path":"a"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "name": "read", "content": "text of a"},
]
CHAT_TOOLS = [
    {"type": "function", "function": {"name": "read", "description": "Read.", "strict": False, "parameters": READ}}
]
CLINE = {
    "model": "m",
    "messages": CHAT_TURNS,
    "temperature": 0,
    "stream": True,
    "stream_options": {"include_usage": True},
}
AGENTS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "Claude Code": (
        "/v1/messages?beta=true",
        CLAUDE_CODE,
        {
            "x-app": "cli",
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27",
            "anthropic-dangerous-direct-browser-access": "true",
            "x-claude-code-session-id": "session-of-claude",
        },
    ),
    "Codex": ("/v1/responses", CODEX, {"originator": "codex_cli_rs", "session-id": "session-of-codex", "version": "1"}),
    "OpenCode": (
        "/v1/chat/completions",
        CLINE | {"tools": CHAT_TOOLS, "tool_choice": "auto", "max_tokens": 32_000, "reasoning_effort": "high"},
        {"x-session-affinity": "session-of-opencode"},
    ),
    "Cline": ("/v1/chat/completions", CLINE, {"http-referer": "https://cline.bot", "x-title": "Cline"}),
    "Continue": (
        "/v1/chat/completions",
        CLINE | {"tools": CHAT_TOOLS, "parallel_tool_calls": False, "max_tokens": 4096, "stop": ["</end>"]},
        {},
    ),
    "Aider": ("/v1/chat/completions", {"model": "m", "messages": CHAT_TURNS[:2], "stream": True, "temperature": 0}, {}),
}


@pytest.mark.parametrize("agent", AGENTS)
def test_what_an_agent_sends_by_default_is_answered(url: str, worker: Worker, agent: str) -> None:
    path, body, headers = AGENTS[agent]
    reply = send(url, path, body, user_agent=agent, **headers)
    assert reply.status == 200, reply.raw
    session = next((value for name, value in headers.items() if "session" in name), None)
    assert worker.requests[-1].session_id == session


def test_the_turns_of_an_agent_arrive_as_they_were(url: str, worker: Worker) -> None:
    for path, body, _ in (AGENTS["Claude Code"], AGENTS["Codex"]):
        assert send(url, path, body).status == 200
        messages = worker.requests[-1].messages
        calls = [call.name for message in messages for call in message.tool_calls]
        assert sum(message.role == "tool" for message in messages) == len(calls)
    assert calls == ["exec_command", "apply_patch", "docs__find"]
    texts = [message.content for message in messages if message.role == "assistant"]
    assert texts[0] == "I look."


def test_what_is_not_offered_or_enforced_is_a_warning(url: str, worker: Worker) -> None:
    path, body, _ = AGENTS["Codex"]
    warned = send(url, path, body).headers["x-hybrid-warnings"]
    assert "web_search" in warned
    assert "propertyNames, uniqueItems" in warned
    assert [tool.name for tool in worker.requests[-1].tools] == ["exec_command", "apply_patch", "docs__find"]


def test_a_schema_that_is_to_be_enforced_is_refused_where_it_cannot_be(url: str) -> None:
    strict = {"type": "function", "function": {"name": "read", "strict": True, "parameters": READ}}
    reply = send(url, "/v1/chat/completions", CLINE | {"tools": [strict]})
    assert (reply.status, reply.document["error"]["param"]) == (400, "tools")


def test_a_tool_that_must_be_called_and_is_not_offered_is_an_error(url: str) -> None:
    only = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    for choice in ({"type": "tool", "name": "web_search"}, {"type": "any"}):
        assert send(url, "/v1/messages", CLAUDE_CODE | only | {"tool_choice": choice}).status == 400


def test_fifty_calls_by_chat(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "user", "content": f"Read {TURNS} files."}]
    for turn in range(TURNS + 1):
        with client.chat.completions.stream(model="auto", messages=messages, tools=CHAT_TOOLS) as stream:
            message = stream.get_final_completion().choices[0].message
        if not message.tool_calls:
            break
        (call,) = message.tool_calls
        assert json.loads(call.function.arguments) == {"path": f"/file/{turn}"}
        messages += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "text"}]
    assert message.content == "50 files"


@pytest.mark.parametrize(
    ("turns", "custom", "kept"), [(TURNS, False, True), (TURNS, True, True), (15, False, False), (15, True, False)]
)
def test_many_calls_by_responses(url: str, turns: int, *, custom: bool, kept: bool) -> None:
    """With `previous_response_id`, or with the whole conversation, of which the client is long to make JSON."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    function = {"type": "function", "name": "read", "parameters": READ}
    tools: Any = [{"type": "custom", "name": "patch", "format": PATCH} if custom else function]
    items: list[Any] = [{"role": "user", "content": f"Read {turns} files."}]
    previous = None
    for turn in range(turns + 1):
        with client.responses.stream(
            model="auto", input=items, tools=tools, store=kept, previous_response_id=previous
        ) as stream:
            response = stream.get_final_response()
        call = response.output[-1]
        if call.type == "message":
            break
        assert (call.input if custom else json.loads(call.arguments)["path"]) == f"/file/{turn}"
        kind = "custom_tool_call_output" if custom else "function_call_output"
        result = {"type": kind, "call_id": call.call_id, "output": "text"}
        before = [item.model_dump(exclude={"parsed_arguments"}, exclude_none=True) for item in response.output]
        items = [result] if kept else [*items, *before, result]
        previous = response.id if kept else None
    assert response.output_text == f"{turns} files"


def test_fifty_calls_by_messages(url: str, worker: Worker) -> None:
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "user", "content": f"Read {TURNS} files."}]
    tools: Any = [{"name": "read", "input_schema": READ, **CACHED}]
    for turn in range(TURNS + 1):
        with client.messages.stream(model="auto", max_tokens=100, messages=messages, tools=tools) as stream:
            message = stream.get_final_message()
        if message.stop_reason != "tool_use":
            break
        use = message.content[-1]
        assert use.input == {"path": f"/file/{turn}"}
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "text"}
        messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert message.content[-1].text == "50 files"
    turns = [message for message in worker.requests[-1].messages if message.role == "assistant"]
    assert len(turns) == TURNS
    assert all(turn.reasoning == "I should look." for turn in turns)

"""A request's messages and tools in the shape that chat templates expect, and what a template makes of them.

A template that has no place for tools, or for tool calls and results of earlier turns, gets them as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final

from hybrid_llm.backends.calls.formats import GEMMA, PLAIN, THINK, THOUGHT, CallFormat, ModelFormat, call_text
from hybrid_llm.backends.calls.probing import TOOLS, USER, Render, Turn, called, find_format, result, tried
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import Message, Request, call_ordinals
from hybrid_llm.core.tools import Tool, ToolCall, numbered_id, parsed_arguments

_ROLES: Final = frozenset({"system", "user", "assistant", "tool", "developer"})


def probe(render: Render, vocabulary: Collection[str], ends: Collection[str] = ()) -> ModelFormat:
    """What the template of *render* does with tools, calls and reasoning.

    *vocabulary* has the added tokens, *ends* those that end a turn. Where a template writes calls in a way that cannot
    be held here, it is not shown tools: we describe them, and the model is told one format only.
    """
    tools = tried(render, [USER], TOOLS[:1])
    history = tried(render, called(1), None)
    calls = find_format(render, tools + history, vocabulary, ends)
    return ModelFormat(
        calls=calls or (GEMMA if "<start_of_turn>" in vocabulary else PLAIN),
        renders_tools="probe_described" in tools and (calls is not None or "probe_argument" not in history),
        renders_calls=calls is not None and "probe_argument" in history and "probe_result" in history,
        renders_results="probe_result" in tried(render, [USER, result(0)], None),
        renders_system="probe_system" in tried(render, [{"role": "system", "content": "probe_system"}, USER], None),
        reasons=THINK in vocabulary and THOUGHT in vocabulary,
        begins_reasoning=tried(render, [USER], None).rstrip().endswith(THINK),
    )


def tools_of(request: Request, model: ModelFormat) -> list[Any] | None:
    """The tools that the template shows; None without any."""
    if not model.renders_tools or request.tool_choice == "none":
        return None
    return [{"type": "function", "function": _function(tool)} for tool in request.tools] or None


def turns_of(request: Request, model: ModelFormat) -> list[Turn]:
    """The conversation.

    Raises:
        InvalidRequest: a role is unknown.
    """
    if not all(message.role in _ROLES for message in request.messages):
        raise InvalidRequest(f"a message's role must be one of {', '.join(sorted(_ROLES))}", field="messages")
    turns = list(_turns(request.messages, model))
    if request.tools and not model.renders_tools and request.tool_choice != "none":
        _describe(turns, request, model)
    return turns


def _turns(messages: Iterable[Message], model: ModelFormat) -> Iterator[Turn]:
    all_of = tuple(messages)
    calls = [call for message in all_of for call in message.tool_calls]
    number = 1
    for message, ordinal in zip(all_of, call_ordinals(all_of), strict=True):
        turn: Turn = {"role": "system" if message.role == "developer" else message.role, "content": message.content}
        if message.tool_calls and model.renders_calls:
            turn["tool_calls"] = [_call(call, number + at) for at, call in enumerate(message.tool_calls)]
        elif message.tool_calls:
            turn["content"] = "\n".join(filter(None, [message.content, *_written(message.tool_calls, model.calls)]))
        number += len(message.tool_calls)
        if message.reasoning and model.reasons:
            turn["reasoning_content"] = message.reasoning
        if ordinal and model.renders_calls:
            turn |= {"tool_call_id": numbered_id(ordinal), "name": calls[ordinal - 1].name}
        elif message.role == "tool" and not model.renders_results:
            turn["role"] = "user"
        yield turn


def _written(calls: Iterable[ToolCall], written: CallFormat) -> Iterator[str]:
    for call in calls:
        yield call_text(written, call.name, call.arguments)


def _call(call: ToolCall, number: int) -> Turn:
    arguments = parsed_arguments(call.arguments)
    if arguments is None:
        raise InvalidRequest("the arguments of a tool call are no JSON object", field="messages")
    return {
        "id": numbered_id(number),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _function(tool: Tool) -> Turn:
    try:
        parameters = json.loads(tool.parameters)
    except ValueError:
        raise InvalidRequest("a tool's parameters are not JSON", field="tools") from None
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _describe(turns: list[Turn], request: Request, model: ModelFormat) -> None:
    """Put the tools, and how to call them, in the system message, or before what the user says first."""
    calls = model.of(request)
    example = call_text(calls, "NAME", '{"ARGUMENT": "VALUE"}')
    tools = "\n".join(json.dumps(_function(tool), ensure_ascii=False) for tool in request.tools)
    text = f"You can call these functions:\n{tools}\nTo call one, answer only with JSON as in this line:\n{example}"
    if turns[0]["role"] == "system" or not model.renders_system:
        turns[0]["content"] = f"{text}\n\n{turns[0]['content']}"
    else:
        turns.insert(0, {"role": "system", "content": text})


def typed_texts(turns: Iterable[Turn], tools: object) -> Iterator[str]:
    """Every text of the app in them: no names of roles or keys of ours."""
    found: list[str] = []
    change_texts(list(turns), tools, found.append)
    yield from found


def change_texts(turns: list[Turn], tools: object, change: Callable[[str], object]) -> tuple[list[Turn], Any]:
    """A copy of both with every text of the app changed."""
    return [_changed_turn(turn, change) for turn in turns], _changed(change, tools)


def _changed_turn(turn: Turn, change: Callable[[str], object]) -> Turn:
    new = dict(turn)
    for name in ("content", "reasoning_content", "name"):
        if name in turn:
            new[name] = change(turn[name])
    if "tool_calls" in turn:
        calls = turn["tool_calls"]
        new["tool_calls"] = [{**call, "function": _changed_call(change, call["function"])} for call in calls]
    return new


def _changed_call(change: Callable[[str], object], function: Turn) -> Turn:
    return {"name": change(function["name"]), "arguments": _changed(change, function["arguments"])}


def _changed(change: Callable[[str], object], value: object) -> Any:
    """A copy of nested lists and dicts with every string changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _changed(change, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_changed(change, item) for item in value]
    return value

"""A request as the body of a Messages call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from hybrid_llm.backends.anthropic.settings import AnthropicSettings
from hybrid_llm.backends.http.continuation import GO_ON
from hybrid_llm.backends.http.encode import checked, strings, taken, texts_of, unsupported
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.request import Message, Request, Sampling, call_ordinals
from hybrid_llm.core.tools import Tool, ToolCall, numbered_id, parsed_arguments

_SAMPLING: Final = frozenset({"temperature", "top_p", "top_k"})
"""Settings that older models take; the others of ours no model does."""
_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}
_SYSTEM: Final = ("system", "developer")


def payload(cleared: Cleared, settings: AnthropicSettings) -> bytes:
    """What is sent for a cleared request.

    Raises:
        PrivacyViolation: the clearance does not cover where the server is, or a text is none of the request.
        RequestRejected: the server cannot be asked for this.
    """
    request = require_clearance(cleared, settings.location)
    allowed = texts_of(request) | set(_texts_of_calls(request)) | _WORDS | {settings.model}
    return checked(_body(request, settings), allowed, settings.location)


def continues(request: Request, settings: AnthropicSettings) -> bool:
    """Whether the model is given the partial answer as its own: one that ends in a space is refused as that."""
    return settings.takes_prefill and request.answer_prefix == request.answer_prefix.rstrip()


def _body(request: Request, settings: AnthropicSettings) -> Json:
    body: Json = {
        "model": settings.model,
        "max_tokens": request.max_tokens,
        "messages": _merged([*_turns(request, settings), *_continued(request, settings)]),
        "stream": True,
        **_sampling(request.sampling, settings),
        **_tools(request),
    }
    if not body["messages"]:
        raise unsupported(settings, "needs a message with a text")
    if system := [_text(each.content) for each in request.messages if each.role in _SYSTEM and each.content.strip()]:
        body["system"] = system
    if request.output_schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": json.loads(request.output_schema)}}
    return body


def _turns(request: Request, settings: AnthropicSettings) -> Iterator[Json]:
    """A turn for each message but those of the system, which the API has apart."""
    calls = 0
    for message, ordinal in zip(request.messages, call_ordinals(request.messages), strict=True):
        if message.role == "tool":
            if not ordinal:
                raise unsupported(settings, "takes no result without its call")
            yield _turn("user", [_result(message, ordinal)])
        elif message.role not in _SYSTEM:
            blocks = [_text(message.content)] if message.content.strip() else []
            uses = [_use(call, at, settings) for at, call in enumerate(message.tool_calls, calls + 1)]
            yield _turn(message.role, [*blocks, *uses])
        calls += len(message.tool_calls)


def _turn(role: str, blocks: list[Json]) -> Json:
    return {"role": role, "content": blocks}


def _merged(turns: list[Json]) -> list[Json]:
    """The turns in alternation: results of tools, for instance, stand in one turn."""
    merged: list[Json] = []
    for turn in turns:
        if merged and merged[-1]["role"] == turn["role"]:
            merged[-1]["content"] += turn["content"]
        elif turn["content"]:
            merged.append(turn)
    return merged


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _result(message: Message, ordinal: int) -> Json:
    return {"type": "tool_result", "tool_use_id": numbered_id(ordinal), "content": message.content}


def _use(call: ToolCall, number: int, settings: AnthropicSettings) -> Json:
    values = parsed_arguments(call.arguments)
    if values is None:
        raise unsupported(settings, "takes no call whose arguments are no JSON object")
    return {"type": "tool_use", "id": numbered_id(number), "name": call.name, "input": values}


def _continued(request: Request, settings: AnthropicSettings) -> Iterator[Json]:
    """The partial answer, and how the model is asked to go on with it."""
    if not request.is_continuation:
        return
    if request.answer_calls or request.answer_reasoning or request.output_schema is not None:
        raise unsupported(settings, "cannot continue a tool call, reasoning or JSON that was cut off")
    if not request.answer_prefix.strip():
        return  # nothing is said yet, and the API takes no blank text
    yield _turn("assistant", [_text(request.answer_prefix)])
    if not continues(request, settings):
        yield _turn("user", [_text(GO_ON)])


def _sampling(sampling: Sampling, settings: AnthropicSettings) -> Json:
    """What is sent of *sampling*; a setting that the model does not take is refused by its name."""
    values = taken(settings, sampling, _SAMPLING if settings.takes_sampling else frozenset())
    return {**values, **({"stop_sequences": list(sampling.stop)} if sampling.stop else {})}


def _tools(request: Request) -> Json:
    if not request.tools:
        return {}
    choice = request.tool_choice
    chosen: Json = {"type": _CHOICES[choice]} if isinstance(choice, str) else _named(request.tools[choice])
    if not request.parallel_tool_calls and choice != "none":
        chosen["disable_parallel_tool_use"] = True
    return {"tools": [_tool(tool) for tool in request.tools], "tool_choice": chosen}


def _named(tool: Tool) -> Json:
    return {"type": "tool", "name": tool.name}


def _tool(tool: Tool) -> Json:
    written: Json = {"name": tool.name, "input_schema": {"type": "object"} | json.loads(tool.parameters)}
    return written | ({"description": tool.description} if tool.description else {})


def _texts_of_calls(request: Request) -> Iterator[str]:
    """The texts in the arguments of calls, which are sent as JSON, not as a text."""
    for message in request.messages:
        for call in message.tool_calls:
            yield from strings(parsed_arguments(call.arguments) or {})


_WORDS: Final[frozenset[Any]] = frozenset(
    {"model", "max_tokens", "messages", "stream", "system", "role", "content", "user", "assistant", "type", "text"}
    | {"tool_use", "tool_result", "tool_use_id", "id", "name", "input", "tools", "input_schema", "description"}
    | {"object", "tool_choice", "auto", "any", "none", "tool", "disable_parallel_tool_use", "stop_sequences"}
    | {"output_config", "format", "json_schema", "schema", *_SAMPLING, GO_ON}
)
"""What the body says by itself."""

"""A request as the body of a Chat Completions call, and the check of the very bytes that leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from hybrid_llm.backends.openai.settings import OpenAISettings
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import PrivacyViolation, RequestRejected
from hybrid_llm.core.limits import RECOMMENDED
from hybrid_llm.core.request import GREEDY, Message, Request, Sampling, call_ordinals
from hybrid_llm.core.tools import ToolCall, numbered_id

Json = dict[str, Any]
_COMMON: Final = ("temperature", "top_p")
"""Settings that every server takes; the others of ours are extensions, which OpenAI's own refuses."""
_GO_ON: Final = (
    "Your last message above was cut off. Write what comes next, beginning with the very next character: "
    "repeat nothing, and explain nothing."
)
"""Asks a server that cannot continue a message to go on with it."""
_FORMAT_NAME: Final = "answer"


def payload(cleared: Cleared, spec: OpenAISettings) -> bytes:
    """What is sent for a cleared request: JSON in which every text is one of the cleared request.

    Raises:
        PrivacyViolation: the clearance does not cover where the server is, or a text is none of it.
        RequestRejected: the server cannot be asked for this.
    """
    request = require_clearance(cleared, spec.location)
    data = json.dumps(_body(request, spec), separators=(",", ":")).encode()
    allowed = _texts_of(request) | _WORDS | {spec.model}
    for text in _strings(json.loads(data)):
        if text not in allowed:
            raise PrivacyViolation("what would be sent is not what was cleared", location=spec.location.value)
    return data


def _body(request: Request, spec: OpenAISettings) -> Json:
    limit = "max_completion_tokens" if spec.understood == "openai" else "max_tokens"
    body: Json = {
        "model": spec.model,
        "messages": [*_messages(request, spec), *_continued(request, spec)],
        "stream": True,
        "stream_options": {"include_usage": True},
        limit: request.max_tokens,
        **_sampling(request.sampling, spec),
    }
    if request.answer_prefix and spec.understood == "vllm":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.output_schema is not None:
        schema = json.loads(request.output_schema)
        described = {"name": _FORMAT_NAME, "schema": schema, "strict": _is_strict(schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": described}
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    return body | _tools(request)


def _messages(request: Request, spec: OpenAISettings) -> Iterator[Json]:
    ordinals = call_ordinals(request.messages)
    count = 0
    for message, ordinal in zip(request.messages, ordinals, strict=True):
        written = _message(message, spec, count)
        count += len(message.tool_calls)
        yield written | ({"tool_call_id": numbered_id(ordinal)} if ordinal else {})


def _message(message: Message, spec: OpenAISettings, calls_before: int) -> Json:
    role = "system" if message.role == "developer" and spec.understood != "openai" else message.role
    written: Json = {"role": role, "content": message.content}
    if message.reasoning and spec.understood in ("vllm", "llama.cpp", "other"):
        written["reasoning_content"] = message.reasoning
    if message.tool_calls:
        written["tool_calls"] = [_call(call, at) for at, call in enumerate(message.tool_calls, calls_before + 1)]
    return written


def _call(call: ToolCall, number: int) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": numbered_id(number), "type": "function", "function": function}


def _continued(request: Request, spec: OpenAISettings) -> Iterator[Json]:
    """The partial answer, and how the server is asked to go on with it."""
    if not request.is_continuation:
        return
    is_text = not (request.answer_calls or request.answer_reasoning)
    continues = spec.understood in ("vllm", "llama.cpp")
    if not is_text or (request.output_schema is not None and not continues):
        what = "a tool call, reasoning or JSON that was cut off"
        raise RequestRejected(f"{spec.name} cannot continue {what}", backend=spec.name, reason="unsupported")
    yield {"role": "assistant", "content": request.answer_prefix}
    if not continues:
        yield {"role": "user", "content": _GO_ON}


def _sampling(sampling: Sampling, spec: OpenAISettings) -> Json:
    """The settings that were named: the server has recommendations of its own for the others."""
    values = asdict(sampling)
    named = {name: values[name] for name in RECOMMENDED if _is_named(sampling, name)}
    if (foreign := sorted(named.keys() - set(_COMMON))) and spec.understood == "openai":
        text = f"{spec.name} does not take {', '.join(foreign)}"
        raise RequestRejected(text, backend=spec.name, reason="unsupported")
    if sampling.seed is not None:
        named["seed"] = sampling.seed
    if sampling.stop:
        named["stop"] = list(sampling.stop)
    return named


def _is_named(sampling: Sampling, name: str) -> bool:
    return name in sampling.explicit or getattr(sampling, name) != getattr(GREEDY, name)


def _tools(request: Request) -> Json:
    if not request.tools:
        return {}
    choice = request.tool_choice
    named = (
        {"type": "function", "function": {"name": request.tools[choice].name}} if isinstance(choice, int) else choice
    )
    functions = [
        {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}
        for tool in request.tools
    ]
    body: Json = {"tools": [{"type": "function", "function": each} for each in functions], "tool_choice": named}
    return body if request.parallel_tool_calls else body | {"parallel_tool_calls": False}


def _is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes *schema*: every object is closed, and all its properties are required."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if "properties" in schema or schema.get("type") == "object":
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("required", ())) != set(schema.get("properties", ())):
            return False
    return all(map(_is_strict, schema.values()))


def _texts_of(request: Request) -> set[str]:
    """Every text of *request*, and those inside of its JSON: a schema is sent as JSON, not as a text."""
    texts = set(request.visible_text())
    for text in (request.output_schema, *(tool.parameters for tool in request.tools)):
        if text is not None:
            texts.update(_strings(json.loads(text)))
    calls = sum(len(message.tool_calls) for message in request.messages)
    return texts | {numbered_id(number) for number in range(1, calls + 1)}


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON document, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


_WORDS: Final = frozenset(
    {"model", "messages", "role", "content", "stream", "stream_options", "include_usage", "max_tokens"}
    | {"max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop"}
    | {"continue_final_message", "add_generation_prompt", "response_format", "type", "json_schema", "name", "schema"}
    | {"strict", "logprobs", "top_logprobs", "tools", "function", "description", "parameters", "tool_choice", "auto"}
    | {"none", "required", "parallel_tool_calls", "tool_calls", "tool_call_id", "id", "arguments", "reasoning_content"}
    | {"system", "user", "assistant", "tool", "developer", _FORMAT_NAME, _GO_ON}
)
"""What the body says by itself."""

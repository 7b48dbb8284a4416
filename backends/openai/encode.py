"""A request as the body of a Chat Completions call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from hybrid_llm.backends.http.continuation import GO_ON
from hybrid_llm.backends.http.encode import checked, named, taken, texts_of, unsupported
from hybrid_llm.backends.openai.settings import OpenAISettings
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.limits import SAMPLING
from hybrid_llm.core.request import Message, Request, Sampling, call_ordinals
from hybrid_llm.core.tools import numbered_id

CONTINUES: Final = ("vllm", "sglang", "llama.cpp")
"""Dialects in which the server continues a message; others are asked to go on with it."""
_CONTINUES_JSON: Final = ("llama.cpp",)
"""Dialects in which the grammar of a schema goes on with the message too. vLLM's begins anew: a second document."""
_GOES_ON: Final[Mapping[str, Json]] = {
    "vllm": {"continue_final_message": True, "add_generation_prompt": False},
    "sglang": {"continue_final_message": True},
}
"""What asks a server to continue the last message; llama.cpp's does so by itself."""
_COMMON: Final = frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"})
"""Settings that every server takes; the others of ours are extensions, which OpenAI's own refuses."""
_FORMAT_NAME: Final = "answer"


def payload(cleared: Cleared, spec: OpenAISettings, server: str = "") -> bytes:
    """What is sent for a cleared request to a server that was found to be *server*.

    Raises:
        PrivacyViolation: the clearance does not cover where the server is, or a text is none of the request.
        RequestRejected: the server cannot be asked for this.
    """
    request = require_clearance(cleared, spec.location, seals=spec.sealing_keys is not None)
    body = _body(request, spec, spec.understood(server))
    return checked(body, texts_of(request) | _WORDS | {spec.model}, spec.location)


def _body(request: Request, spec: OpenAISettings, dialect: str) -> Json:
    limit = "max_completion_tokens" if dialect == "openai" else "max_tokens"
    body: Json = {
        "model": spec.model,
        "messages": [*_messages(request, dialect), *_continued(request, spec, dialect)],
        "stream": True,
        "stream_options": {"include_usage": True},
        limit: request.max_tokens,
        **_sampling(request.sampling, spec, dialect),
    }
    if request.answer_prefix:
        body |= _GOES_ON.get(dialect, {})
    if request.output_schema is not None:
        schema = json.loads(request.output_schema)
        described = {"name": _FORMAT_NAME, "schema": schema, "strict": _is_strict(schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": described}
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    return body | _tools(request)


def _messages(request: Request, dialect: str) -> Iterator[Json]:
    ordinals = call_ordinals(request.messages)
    count = 0
    for message, ordinal in zip(request.messages, ordinals, strict=True):
        written = _message(message, dialect, count)
        count += len(message.tool_calls)
        yield written | ({"tool_call_id": numbered_id(ordinal)} if ordinal else {})


def _message(message: Message, dialect: str, calls_before: int) -> Json:
    role = "system" if message.role == "developer" and dialect != "openai" else message.role
    written: Json = {"role": role, "content": message.content}
    if message.reasoning and dialect in (*CONTINUES, "other"):
        written["reasoning_content"] = message.reasoning
    if message.tool_calls:
        numbered = enumerate(message.tool_calls, calls_before + 1)
        written["tool_calls"] = [replace(call, id=numbered_id(number)).as_openai() for number, call in numbered]
    return written


def _continued(request: Request, spec: OpenAISettings, dialect: str) -> Iterator[Json]:
    """The partial answer, and how the server is asked to go on with it."""
    if not request.is_continuation:
        return
    is_text = not (request.answer_calls or request.answer_reasoning)
    if not is_text or (request.output_schema is not None and dialect not in _CONTINUES_JSON):
        raise unsupported(spec, "cannot continue a tool call, reasoning or JSON that was cut off")
    yield {"role": "assistant", "content": request.answer_prefix}
    if dialect not in CONTINUES:
        yield {"role": "user", "content": GO_ON}


def _sampling(sampling: Sampling, spec: OpenAISettings, dialect: str) -> Json:
    """What is sent of *sampling*; of OpenAI's own servers what they have."""
    settings = taken(spec, sampling, _COMMON) if dialect == "openai" else named(sampling)
    return {**settings, **({"stop": list(sampling.stop)} if sampling.stop else {})}


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


_WORDS: Final = frozenset(
    {"model", "messages", "role", "content", "stream", "stream_options", "include_usage", "max_tokens"}
    | {"max_completion_tokens", *SAMPLING, "stop"}
    | {"continue_final_message", "add_generation_prompt", "response_format", "type", "json_schema", "name", "schema"}
    | {"strict", "logprobs", "top_logprobs", "tools", "function", "description", "parameters", "tool_choice", "auto"}
    | {"none", "required", "parallel_tool_calls", "tool_calls", "tool_call_id", "id", "arguments", "reasoning_content"}
    | {"system", "user", "assistant", "tool", "developer", _FORMAT_NAME, GO_ON}
)
"""What the body says by itself."""

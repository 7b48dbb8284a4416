"""OpenAI's Responses, and Open Responses: reads requests, writes answers whole and as events in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

from hybrid_llm.core.generation import Chunk, FinishReason, Generation, Usage
from hybrid_llm.core.tools import Tool, ToolCall, ToolCallDelta
from hybrid_llm.gateway.asked import (
    Answering,
    Asked,
    Json,
    check_fields,
    dumped,
    event,
    model_of,
    refuse,
    tool_of,
    typed,
)
from hybrid_llm.gateway.chat import SAMPLING, allowed_of, schema_of_format
from hybrid_llm.gateway.extensions import details_field
from hybrid_llm.router.failures import Failure

_READ: Final = frozenset(
    {"model", "input", "instructions", "stream", "max_output_tokens", "tools", "tool_choice", "parallel_tool_calls"}
    | {"text", "previous_response_id", "store", "metadata", "prompt_cache_key", "hybrid"}
    | set(SAMPLING)
)
_IGNORED: Final = frozenset(
    {"user", "safety_identifier", "service_tier", "reasoning", "include", "prompt_cache_retention", "stream_options"}
    | {"prompt_cache_options", "access_programs", "context_management"}
)
_NEUTRAL: Final[Mapping[str, Any]] = {
    "background": False,
    "truncation": "disabled",
    "conversation": None,
    "prompt": None,
    "max_tool_calls": None,
    "top_logprobs": 0,
    "image": None,
    "moderation": None,
    "background_options": None,
}
_PARAMS: Final = {"prompt": "input", "max_tokens": "max_output_tokens", "output_schema": "text.format"}


class Responses:
    """`POST /v1/responses`."""

    answers_refused: Final = False

    def read(self, body: Json) -> Asked:
        """The request of *body*; raises `Failure`."""
        check_fields(body, read=_READ, ignored=_IGNORED, neutral=_NEUTRAL)
        tools, choice = _tools_of(body)
        text = typed(body, "text", dict, "an object") or {}
        instructions = typed(body, "instructions", str, "a text")
        store = typed(body, "store", bool, "true or false")
        return Asked(
            model=model_of(body),
            instructions=[{"role": "system", "content": instructions}] if instructions else [],
            prompt=list(_turns(body.get("input"))),
            options={name: body.get(name) for name in SAMPLING}
            | {
                "max_tokens": body.get("max_output_tokens"),
                "output_schema": schema_of_format(form, form, "text.format") if (form := text.get("format")) else None,
                "tools": tools or None,
                "tool_choice": choice if tools else None,
                "parallel_tool_calls": body.get("parallel_tool_calls"),
            },
            stream=bool(typed(body, "stream", bool, "true or false")),
            follows=typed(body, "previous_response_id", str, "a text") or "",
            keep=store is not False,
            body=body,
        )

    def whole(self, answering: Answering, generation: Generation) -> Json:
        """A `response`."""
        return _ended(answering, generation, list(_items(answering, generation)))

    def refused(self, answering: Answering, failure: Failure) -> Json:  # noqa: ARG002  # the API has no place for it
        """A `response` without output, incomplete by a content filter."""
        return _filtered(answering, [])

    def writer(self, answering: Answering) -> ResponseWriter:
        """Writes the events of a `response`."""
        return ResponseWriter(answering)

    def failure(self, failure: Failure) -> Json:
        """An `error`."""
        return replace(failure, param=_PARAMS.get(failure.param or "", failure.param)).as_openai()


class ResponseWriter:
    """Writes the events of one answer: each item is added, filled and done before the next one."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._number = 0
        self._items: list[Json] = []
        self._open: Json | None = None
        self._text = ""

    def begin(self) -> Iterator[bytes]:
        """The response, empty and in progress."""
        for name in ("response.created", "response.in_progress"):
            yield self._event(name, response=_response(self._answering, "in_progress"))

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The deltas of reasoning, text and calls."""
        if chunk.reasoning:
            yield from self._opened("reasoning", _reasoning_item(self._answering, len(self._items), ""))
            yield from self._grow("response.reasoning_text.delta", chunk.reasoning, content_index=0)
        if chunk.text:
            yield from self._opened("message", _message_item(self._answering, len(self._items), "", "in_progress"))
            yield from self._grow("response.output_text.delta", chunk.text, content_index=0, logprobs=[])
        for delta in chunk.tool_calls:
            yield from self._call(delta)

    def _call(self, delta: ToolCallDelta) -> Iterator[bytes]:
        if delta.name:
            yield from self._closed()
            call = ToolCall(id=delta.id, name=delta.name, arguments="")
            yield from self._add(_call_item(self._answering, len(self._items), call, "in_progress"))
        if delta.arguments:
            yield from self._grow("response.function_call_arguments.delta", delta.arguments)

    def end(self, generation: Generation) -> Iterator[bytes]:
        """The end of the last item; then the whole response."""
        yield from self._closed()
        whole = _ended(self._answering, generation, self._items)
        yield self._event(f"response.{whole['status']}", response=whole)

    def fail(self, failure: Failure) -> Iterator[bytes]:
        """The response, failed."""
        error = {"code": "server_error", "message": failure.message}
        response = _response(self._answering, "failed") | {"error": error, "output": self._items}
        yield self._event("response.failed", response=response)

    def refuse(self, failure: Failure) -> Iterator[bytes]:  # noqa: ARG002  # the API has no place for it
        """The response as far as it was allowed, incomplete by a content filter."""
        yield from self._closed("incomplete")
        yield self._event("response.incomplete", response=_filtered(self._answering, self._items))

    def _opened(self, kind: str, item: Json) -> Iterator[bytes]:
        """Begin *item*, unless one of its kind is open."""
        if self._open is None or self._open["type"] != kind:
            yield from self._closed()
            yield from self._add(item)

    def _add(self, item: Json) -> Iterator[bytes]:
        self._open, self._text = item, ""
        empty = item | ({"content": []} if "content" in item else {})
        yield self._event("response.output_item.added", item=empty)
        if "content" in item:
            yield self._event("response.content_part.added", content_index=0, part=item["content"][0])

    def _grow(self, name: str, delta: str, **more: Any) -> Iterator[bytes]:
        self._text += delta
        yield self._event(name, delta=delta, **more)

    def _closed(self, status: str = "completed") -> Iterator[bytes]:
        """End the open item."""
        if (item := self._open) is None:
            return
        if item["type"] == "function_call":
            item["arguments"] = self._text
            yield self._event("response.function_call_arguments.done", arguments=self._text, name=item["name"])
        else:
            part = item["content"][0]
            part["text"] = self._text
            name = "response.reasoning_text" if item["type"] == "reasoning" else "response.output_text"
            more: Json = {} if item["type"] == "reasoning" else {"logprobs": []}
            yield self._event(f"{name}.done", content_index=0, text=self._text, **more)
            yield self._event("response.content_part.done", content_index=0, part=part)
        item["status"] = status
        yield self._event("response.output_item.done", item=item)
        self._items.append(item)
        self._open = None

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        document: Json = {"type": kind, "sequence_number": self._number}
        self._number += 1
        if self._open is not None and not kind.startswith(("response.created", "response.in_progress")):
            document["output_index"] = len(self._items)
            if "item" not in fields:
                document["item_id"] = self._open["id"]
        return event(dumped(document | fields), kind)


def _turns(given: Any) -> Iterator[Json]:
    """The conversation that `input` holds: a text, or a list of items."""
    if isinstance(given, str):
        yield {"role": "user", "content": given}
        return
    if not isinstance(given, list) or not given:
        raise Failure(400, "invalid_type", "input: a text, or a list of items that is not empty", "input")
    for kind, items in groupby(enumerate(given), key=lambda pair: _kind_of(*pair)):
        if kind == "function_call":  # calls that follow each other are of one turn
            yield {"role": "assistant", "content": "", "tool_calls": [_call_of(item) for _, item in items]}
        else:
            yield from (_turn(kind, item, at) for at, item in items if kind != "reasoning")


def _kind_of(at: int, item: Any) -> str:
    if not isinstance(item, dict):
        raise Failure(400, "invalid_type", f"input[{at}]: it must be an object", "input")
    return str(item.get("type", "message"))


def _turn(kind: str, item: Json, at: int) -> Json:
    match kind:
        case "message":
            return {"role": item.get("role"), "content": item.get("content")}
        case "function_call_output":
            return {"role": "tool", "tool_call_id": item.get("call_id"), "content": _output_of(item.get("output"))}
    raise refuse("input", f"input[{at}] is of the type {kind[:64]!r}, which no backend takes")


def _call_of(item: Json) -> Json:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _output_of(output: Any) -> Any:
    """The result of a call: a text, or a list of parts."""
    return output if isinstance(output, str | list) else dumped(output)


def _tools_of(body: Json) -> tuple[list[Tool], Any]:
    listed = typed(body, "tools", list, "a list of tools") or []
    tools = []
    for at, given in enumerate(listed):
        if not isinstance(given, dict) or given.get("type") != "function":
            raise refuse("tools", f"tools[{at}]: tools of the type 'function' are supported")
        tools.append(tool_of(given, f"tools[{at}]", "parameters"))
    tools, choice = allowed_of(tools, body.get("tool_choice"))
    return tools, choice.get("name") if isinstance(choice, dict) else choice


def _response(answering: Answering, status: str) -> Json:
    """A `response` without output, with what it was asked for."""
    body = answering.asked.body
    return {
        "id": f"resp_{answering.request_id}",
        "object": "response",
        "created_at": answering.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": answering.model,
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "store": answering.asked.keep,
        "temperature": body.get("temperature"),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "usage": None,
    }


def _ended(answering: Answering, generation: Generation, items: list[Json]) -> Json:
    cut = generation.finish_reason in (FinishReason.LENGTH, FinishReason.REPETITION)
    return _response(answering, "incomplete" if cut else "completed") | {
        "output": items,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "usage": _usage(generation.usage),
        **details_field(generation, asked=answering.details),
    }


def _filtered(answering: Answering, items: list[Json]) -> Json:
    details = {"reason": "content_filter"}
    return _response(answering, "incomplete") | {
        "output": items,
        "incomplete_details": details,
        "usage": _usage(Usage()),
    }


def _items(answering: Answering, generation: Generation) -> Iterator[Json]:
    at = 0
    if generation.reasoning:
        yield _reasoning_item(answering, at, generation.reasoning) | {"status": "completed"}
        at += 1
    if generation.text or not generation.tool_calls:
        yield _message_item(answering, at, generation.text, "completed")
        at += 1
    for number, call in enumerate(generation.tool_calls, at):
        yield _call_item(answering, number, call, "completed")


def _reasoning_item(answering: Answering, at: int, text: str) -> Json:
    part = {"type": "reasoning_text", "text": text}
    return {"id": f"rs_{answering.request_id}_{at}", "type": "reasoning", "summary": [], "content": [part]}


def _message_item(answering: Answering, at: int, text: str, status: str) -> Json:
    part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    head = {"id": f"msg_{answering.request_id}_{at}", "type": "message", "role": "assistant"}
    return head | {"status": status, "content": [part]}


def _call_item(answering: Answering, at: int, call: ToolCall, status: str) -> Json:
    head = {"id": f"fc_{answering.request_id}_{at}", "type": "function_call", "status": status}
    return head | {"call_id": call.id, "name": call.name, "arguments": call.arguments}


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_prompt_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }

"""OpenAI's Responses, and Open Responses: reads requests, writes answers whole and as events in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Final

from hybrid_llm.core.generation import Chunk, FinishReason, Generation, Usage
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.tools import ToolCall, ToolCallDelta, parsed_arguments
from hybrid_llm.gateway.asked import Answering, Asked, ToolName, dumped, event
from hybrid_llm.gateway.chat import SAMPLING, text_part
from hybrid_llm.gateway.extensions import details_field
from hybrid_llm.gateway.tables.responses import HISTORY, RESPONSES, SERVER_TOOLS
from hybrid_llm.gateway.tiers import tier_field
from hybrid_llm.gateway.tools import INPUT, Tools, known_as, schema_of_format
from hybrid_llm.router.failures import Failure

_PARAMS: Final = {"prompt": "input", "max_tokens": "max_output_tokens", "output_schema": "text.format"}


class Responses:
    """`POST /v1/responses`."""

    table: ClassVar = RESPONSES
    answers_refused: Final = False

    def read(self, body: Json) -> Asked:
        """The request of *body*; raises `Failure`."""
        RESPONSES.check(body)
        tools = _tools_of(body)
        choice = _choice_of(tools, body.get("tool_choice"))
        format_ = (body.get("text") or {}).get("format")
        instructions = body.get("instructions")
        return Asked(
            model=body["model"],
            instructions=[{"role": "system", "content": instructions}] if instructions else [],
            prompt=turns_of(body["input"]),
            options={name: body.get(name) for name in SAMPLING}
            | {
                "max_tokens": body.get("max_output_tokens"),
                "output_schema": schema_of_format(format_, format_.get("schema")) if format_ else None,
                "tools": tools.offered or None,
                "tool_choice": choice,
                "parallel_tool_calls": body.get("parallel_tool_calls"),
            },
            stream=bool(body.get("stream")),
            follows=body.get("previous_response_id") or "",
            store=body.get("store") is not False,
            warnings=tuple(tools.warnings),
            names=tools.names,
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
        if delta.arguments and self._open is not None and self._open["type"] == "custom_tool_call":
            self._text += delta.arguments  # JSON, of which its client gets the text inside once it is whole
        elif delta.arguments:
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
        elif item["type"] == "custom_tool_call":
            item["input"] = _input_of(self._text)
            yield self._event("response.custom_tool_call_input.delta", delta=item["input"])
            yield self._event("response.custom_tool_call_input.done", input=item["input"])
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


def turns_of(given: str | list[Json]) -> list[Json]:
    """The conversation that `input` holds: a text, or a list of items.

    Reasoning, a text and calls that follow each other are of one turn.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    turns: list[Json] = []
    open_turn: Json = {}
    for item in given:
        kind = item.get("type", "message")
        if kind in HISTORY:
            continue
        own = _own_turn(kind, item)
        if own is not None:
            open_turn = {}
            turns.append(own)
            continue
        if _ends(open_turn, kind):
            open_turn = {"role": "assistant", "content": ""}
            turns.append(open_turn)
        _extend(open_turn, kind, item)
    return [turn for turn in turns if turn.keys() - {"role", "content", "reasoning"} or turn["content"]]


def _own_turn(kind: str, item: Json) -> Json | None:
    """The turn of an item that is no part of the assistant's."""
    if kind.endswith("_output"):
        return {"role": "tool", "tool_call_id": item["call_id"], "content": _texts(item["output"])}
    if kind == "message" and item["role"] != "assistant":
        return {"role": item["role"], "content": _texts(item["content"])}
    return None


def _ends(turn: Json, kind: str) -> bool:
    """Whether an item of *kind* begins another turn of the assistant."""
    if not turn or kind == "reasoning":
        return True
    return kind == "message" and bool(turn["content"] or "tool_calls" in turn)


def _extend(turn: Json, kind: str, item: Json) -> None:
    if kind == "reasoning":
        turn["reasoning"] = "".join(part["text"] for part in item.get("content") or ())
    elif kind == "message":
        turn["content"] = _texts(item["content"])
    else:
        turn.setdefault("tool_calls", []).append(_call_of(item))


def _texts(content: str | list[Json]) -> str | list[Json]:
    return content if isinstance(content, str) else [text_part(part) for part in content]


def _call_of(item: Json) -> Json:
    arguments = item["arguments"] if item["type"] == "function_call" else dumped({INPUT: item["input"]})
    name = known_as(item["name"], item.get("namespace"))
    return ToolCall(id=item["call_id"], name=name, arguments=arguments).as_openai()


def _tools_of(body: Json) -> Tools:
    tools = Tools()
    for at, given in enumerate(body.get("tools") or ()):
        if given["type"] in SERVER_TOOLS:
            tools.leave(f"tools[{at}]", given["type"])
        elif given["type"] == "namespace":
            for one in given["tools"]:
                _offer(tools, one, f"tools[{at}]", given["name"])
        else:
            _offer(tools, given, f"tools[{at}]")
    return tools


def _offer(tools: Tools, given: Json, place: str, namespace: str | None = None) -> None:
    if given["type"] == "custom":
        tools.custom(given, namespace=namespace)
    else:
        tools.function(given, place, "parameters", namespace=namespace)


def _choice_of(tools: Tools, choice: Any) -> str | None:
    if not isinstance(choice, dict):
        return tools.chosen(choice)
    if choice["type"] != "allowed_tools":
        return tools.chosen(choice["name"])
    tools.allow(each.get("name") or "" for each in choice["tools"] if each.get("type") not in SERVER_TOOLS)
    return tools.chosen(choice["mode"])


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
        "store": answering.asked.store,
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
        **tier_field(answering.asked.body, generation),
        **details_field(answering, generation),
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
    known = answering.asked.names.get(call.name) or ToolName(call.name)
    namespace = {} if known.namespace is None else {"namespace": known.namespace}
    head = {"call_id": call.id, "name": known.name, "status": status} | namespace
    if known.custom:
        id_ = f"ctc_{answering.request_id}_{at}"
        return {"id": id_, "type": "custom_tool_call", "input": _input_of(call.arguments)} | head
    return {"id": f"fc_{answering.request_id}_{at}", "type": "function_call", "arguments": call.arguments} | head


def _input_of(arguments: str) -> str:
    """The input of a custom tool: the text in its arguments, or what there is, where the answer was cut."""
    return str((parsed_arguments(arguments) or {}).get(INPUT, arguments))


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_prompt_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }

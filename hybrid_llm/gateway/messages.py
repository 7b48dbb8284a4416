"""Anthropic's Messages: reads requests, writes answers whole and as events in their order, and counts tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from hybrid_llm.core.generation import Chunk, FinishReason, Generation, Usage
from hybrid_llm.core.tools import Tool, ToolCall, parsed_arguments
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
from hybrid_llm.gateway.chat import schema_of_format
from hybrid_llm.gateway.extensions import details_field
from hybrid_llm.router.failures import Failure

_READ: Final = frozenset(
    {"model", "messages", "system", "max_tokens", "stop_sequences", "stream", "temperature", "top_k", "top_p"}
    | {"tools", "tool_choice", "output_config", "metadata", "hybrid"}
)
_IGNORED: Final = frozenset(
    {"service_tier", "thinking", "cache_control", "inference_geo", "speed", "user_profile_id", "workspace_id"}
    | {"diagnostics", "context_management"}
)
_NEUTRAL: Final[Mapping[str, Any]] = {"container": None, "mcp_servers": []}
_STOP_REASONS: Final[Mapping[FinishReason, str]] = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.REPETITION: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
}


class Messages:
    """`POST /v1/messages`."""

    answers_refused: Final = True

    def read(self, body: Json) -> Asked:
        """The request of *body*; raises `Failure`."""
        if body.get("max_tokens") is None:
            raise Failure(400, "missing_required_parameter", "max_tokens: Field required", param="max_tokens")
        return self.read_prompt(body)

    def read_prompt(self, body: Json) -> Asked:
        """The request of *body* without a limit of its answer, as tokens are counted; raises `Failure`."""
        check_fields(body, read=_READ, ignored=_IGNORED, neutral=_NEUTRAL)
        choice = typed(body, "tool_choice", dict, "an object") or {}
        tools = [_tool_of(given, at) for at, given in enumerate(typed(body, "tools", list, "a list of tools") or [])]
        format_ = (typed(body, "output_config", dict, "an object") or {}).get("format")
        return Asked(
            model=model_of(body),
            prompt=[*_system(body.get("system")), *_turns(typed(body, "messages", list, "a list of messages"))],
            options={name: body.get(name) for name in ("max_tokens", "temperature", "top_k", "top_p")}
            | {
                "stop": body.get("stop_sequences") or None,
                "output_schema": schema_of_format(format_, format_, "output_config.format") if format_ else None,
                "tools": tools or None,
                "tool_choice": _choice_of(choice) if tools else None,
                "parallel_tool_calls": False if choice.get("disable_parallel_tool_use") else None,
            },
            stream=bool(typed(body, "stream", bool, "true or false")),
            body=body,
        )

    def whole(self, answering: Answering, generation: Generation) -> Json:
        """A `message`."""
        return _message(answering) | {
            "content": list(_blocks(generation)),
            "stop_reason": _STOP_REASONS[generation.finish_reason],
            "usage": _usage(generation.usage),
            **details_field(generation, asked=answering.details),
        }

    def refused(self, answering: Answering, failure: Failure) -> Json:
        """A `message` without content that was stopped by a refusal."""
        return _message(answering) | {"usage": _usage(Usage()), **_refusal(failure)}

    def writer(self, answering: Answering) -> MessageWriter:
        """Writes the events of a `message`."""
        return MessageWriter(answering)

    def failure(self, failure: Failure) -> Json:
        """An `error`."""
        return failure.as_anthropic()


class MessageWriter:
    """Writes the events of one answer: each block is started, filled and stopped before the next one."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._index = -1
        self._kind = ""

    def begin(self) -> Iterator[bytes]:
        """The message, empty; how long the prompt was is known at the end."""
        yield _event("message_start", message=_message(self._answering) | {"usage": _usage(Usage())})
        yield _event("ping")

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The deltas of reasoning, text and calls."""
        if chunk.reasoning:
            yield from self._opened("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": chunk.reasoning})
        if chunk.text:
            yield from self._opened("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": chunk.text})
        for delta in chunk.tool_calls:
            if delta.name:
                yield from self._closed()
                yield from self._opened("tool_use", _tool_use(delta.id, delta.name, {}))
            if delta.arguments:
                yield self._delta({"type": "input_json_delta", "partial_json": delta.arguments})

    def end(self, generation: Generation) -> Iterator[bytes]:
        """The reason of the end, and the usage."""
        yield from self._closed()
        delta = {"stop_reason": _STOP_REASONS[generation.finish_reason], "stop_sequence": None}
        details = details_field(generation, asked=self._answering.details)
        yield _event("message_delta", delta=delta, usage=_usage(generation.usage), **details)
        yield _event("message_stop")

    def fail(self, failure: Failure) -> Iterator[bytes]:
        """An error in place of the rest."""
        yield event(dumped(failure.as_anthropic()), "error")

    def refuse(self, failure: Failure) -> Iterator[bytes]:
        """The end by a refusal."""
        yield from self._closed()
        yield _event("message_delta", delta={"stop_sequence": None, **_refusal(failure)}, usage=_usage(Usage()))
        yield _event("message_stop")

    def _opened(self, kind: str, block: Json) -> Iterator[bytes]:
        """Start *block*, unless one of its kind is open."""
        if self._kind != kind:
            yield from self._closed()
            self._kind = kind
            self._index += 1
            yield _event("content_block_start", index=self._index, content_block=block)

    def _closed(self) -> Iterator[bytes]:
        if self._kind:
            self._kind = ""
            yield _event("content_block_stop", index=self._index)

    def _delta(self, delta: Json) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _refusal(failure: Failure) -> Json:
    details = {"type": "refusal", "category": None, "explanation": failure.message}
    return {"stop_reason": "refusal", "stop_details": details}


def _event(name: str, **fields: Any) -> bytes:
    return event(dumped({"type": name, **fields}), name)


def _system(given: Any) -> Iterator[Json]:
    if given:
        yield {"role": "system", "content": given if isinstance(given, str) else _texts(given, "system")}


def _turns(messages: Any) -> Iterator[Json]:
    if not messages:
        raise Failure(400, "missing_required_parameter", "messages: at least one message is required", "messages")
    for at, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise Failure(400, "invalid_type", f"messages[{at}]: the role is user or assistant", "messages")
        content = message.get("content")
        if isinstance(content, str):
            yield {"role": message["role"], "content": content}
        elif message["role"] == "user":
            yield from _user_turns(content, f"messages[{at}].content")
        else:
            yield _assistant_turn(content, f"messages[{at}].content")
    if messages[-1]["role"] == "assistant":
        raise refuse("messages", "a conversation ends with a message of the user: no prefill of the answer is taken")


def _user_turns(blocks: Any, place: str) -> Iterator[Json]:
    """Results of tools, each as a turn of its own, then what the user says."""
    texts = []
    for block in _listed(blocks, place):
        if block.get("type") == "tool_result":
            content = block.get("content") or ""
            text = content if isinstance(content, str) else _texts(content, f"{place}.content")
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
        else:
            texts.append(block)
    if texts:
        yield {"role": "user", "content": _texts(texts, place)}


def _assistant_turn(blocks: Any, place: str) -> Json:
    listed = _listed(blocks, place)
    calls = [_call_of(block) for block in listed if block.get("type") == "tool_use"]
    texts = [block for block in listed if block.get("type") not in ("tool_use", "thinking", "redacted_thinking")]
    thoughts = "".join(str(block.get("thinking", "")) for block in listed if block.get("type") == "thinking")
    turn: Json = {"role": "assistant", "content": _texts(texts, place) if texts else ""}
    return turn | ({"tool_calls": calls} if calls else {}) | ({"reasoning": thoughts} if thoughts else {})


def _call_of(block: Json) -> Json:
    function = {"name": block.get("name"), "arguments": dumped(block.get("input") or {})}
    return {"id": block.get("id"), "type": "function", "function": function}


def _listed(blocks: Any, place: str) -> list[Json]:
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise Failure(400, "invalid_type", f"{place}: a text, or a list of blocks", "messages")
    return blocks


def _texts(blocks: Any, place: str) -> list[Json]:
    """The blocks that are texts, without what caches of prompts read; another kind is refused by name."""
    for block in _listed(blocks, place):
        if block.get("type") != "text":
            raise refuse("messages", f"{place} has a block of the type {str(block.get('type'))[:64]!r}")
    return [{"type": "text", "text": block.get("text")} for block in blocks]


def _tool_of(given: Any, at: int) -> Tool:
    if isinstance(given, dict) and given.get("type", "custom") != "custom":
        raise refuse("tools", f"tools[{at}]: tools of the type 'custom' are supported")
    return tool_of(given, f"tools[{at}]", "input_schema")


def _choice_of(choice: Json) -> str | None:
    kind = choice.get("type")
    return str(choice.get("name")) if kind == "tool" else kind  # `auto`, `any` and `none` mean the same for us


def _message(answering: Answering) -> Json:
    return {
        "id": f"msg_{answering.request_id}",
        "type": "message",
        "role": "assistant",
        "model": answering.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _blocks(generation: Generation) -> Iterator[Json]:
    if generation.reasoning:
        yield {"type": "thinking", "thinking": generation.reasoning, "signature": ""}
    if generation.text:
        yield {"type": "text", "text": generation.text}
    for call in generation.tool_calls:
        yield _tool_use(call.id, call.name, _values(call))


def _values(call: ToolCall) -> Json:
    return parsed_arguments(call.arguments) or {}


def _tool_use(id_: str, name: str, values: Json) -> Json:
    return {"type": "tool_use", "id": id_, "name": name, "input": values}


def _usage(usage: Usage) -> Json:
    """Tokens: those that were read from a cache are counted apart from `input_tokens`."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_prompt_tokens,
        "output_tokens": usage.completion_tokens,
    }

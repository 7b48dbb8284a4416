"""Anthropic's Messages: reads requests, writes answers whole and as events in their order, and counts tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from hybrid_llm.core.generation import Chunk, FinishReason, Generation, Usage
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.tools import ToolCall, parsed_arguments
from hybrid_llm.gateway.asked import Answering, Asked, dumped, event
from hybrid_llm.gateway.extensions import details_field
from hybrid_llm.gateway.tables.messages import MESSAGES
from hybrid_llm.gateway.tools import Tools, schema_of_format
from hybrid_llm.router.failures import Failure

_STOP_REASONS: Final[Mapping[FinishReason, str]] = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.REPETITION: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
}


class Messages:
    """`POST /v1/messages`."""

    table: ClassVar = MESSAGES
    answers_refused: Final = True

    def read(self, body: Json) -> Asked:
        """The request of *body*; raises `Failure`."""
        MESSAGES.check(body)
        return self._read(body)

    def read_prompt(self, body: Json) -> Asked:
        """The request of *body* without a limit of its answer, as tokens are counted; raises `Failure`."""
        MESSAGES.check(body, optional="max_tokens")
        return self._read(body)

    @staticmethod
    def _read(body: Json) -> Asked:
        choice = body.get("tool_choice") or {}
        tools = _tools_of(body)
        format_ = (body.get("output_config") or {}).get("format")
        return Asked(
            model=body["model"],
            prompt=[*_system(body.get("system")), *_turns(body["messages"])],
            options={name: body.get(name) for name in ("max_tokens", "temperature", "top_k", "top_p")}
            | {
                "stop": body.get("stop_sequences") or None,
                "output_schema": schema_of_format(format_, format_.get("schema")) if format_ else None,
                "tools": tools.offered or None,
                "tool_choice": tools.chosen(_choice_of(choice)),
                "parallel_tool_calls": False if choice.get("disable_parallel_tool_use") else None,
            },
            stream=bool(body.get("stream")),
            warnings=tuple(tools.warnings),
            body=body,
        )

    def whole(self, answering: Answering, generation: Generation) -> Json:
        """A `message`."""
        return _message(answering) | {
            "content": list(_blocks(generation)),
            "stop_reason": _STOP_REASONS[generation.finish_reason],
            "usage": _usage(generation.usage),
            **details_field(answering, generation),
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
        details = details_field(self._answering, generation)
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
        yield {"role": "system", "content": _texts(given)}


def _turns(messages: list[Json]) -> Iterator[Json]:
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            yield {"role": message["role"], "content": content}
        elif message["role"] == "assistant":
            yield _assistant_turn(content)
        else:
            yield from _user_turns(message["role"], content)
    if messages[-1]["role"] == "assistant":
        text = "messages: a conversation ends with a message of the user: no prefill of the answer is taken"
        raise Failure(400, "unsupported_value", text, "messages")


def _user_turns(role: str, blocks: list[Json]) -> Iterator[Json]:
    """Results of tools, each as a turn of its own, then what the user says."""
    for block in blocks:
        if block["type"] == "tool_result":
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": _texts(block.get("content") or "")}
    texts = [block for block in blocks if block["type"] == "text"]
    if texts:
        yield {"role": role, "content": _texts(texts)}


def _assistant_turn(blocks: list[Json]) -> Json:
    calls = [_call_of(block) for block in blocks if block["type"] == "tool_use"]
    texts = [block for block in blocks if block["type"] == "text"]
    thoughts = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    turn: Json = {"role": "assistant", "content": _texts(texts) if texts else ""}
    return turn | ({"tool_calls": calls} if calls else {}) | ({"reasoning": thoughts} if thoughts else {})


def _call_of(block: Json) -> Json:
    return ToolCall(id=block["id"], name=block["name"], arguments=dumped(block["input"])).as_openai()


def _texts(content: str | list[Json]) -> str | list[Json]:
    """A text, or blocks that are texts, without what caches of prompts read."""
    return content if isinstance(content, str) else [{"type": "text", "text": block["text"]} for block in content]


def _tools_of(body: Json) -> Tools:
    tools = Tools()
    for at, given in enumerate(body.get("tools") or ()):
        kind = given.get("type") or "custom"
        if kind == "custom":
            tools.function(given, f"tools[{at}]", "input_schema")
        else:
            tools.leave(f"tools[{at}]", kind)
    return tools


def _choice_of(choice: Json) -> str | None:
    """The choice in the library's words."""
    kind = choice.get("type")
    return str(choice["name"]) if kind == "tool" else "required" if kind == "any" else kind


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
        yield _tool_use(call.id, call.name, parsed_arguments(call.arguments) or {})


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

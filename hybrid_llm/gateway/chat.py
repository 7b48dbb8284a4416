"""OpenAI's Chat Completions: reads requests, writes answers whole and as server-sent events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from hybrid_llm.core import limits
from hybrid_llm.core.generation import Chunk, FinishReason, Generation, Usage
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.core.tools import ToolCallDelta
from hybrid_llm.gateway.asked import Answering, Asked, dumped, event
from hybrid_llm.gateway.extensions import details_field
from hybrid_llm.gateway.tables.chat import CHAT
from hybrid_llm.gateway.tiers import tier_field
from hybrid_llm.gateway.tools import Tools, schema_of_format
from hybrid_llm.router.failures import Failure

SAMPLING: Final = (*limits.SAMPLING, "stop")
"""Options under our own names; some are not OpenAI's, but vLLM and others take them under these names too."""
_TURN: Final = ("role", "content", "tool_calls", "tool_call_id", "reasoning_content", "reasoning")
_OF_ASSISTANTS: Final = frozenset({"tool_calls", "reasoning_content", "reasoning"})
_PARAMS: Final = {"prompt": "messages", "max_tokens": "max_completion_tokens", "output_schema": "response_format"}
CONTENT_FILTER: Final = "content_filter"
"""Why an answer ended that a guardrail refuses."""
DONE: Final = b"data: [DONE]\n\n"


class ChatCompletions:
    """`POST /v1/chat/completions`."""

    table: ClassVar = CHAT
    answers_refused: Final = False

    def read(self, body: Json) -> Asked:
        """The request of *body*; raises `Failure`."""
        CHAT.check(body)
        tools = Tools()
        for at, given in enumerate(body.get("tools") or ()):
            tools.function(given["function"], f"tools[{at}].function", "parameters")
        choice = _choice_of(tools, body.get("tool_choice"))
        stream = bool(body.get("stream"))
        wanted = body.get("response_format")
        options = {name: body.get(name) for name in SAMPLING} | {
            "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens"),
            "output_schema": schema_of_format(wanted, wanted.get("json_schema", {}).get("schema")) if wanted else None,
            "tools": tools.offered or None,
            "tool_choice": choice,
            "parallel_tool_calls": body.get("parallel_tool_calls"),
            "logprobs": _logprobs_of(body),
        }
        return Asked(
            model=body["model"],
            prompt=[_message_of(message) for message in body["messages"]],
            options=options,
            stream=stream,
            with_usage=stream and wants_usage(body),
            warnings=tuple(tools.warnings),
            body=body,
        )

    def whole(self, answering: Answering, generation: Generation) -> Json:
        """A `chat.completion`."""
        choice = {
            "index": 0,
            "message": _message(generation),
            "logprobs": _logprobs(generation.logprobs) if answering.asked.body.get("logprobs") else None,
            "finish_reason": finish_reason(generation.finish_reason),
        }
        details = tier_field(answering.asked.body, generation) | details_field(answering, generation)
        return head(answering, "chat.completion") | {"choices": [choice], "usage": usage_of(generation.usage)} | details

    def refused(self, answering: Answering, failure: Failure) -> Json:
        """A `chat.completion` with the reason `content_filter`."""
        message = {"role": "assistant", "content": None, "refusal": failure.message}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": CONTENT_FILTER}
        return head(answering, "chat.completion") | {"choices": [choice], "usage": usage_of(Usage())}

    def writer(self, answering: Answering) -> ChatWriter:
        """Writes `chat.completion.chunk` events."""
        return ChatWriter(answering)

    def failure(self, failure: Failure) -> Json:
        """An `error`."""
        return replace(failure, param=_PARAMS.get(failure.param or "", failure.param)).as_openai()


class ChatWriter:
    """Writes the events of one answer. Most hold one token, so their frame is made once."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._with_usage = answering.asked.with_usage
        self._head = head(answering, "chat.completion.chunk") | ({"usage": None} if self._with_usage else {})
        self._frame = f'{dumped(self._head)[:-1]},"choices":[{{"index":0,"delta":'

    def begin(self) -> Iterator[bytes]:
        """The role."""
        yield self._event({"role": "assistant", "content": ""})

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """A delta; the reason of the end comes with the whole answer."""
        delta: Json = {}
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.tool_calls:
            delta["tool_calls"] = [_call_delta(each) for each in chunk.tool_calls]
        if delta:
            yield self._event(delta, chunk.logprobs)

    def end(self, generation: Generation) -> Iterator[bytes]:
        """The reason of the end; then the usage, if the client wants it."""
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish_reason(generation.finish_reason)}
        body = self._answering.asked.body
        details = tier_field(body, generation) | details_field(self._answering, generation)
        yield event(dumped(self._head | {"choices": [last]} | details))
        if self._with_usage:
            yield event(dumped(self._head | {"choices": [], "usage": usage_of(generation.usage)}))
        yield DONE

    def fail(self, failure: Failure) -> Iterator[bytes]:
        """An error in place of the rest: the official client raises it."""
        yield event(dumped(failure.as_openai()))

    def refuse(self, failure: Failure) -> Iterator[bytes]:
        """The reason `content_filter`."""
        delta = {"refusal": failure.message}
        last = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": CONTENT_FILTER}
        yield event(dumped(self._head | {"choices": [last]}))
        yield DONE

    def _event(self, delta: Json, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        listed = dumped(_logprobs(logprobs)) if logprobs else "null"
        return event(f'{self._frame}{dumped(delta)},"logprobs":{listed},"finish_reason":null}}]}}')


def wants_usage(body: Json) -> bool:
    """What `stream_options` says of the usage of a stream."""
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _message_of(message: Json) -> Json:
    """A turn, without the fields that hold nothing for a model."""
    turn = {name: message[name] for name in _TURN if message.get(name) is not None}
    if isinstance(turn.get("content"), list):
        turn["content"] = [text_part(part) for part in turn["content"]]
    if message["role"] == "assistant":
        if not turn.get("content"):
            turn["content"] = message.get("refusal") or ""
    else:
        turn = {name: value for name, value in turn.items() if name not in _OF_ASSISTANTS}
    return turn


def text_part(part: Json) -> Json:
    """A part of a message, which is text; a refusal is what the assistant said."""
    return {"type": "text", "text": part["refusal"] if part["type"] == "refusal" else part["text"]}


def _choice_of(tools: Tools, choice: Any) -> str | None:
    if not isinstance(choice, dict):
        return tools.chosen(choice)
    if choice["type"] == "function":
        return tools.chosen(choice["function"]["name"])
    allowed = choice["allowed_tools"]
    tools.allow(_named(each) for each in allowed["tools"])
    return tools.chosen(allowed["mode"])


def _named(tool: Json) -> str:
    """The name in a tool that is allowed; empty where it has none."""
    return str((tool.get("function") or tool).get("name") or "")


def _logprobs_of(body: Json) -> int | None:
    count: int = body.get("top_logprobs") or 0
    if body.get("logprobs"):
        return count
    if count:
        raise Failure(400, "invalid_value", "top_logprobs: it needs logprobs to be true", param="top_logprobs")
    return None


def head(answering: Answering, kind: str, prefix: str = "chatcmpl") -> Json:
    """What documents of an answer and of its pieces begin with."""
    return {
        "id": f"{prefix}-{answering.request_id}",
        "object": kind,
        "created": answering.created,
        "model": answering.model,
    }


def _message(generation: Generation) -> Json:
    message: Json = {"role": "assistant", "content": generation.text, "refusal": None}
    if generation.reasoning:
        message["reasoning_content"] = generation.reasoning
    if generation.tool_calls:
        message["content"] = generation.text or None
        message["tool_calls"] = [call.as_openai() for call in generation.tool_calls]
    return message


def _call_delta(delta: ToolCallDelta) -> Json:
    if not delta.name:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    function = {"name": delta.name, "arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def finish_reason(reason: FinishReason) -> str:
    """The API's word: it has none for an answer that was ended since it repeated itself, which is not whole either."""
    return "length" if reason is FinishReason.REPETITION else str(reason)


def usage_of(usage: Usage) -> Json:
    """A `CompletionUsage`."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_prompt_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": usage.accepted_prediction_tokens,
            "rejected_prediction_tokens": usage.rejected_prediction_tokens,
        },
    }


def _logprobs(entries: Sequence[TokenLogprob]) -> Json:
    return {"content": [_logprob(entry) | {"top_logprobs": [_logprob(one) for one in entry.top]} for entry in entries]}


def _logprob(entry: TokenLogprob | Alternative) -> Json:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.bytes)}

"""OpenAI's Chat Completions: reads requests, writes answers whole and as server-sent events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from hybrid_llm.core.generation import Chunk, FinishReason, Generation, Usage
from hybrid_llm.core.logprobs import Alternative, TokenLogprob
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
    wants_usage,
)
from hybrid_llm.gateway.extensions import details_field
from hybrid_llm.router.failures import Failure

SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")
"""Options under our own names; the API lacks the third to fifth, which vLLM and others take under these names too."""
_READ: Final = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "tools", "tool_choice"}
    | {"parallel_tool_calls", "response_format", "logprobs", "top_logprobs", "metadata", "prompt_cache_key", "hybrid"}
    | set(SAMPLING)
)
_IGNORED: Final = frozenset(
    {"user", "safety_identifier", "service_tier", "store", "reasoning_effort", "verbosity", "prediction"}
    | {"prompt_cache_options", "prompt_cache_retention"}
)
_NEUTRAL: Final[Mapping[str, Any]] = {
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "modalities": ["text"],
    "audio": None,
    "moderation": None,
    "web_search_options": None,
    "functions": [],
    "function_call": "none",
}
_DROPPED: Final = frozenset({"annotations", "refusal", "audio", "function_call", "name"})
"""Fields of a message that hold nothing for a model: what the official client's records dump beside the texts."""
_PARAMS: Final = {"prompt": "messages", "max_tokens": "max_completion_tokens", "output_schema": "response_format"}
_MOST_LOGPROBS: Final = 20
CONTENT_FILTER: Final = "content_filter"
"""Why an answer ended that a guardrail refuses."""
DONE: Final = b"data: [DONE]\n\n"


class ChatCompletions:
    """`POST /v1/chat/completions`."""

    answers_refused: Final = False

    def read(self, body: Json) -> Asked:
        """The request of *body*; raises `Failure`."""
        check_fields(body, read=_READ, ignored=_IGNORED, neutral=_NEUTRAL)
        tools, choice = tools_of(body)
        stream = bool(typed(body, "stream", bool, "true or false"))
        options = {name: body.get(name) for name in SAMPLING} | {
            "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens"),
            "output_schema": _schema_of(body),
            "tools": tools or None,
            "tool_choice": choice if tools else None,
            "parallel_tool_calls": body.get("parallel_tool_calls"),
        }
        if (logprobs := _logprobs_of(body)) is not None:
            options["logprobs"] = logprobs
        return Asked(
            model=model_of(body),
            prompt=messages_of(body),
            options=options,
            stream=stream,
            with_usage=stream and wants_usage(body),
            body=body,
        )

    def whole(self, answering: Answering, generation: Generation) -> Json:
        """A `chat.completion`."""
        choice = {
            "index": 0,
            "message": _message(generation),
            "logprobs": _logprobs(generation.logprobs) if "logprobs" in answering.asked.options else None,
            "finish_reason": finish_reason(generation.finish_reason),
        }
        details = details_field(generation, asked=answering.details)
        head = _head(answering, "chat.completion")
        return head | {"choices": [choice], "usage": usage_of(generation.usage)} | details

    def refused(self, answering: Answering, failure: Failure) -> Json:
        """A `chat.completion` with the reason `content_filter`."""
        message = {"role": "assistant", "content": None, "refusal": failure.message}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": CONTENT_FILTER}
        return _head(answering, "chat.completion") | {"choices": [choice], "usage": usage_of(Usage())}

    def writer(self, answering: Answering) -> ChatWriter:
        """Writes `chat.completion.chunk` events."""
        return ChatWriter(answering)

    def failure(self, failure: Failure) -> Json:
        """An `error`."""
        return replace(failure, param=_PARAMS.get(failure.param or "", failure.param)).as_openai()


class ChatWriter:
    """Writes the events of one answer. Most hold one token, so their frame is made once."""

    def __init__(self, answering: Answering) -> None:
        self._details = answering.details
        self._with_usage = answering.asked.with_usage
        head = _head(answering, "chat.completion.chunk") | ({"usage": None} if self._with_usage else {})
        self._head = head
        self._frame = f'{dumped(head)[:-1]},"choices":[{{"index":0,"delta":'

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
        details = details_field(generation, asked=self._details)
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


def messages_of(body: Json) -> list[Json]:
    """The conversation, without the fields that hold nothing for a model."""
    messages = typed(body, "messages", list, "a list of messages")
    if not messages:
        raise Failure(400, "missing_required_parameter", "messages: it is missing or empty", param="messages")
    return [_message_of(message, at) for at, message in enumerate(messages)]


def _message_of(message: Any, at: int) -> Json:
    if not isinstance(message, dict):
        raise Failure(400, "invalid_type", f"messages[{at}]: it must be an object", param="messages")
    if message.get("function_call"):
        raise refuse("messages", f"messages[{at}].function_call: use tool_calls")
    kept = {name: value for name, value in message.items() if value is not None and name not in _DROPPED}
    if message.get("refusal") and not kept.get("content"):
        kept["content"] = message["refusal"]
    return kept


def tools_of(body: Json) -> tuple[list[Tool], Any]:
    """The tools, and the choice of them as `generate` takes it."""
    listed = typed(body, "tools", list, "a list of tools") or []
    tools = [_function(given, f"tools[{at}]") for at, given in enumerate(listed)]
    tools, choice = allowed_of(tools, body.get("tool_choice"))
    return tools, _named(choice) if isinstance(choice, dict) else choice


def allowed_of(tools: list[Tool], choice: Any) -> tuple[list[Tool], Any]:
    """*tools* and *choice*, or those and what it chooses of them where it is of the type `allowed_tools`."""
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return tools, choice
    allowed = choice.get("allowed_tools", choice)
    names = {_named(each) for each in allowed.get("tools", ())}
    return [tool for tool in tools if tool.name in names], allowed.get("mode", "auto")


def _function(given: Any, place: str) -> Tool:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind != "function":
        raise refuse("tools", f"{place}: tools of the type 'function' are supported")
    return tool_of(given.get("function"), f"{place}.function", "parameters")


def _named(choice: Any) -> str:
    """The name of a tool in a choice, in either of OpenAI's APIs."""
    function = choice.get("function", choice) if isinstance(choice, dict) else {}
    return str(function.get("name", "")) if isinstance(function, dict) else ""


def _schema_of(body: Json) -> Json | None:
    wanted = typed(body, "response_format", dict, "an object")
    return None if wanted is None else schema_of_format(wanted, wanted.get("json_schema"), "response_format")


def schema_of_format(wanted: Json, described: Any, param: str) -> Json | None:
    """The JSON Schema that a format of the answer asks for; *described* is what holds its `schema`."""
    match wanted.get("type"):
        case "text":
            return None
        case "json_object":
            return {"type": "object"}
        case "json_schema" if isinstance(described, dict) and isinstance(described.get("schema"), dict):
            schema: Json = described["schema"]
            return schema
    raise Failure(400, "invalid_value", f"{param}: a type of text, json_object, or json_schema with its schema", param)


def _logprobs_of(body: Json) -> int | None:
    count = typed(body, "top_logprobs", int, f"a number from 0 to {_MOST_LOGPROBS}")
    if not typed(body, "logprobs", bool, "true or false"):
        if count:
            raise Failure(400, "invalid_value", "top_logprobs: it needs logprobs to be true", param="top_logprobs")
        return None
    return count or 0


def _head(answering: Answering, kind: str) -> Json:
    return {
        "id": f"chatcmpl-{answering.request_id}",
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
        message["tool_calls"] = [_call(call) for call in generation.tool_calls]
    return message


def _call(call: ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


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

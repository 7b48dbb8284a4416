"""The operations of a gateway: the routes are made of this table, and the OpenAPI document at `/openapi.json` too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hybrid_llm.core.jsonable import Json
from hybrid_llm.gateway.parameters import Table
from hybrid_llm.gateway.shapes import FLAG, OBJECT, TEXT, Schema, list_of, or_null, record, words
from hybrid_llm.gateway.tables.chat import CHAT
from hybrid_llm.gateway.tables.completions import COMPLETIONS
from hybrid_llm.gateway.tables.messages import MESSAGES
from hybrid_llm.gateway.tables.responses import RESPONSES
from hybrid_llm.router.failures import STATUSES

_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_TIME: Final[Schema] = {"type": "integer", "description": "Seconds since 1970."}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    answer: Schema
    """What a successful answer is."""
    request: Table | None = None
    optional: str = ""
    """A field of the request that may be absent here, though the table requires it."""
    streams: bool = False
    """Whether `"stream": true` asks for server-sent events instead."""
    instances: bool = False
    """Whether one body may hold several requests, whose answers are `predictions`."""
    open: bool = False
    """Whether it needs no key."""
    anthropic: bool = False
    """Whether errors have the form of Anthropic's API."""
    media: str = _JSON


def _tagged(kind: str, properties: Mapping[str, Schema], **optional: Schema) -> Schema:
    return record({"id": TEXT, "object": {"const": kind}, **properties}, **optional)


_USAGE: Final = record({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT})
_REASON: Final = words("stop", "length", "tool_calls", "content_filter")
_ANSWER: Final = record(
    {"role": {"const": "assistant"}, "content": or_null(TEXT)}, tool_calls=list_of(OBJECT), reasoning_content=TEXT
)
_CHOICE: Final = record({"index": _COUNT, "message": _ANSWER, "finish_reason": _REASON}, logprobs=OBJECT)
_TEXT_CHOICE: Final = record({"index": _COUNT, "text": TEXT, "finish_reason": _REASON})
_HEAD: Final = {"created": _TIME, "model": TEXT}
_MODEL: Final = _tagged("model", {"created": _TIME, "owned_by": TEXT}, parent=TEXT)
_CHAT: Final = _tagged("chat.completion", {**_HEAD, "choices": list_of(_CHOICE), "usage": _USAGE}, hybrid=OBJECT)
_TEXT: Final = _tagged("text_completion", {**_HEAD, "choices": list_of(_TEXT_CHOICE), "usage": _USAGE})
_MODELS: Final = record({"object": {"const": "list"}, "data": list_of(_MODEL), "has_more": FLAG})
_HEALTH: Final = record({"status": words("ok", "draining")})
_RESPONSE: Final = _tagged(
    "response",
    {
        "created_at": _TIME,
        "status": words("completed", "incomplete"),
        "model": TEXT,
        "output": list_of(record({"type": TEXT, "id": TEXT})),
        "usage": record({"input_tokens": _COUNT, "output_tokens": _COUNT, "total_tokens": _COUNT}),
    },
)
_MESSAGE: Final = record(
    {
        "id": TEXT,
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "model": TEXT,
        "content": list_of(record({"type": words("text", "thinking", "tool_use")})),
        "stop_reason": words("end_turn", "max_tokens", "tool_use", "refusal"),
        "usage": record({"input_tokens": _COUNT, "output_tokens": _COUNT}),
    }
)
_EVENT: Final[Schema] = {"type": "object", "properties": {"event": TEXT, "data": TEXT}, "required": ["data"]}
OPENAI_ERROR: Final = record({"error": record({"message": TEXT, "type": TEXT}, param=TEXT, code=TEXT)})
ANTHROPIC_ERROR: Final = record({"type": {"const": "error"}, "error": record({"type": TEXT, "message": TEXT})})
INSTANCES: Final = record({"instances": list_of(OBJECT, minItems=1, maxItems=128)}, parameters=OBJECT) | {
    "additionalProperties": False
}
"""Several requests in one body, as Vertex AI sends them, and what all of them share."""
_PREDICTIONS: Final = record({"predictions": list_of(_CHAT)})

OPERATIONS: Final[Mapping[str, Operation]] = {
    "chat": Operation(
        "POST", CHAT.path, "Answer a conversation: OpenAI's Chat Completions.", _CHAT, CHAT, streams=True
    ),
    "completions": Operation(
        "POST", COMPLETIONS.path, "Answer a text: OpenAI's Completions.", _TEXT, COMPLETIONS, streams=True
    ),
    "responses": Operation(
        "POST", RESPONSES.path, "Answer items: OpenAI's Responses.", _RESPONSE, RESPONSES, streams=True
    ),
    "input_tokens": Operation(
        *("POST", "/v1/responses/input_tokens", "Count the tokens of items: OpenAI's Responses."),
        record({"object": {"const": "response.input_tokens"}, "input_tokens": _COUNT}),
        RESPONSES,
    ),
    "response": Operation("GET", "/v1/responses/{id}", "An answer that is stored, as it was sent.", _RESPONSE),
    "delete_response": Operation(
        "DELETE", "/v1/responses/{id}", "Drop an answer that is stored.", _tagged("response", {"deleted": FLAG})
    ),
    "messages": Operation(
        *("POST", MESSAGES.path, "Answer a conversation: Anthropic's Messages.", _MESSAGE, MESSAGES),
        streams=True,
        anthropic=True,
    ),
    "count_tokens": Operation(
        *("POST", "/v1/messages/count_tokens", "Count the tokens of a conversation: Anthropic's Messages."),
        record({"input_tokens": _COUNT}),
        MESSAGES,
        optional="max_tokens",
        anthropic=True,
    ),
    "models": Operation("GET", "/v1/models", "What `model` may be.", _MODELS),
    "model": Operation("GET", "/v1/models/{id}", "One model.", _MODEL),
    "health": Operation(
        "GET", "/health", "Whether requests are answered: 503 while the gateway is stopping.", _HEALTH, open=True
    ),
    "metrics": Operation("GET", "/metrics", "Metrics for Prometheus.", TEXT, media="text/plain"),
    "openapi": Operation("GET", "/openapi.json", "This document.", OBJECT),
    "managed_health": Operation(
        "GET", "/ping", "With --managed alone: what the platform asks for health.", _HEALTH, open=True
    ),
    "managed_predict": Operation(
        *("POST", "/invocations", "With --managed alone: a request of the platform.", _CHAT, CHAT, "model"),
        streams=True,
        instances=True,
    ),
}
"""Each operation, by the name of what answers it."""


def document(names: Mapping[str, object] | None = None, operations: Mapping[str, Operation] = OPERATIONS) -> Json:
    """The OpenAPI document, version 3.1, of those of *operations* that are among *names*; of all by default."""
    paths: dict[str, Json] = {}
    for name, operation in operations.items():
        if names is None or name in names:
            paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(name, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hybrid-llm gateway",
            "version": "1",
            "description": "OpenAI's and Anthropic's APIs, answered on the device or in the cloud by a policy.",
        },
        "paths": paths,
        "components": {
            "schemas": {"OpenAIError": OPENAI_ERROR, "AnthropicError": ANTHROPIC_ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"x-api-key": []}],
    }


def _operation(name: str, operation: Operation) -> Json:
    described: Json = {"operationId": name, "summary": operation.summary, "responses": _answers(operation)}
    if operation.open:
        described["security"] = []
    if "{id}" in operation.path:
        described["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    if operation.request is not None:
        schema = operation.request.schema()
        schema["required"] = [each for each in schema["required"] if each != operation.optional]
        schema = {"anyOf": [schema, INSTANCES]} if operation.instances else schema
        described["requestBody"] = {"required": True, "content": {_JSON: {"schema": schema}}}
    return described


def _answers(operation: Operation) -> Json:
    answer = {"anyOf": [operation.answer, _PREDICTIONS]} if operation.instances else operation.answer
    content: Json = {operation.media: {"schema": answer}}
    if operation.streams:
        content[_EVENTS] = {"schema": _EVENT}
    error = {"$ref": f"#/components/schemas/{'AnthropicError' if operation.anthropic else 'OpenAIError'}"}
    failed = {"description": "An error.", "content": {_JSON: {"schema": error}}}
    found: Json = {"200": {"description": "The answer.", "content": content}}
    if operation.open:
        return found | {"503": {"description": "The gateway is stopping.", "content": content}}
    return found | {str(status): failed for status in STATUSES if operation.request is not None or status in _OF_ALL}


_OF_ALL: Final = (400, 401, 403, 404, 500, 503)

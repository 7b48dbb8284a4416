"""Fields of OpenAI's Chat Completions."""

from __future__ import annotations

from typing import Final

from hybrid_llm.core.limits import LOGPROBS
from hybrid_llm.gateway.parameters import Kinds, Table, ignored, refused, supported
from hybrid_llm.gateway.shapes import FLAG, NAME, OBJECT, TEXT, any_of, by, list_of, number, record, words
from hybrid_llm.gateway.tables import common

PARTS: Final = Kinds(
    place="messages[].content[].type",
    supported={"text": "", "refusal": "in messages of the assistant"},
    refused=("image_url", "input_audio", "file"),
)
TOOLS: Final = Kinds(place="tools[].type", supported={"function": ""}, refused=("custom",))
CHOICES: Final = Kinds(place="tool_choice.type", supported={"function": "", "allowed_tools": ""}, refused=("custom",))
FORMATS: Final = Kinds(
    place="response_format.type",
    supported={"text": "", "json_object": "any JSON object", "json_schema": "always strict"},
)
CONTENT: Final = any_of(
    TEXT, list_of(by("type", {"text": record({"text": TEXT}), "refusal": record({"refusal": TEXT})}))
)
_NAMED: Final = record({"name": NAME})
_CALL: Final = record({"id": NAME, "function": record({"name": NAME, "arguments": TEXT})})
_SAID: Final = record({"content": CONTENT}, name=TEXT)
MESSAGES: Final = list_of(
    by(
        "role",
        {
            "system": _SAID,
            "developer": _SAID,
            "user": _SAID,
            "assistant": record(
                content=CONTENT,
                refusal=TEXT,
                name=TEXT,
                tool_calls=list_of(by("type", {"function": _CALL}, absent="function")),
                reasoning_content=TEXT,
                reasoning=TEXT,
            ),
            "tool": record({"content": CONTENT, "tool_call_id": NAME}, name=TEXT),
        },
    ),
    minItems=1,
)
_FUNCTION: Final = record({"name": NAME}, description=TEXT, parameters=OBJECT, strict=FLAG)
_CHOSEN: Final = record({"mode": words("auto", "required"), "tools": list_of(record(function=_NAMED, name=NAME))})
_SCHEMA: Final = record({"name": TEXT, "schema": OBJECT}, description=TEXT, strict=FLAG)
CHAT: Final = Table(
    path="/v1/chat/completions",
    title="OpenAI Chat Completions",
    parameters={
        "model": common.MODEL,
        "messages": supported(
            MESSAGES, "roles `system`, `developer`, `user`, `assistant`, `tool`; `reasoning_content`", required=True
        ),
        "stream": common.STREAM,
        "stream_options": common.STREAM_OPTIONS,
        "max_completion_tokens": supported(common.MAX),
        "max_tokens": supported(common.MAX, "`max_completion_tokens` comes first"),
        "temperature": common.TEMPERATURE,
        "top_p": common.TOP_P,
        **common.SAMPLING_OF_VLLM,
        **common.PENALTIES,
        "seed": common.SEED,
        "stop": common.STOP,
        "tools": supported(list_of(by("type", {"function": record({"function": _FUNCTION})}))),
        "tool_choice": supported(
            any_of(
                words("auto", "none", "required"),
                by(
                    "type",
                    {"function": record({"function": _NAMED}), "allowed_tools": record({"allowed_tools": _CHOSEN})},
                ),
            )
        ),
        "parallel_tool_calls": supported(FLAG),
        "response_format": supported(
            by("type", {"text": OBJECT, "json_object": OBJECT, "json_schema": record({"json_schema": _SCHEMA})})
        ),
        "logprobs": supported(FLAG, "where the backend has them"),
        "top_logprobs": supported(number(LOGPROBS), "needs `logprobs`"),
        "metadata": common.METADATA,
        "prompt_cache_key": common.PROMPT_CACHE_KEY,
        "service_tier": common.SERVICE_TIER,
        "hybrid": common.HYBRID,
        "user": ignored(),
        "safety_identifier": ignored(),
        "store": ignored("nothing is stored"),
        "reasoning_effort": ignored("a model reasons as it is made to"),
        "verbosity": ignored(),
        "prediction": ignored("backends predict from the prompt by themselves"),
        **common.CACHES,
        "priority": common.PRIORITY_OF_VLLM,
        "n": refused(1),
        "logit_bias": refused({}, about="ids of tokens belong to one model, and the policy decides which answers"),
        "modalities": refused(["text"], []),
        "audio": refused(),
        "moderation": refused(),
        "web_search_options": refused(),
        "functions": refused([], about="use `tools`"),
        "function_call": refused("none", about="use `tool_choice`"),
    },
    kinds=(PARTS, TOOLS, CHOICES, FORMATS),
)

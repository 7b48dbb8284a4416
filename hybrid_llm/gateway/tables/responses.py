"""Fields of OpenAI's Responses."""

from __future__ import annotations

from typing import Final

from hybrid_llm.gateway.parameters import Kinds, Table, ignored, refused, supported
from hybrid_llm.gateway.shapes import ANYTHING, FLAG, NAME, OBJECT, TEXT, any_of, by, list_of, record, words
from hybrid_llm.gateway.tables import common

SERVER_TOOLS: Final = (
    *("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"),
    *("image_generation", "local_shell", "tool_search"),
)
"""Tools that OpenAI's servers run, and agents offer beside their own."""
HISTORY: Final = ("web_search_call", "image_generation_call", "tool_search_call", "tool_search_output", "compaction")
"""Items of earlier answers that hold nothing for another model."""
ITEMS: Final = Kinds(
    place="input[].type",
    supported={
        "message": "the default",
        "function_call": "",
        "function_call_output": "`output` is a text, or parts that are texts",
        "custom_tool_call": "",
        "custom_tool_call_output": "",
        "reasoning": "its `content`; `encrypted_content` is ignored",
    },
    ignored=dict.fromkeys(HISTORY, "of earlier turns"),
    refused=(
        *("item_reference", "file_search_call", "computer_call", "computer_call_output", "code_interpreter_call"),
        *("local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output", "apply_patch_call"),
        *("apply_patch_call_output", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "mcp_call"),
        *("additional_tools", "configuration_update", "compaction_trigger", "program", "program_output"),
    ),
)
PARTS: Final = Kinds(
    place="input[].content[].type",
    supported={"input_text": "", "output_text": "", "text": "", "refusal": ""},
    refused=("input_image", "input_file"),
)
TOOLS: Final = Kinds(
    place="tools[].type",
    supported={
        "function": "",
        "custom": "its input is any text: a grammar in `format` is shown to the model, and not enforced",
        "namespace": "functions and custom tools under a common name",
    },
    ignored=dict.fromkeys(SERVER_TOOLS, common.NO_BACKEND),
    refused=(
        *("file_search", "computer", "computer_use_preview", "mcp", "code_interpreter"),
        *("programmatic_tool_calling", "shell", "apply_patch"),
    ),
)
CHOICES: Final = Kinds(
    place="tool_choice.type",
    supported={"function": "", "custom": "", "allowed_tools": ""},
    refused=(
        *("file_search", "web_search_preview", "web_search_preview_2025_03_11", "computer", "computer_use_preview"),
        *("computer_use", "image_generation", "code_interpreter", "mcp", "programmatic_tool_calling"),
        *("apply_patch", "shell"),
    ),
)
FORMATS: Final = Kinds(
    place="text.format.type", supported={"text": "", "json_object": "any JSON object", "json_schema": "always strict"}
)
_PART: Final = record({"text": TEXT})
TEXTS: Final = any_of(
    TEXT,
    list_of(
        by(
            "type",
            {**dict.fromkeys(("input_text", "output_text", "text"), _PART), "refusal": record({"refusal": TEXT})},
        )
    ),
)
_THOUGHT: Final = list_of(by("type", {"reasoning_text": _PART, "summary_text": _PART}))
_MESSAGE: Final = record({"role": words("system", "developer", "user", "assistant"), "content": TEXTS})
_OUTPUT: Final = record({"call_id": NAME, "output": TEXTS})
_ITEMS: Final = by(
    "type",
    {
        "message": _MESSAGE,
        "function_call": record({"call_id": NAME, "name": NAME, "arguments": TEXT}, namespace=TEXT),
        "function_call_output": _OUTPUT,
        "custom_tool_call": record({"call_id": NAME, "name": NAME, "input": TEXT}, namespace=TEXT),
        "custom_tool_call_output": _OUTPUT,
        "reasoning": record(content=_THOUGHT),
        **dict.fromkeys(HISTORY, OBJECT),
    },
    absent="message",
)
_FUNCTION: Final = record({"name": NAME}, description=TEXT, parameters=OBJECT, strict=FLAG)
_CUSTOM: Final = record({"name": NAME}, description=TEXT, format=OBJECT)
_OWN: Final = {"function": _FUNCTION, "custom": _CUSTOM}
_NAMESPACE: Final = record({"name": NAME, "tools": list_of(by("type", _OWN))}, description=TEXT)
_NAMED: Final = record({"name": NAME})
RESPONSES: Final = Table(
    path="/v1/responses",
    title="OpenAI Responses",
    parameters={
        "model": common.MODEL,
        "input": supported(any_of(NAME, list_of(_ITEMS, minItems=1)), "a text, or items", required=True),
        "instructions": supported(TEXT, "are not stored for `previous_response_id`"),
        "stream": common.STREAM,
        "max_output_tokens": supported(common.MAX),
        "temperature": common.TEMPERATURE,
        "top_p": common.TOP_P,
        **common.SAMPLING_OF_VLLM,
        **common.PENALTIES,
        "seed": common.SEED,
        "stop": common.STOP,
        "tools": supported(
            list_of(by("type", {**_OWN, "namespace": _NAMESPACE, **dict.fromkeys(SERVER_TOOLS, OBJECT)}))
        ),
        "tool_choice": supported(
            any_of(
                words("auto", "none", "required"),
                by(
                    "type",
                    {
                        "function": _NAMED,
                        "custom": _NAMED,
                        "allowed_tools": record(
                            {"mode": words("auto", "required"), "tools": list_of(record(name=TEXT, type=TEXT))}
                        ),
                    },
                ),
            )
        ),
        "parallel_tool_calls": supported(FLAG),
        "text": supported(
            record(
                format=by("type", {"text": OBJECT, "json_object": OBJECT, "json_schema": record({"schema": OBJECT})}),
                verbosity=ANYTHING,
            ),
            "`format` is followed, `verbosity` a hint",
        ),
        "previous_response_id": supported(TEXT, "of an answer that is stored: see the page of the gateway"),
        "store": supported(FLAG, "true by default"),
        "metadata": common.METADATA,
        "prompt_cache_key": common.PROMPT_CACHE_KEY,
        "service_tier": common.SERVICE_TIER,
        "hybrid": common.HYBRID,
        "reasoning": ignored("a model reasons as it is made to", OBJECT),
        "include": ignored("nothing more is included"),
        "stream_options": ignored(),
        "user": ignored(),
        "safety_identifier": ignored(),
        "client_metadata": ignored("of Codex"),
        "access_programs": ignored(),
        "context_management": ignored("nothing is compacted"),
        **common.CACHES,
        "priority": common.PRIORITY_OF_VLLM,
        "background": refused(False),
        "background_options": refused(),
        "truncation": refused("disabled"),
        "conversation": refused(),
        "prompt": refused(),
        "max_tool_calls": refused(),
        "top_logprobs": refused(0),
        "image": refused(),
        "moderation": refused(),
    },
    kinds=(ITEMS, PARTS, TOOLS, CHOICES, FORMATS),
)

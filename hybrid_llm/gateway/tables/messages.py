"""Fields of Anthropic's Messages."""

from __future__ import annotations

from typing import Final

from hybrid_llm.gateway.parameters import Kinds, Table, ignored, refused, supported
from hybrid_llm.gateway.shapes import ANYTHING, FLAG, NAME, OBJECT, TEXT, Schema, any_of, by, list_of, record
from hybrid_llm.gateway.tables import common

SERVER_TOOLS: Final = (
    *("web_search_20250305", "web_search_20260209", "web_search_20260318"),
    *("web_fetch_20250910", "web_fetch_20260209", "web_fetch_20260309", "web_fetch_20260318"),
    *("tool_search_tool_bm25", "tool_search_tool_bm25_20251119"),
    *("tool_search_tool_regex", "tool_search_tool_regex_20251119", "advisor_20260301"),
)
"""Tools that Anthropic's servers run, and agents offer beside their own."""
_RESULTS: Final = ("web_search_tool_result", "web_fetch_tool_result", "tool_search_tool_result", "advisor_tool_result")
THOUGHTS: Final = ("redacted_thinking", "server_tool_use", *_RESULTS)
"""Blocks of earlier answers that hold nothing for another model."""
BLOCKS: Final = Kinds(
    place="messages[].content[].type",
    supported={
        "text": "",
        "tool_use": "",
        "tool_result": "`content` is a text, or blocks that are texts; `is_error` is ignored",
        "thinking": "of earlier turns",
    },
    ignored=dict.fromkeys(THOUGHTS, "of earlier turns"),
    refused=(
        *("image", "document", "search_result", "container_upload", "code_execution_tool_result"),
        *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "mcp_tool_use"),
        *("mcp_tool_result", "mcp_tool_listing", "compaction", "tool_addition", "tool_removal", "fallback"),
    ),
)
TOOLS: Final = Kinds(
    place="tools[].type",
    supported={"custom": "the tools of a client; the default"},
    ignored=dict.fromkeys(SERVER_TOOLS, common.NO_BACKEND),
    refused=(
        *("bash_20241022", "bash_20250124", "code_execution_20250522", "code_execution_20250825"),
        *("code_execution_20260120", "code_execution_20260521", "browser_toolset_20260801"),
        *("computer_20241022", "computer_20250124", "computer_20251124", "computer_toolset_20260801"),
        *("memory_20250818", "text_editor_20241022", "text_editor_20250124", "text_editor_20250429"),
        *("text_editor_20250728", "mcp_toolset"),
    ),
)
CHOICES: Final = Kinds(place="tool_choice.type", supported={"auto": "", "any": "", "tool": "", "none": ""})
TEXTS: Final = any_of(TEXT, list_of(by("type", {"text": record({"text": TEXT})})))
_TEXT: Final = record({"text": TEXT})
_BLOCKS: Final[dict[str, Schema]] = {
    "text": _TEXT,
    "tool_use": record({"id": NAME, "name": NAME, "input": OBJECT}),
    "tool_result": record({"tool_use_id": NAME}, content=TEXTS, is_error=FLAG),
    "thinking": record({"thinking": TEXT}),
    **dict.fromkeys(THOUGHTS, OBJECT),
}
_SAID: Final = record({"content": any_of(TEXT, list_of(by("type", _BLOCKS)))})
_TOOL: Final = record({"name": NAME, "input_schema": OBJECT}, description=TEXT, strict=FLAG)
_PARALLEL: Final = record(disable_parallel_tool_use=FLAG)
_NAMED: Final = record({"name": NAME}, disable_parallel_tool_use=FLAG)
_HINTS: Final = (
    *("cache_control", "inference_geo", "speed", "user_profile_id", "workspace_id"),
    *("diagnostics", "context_management", "betas", "billing_policy", "compaction", "fallbacks"),
)
MESSAGES: Final = Table(
    path="/v1/messages",
    title="Anthropic Messages",
    parameters={
        "model": common.MODEL,
        "messages": supported(
            list_of(by("role", {"user": _SAID, "assistant": _SAID, "system": _SAID}), minItems=1),
            "the last is not the assistant's: no prefill of an answer",
            required=True,
        ),
        "max_tokens": supported(common.MAX, required=True),
        "system": supported(TEXTS, "a text, or blocks that are texts"),
        "stop_sequences": supported(common.STOPS),
        "stream": common.STREAM,
        "temperature": common.TEMPERATURE,
        "top_k": common.TOP_K,
        "top_p": common.TOP_P,
        "tools": supported(
            list_of(by("type", {"custom": _TOOL, **dict.fromkeys(SERVER_TOOLS, OBJECT)}, absent="custom"))
        ),
        "tool_choice": supported(
            by("type", {"auto": _PARALLEL, "any": _PARALLEL, "tool": _NAMED, "none": OBJECT}),
            "with `disable_parallel_tool_use`",
        ),
        "output_config": supported(
            record(format=by("type", {"json_schema": record({"schema": OBJECT})}), effort=ANYTHING),
            "`format` is followed, `effort` a hint",
        ),
        "metadata": common.METADATA,
        "hybrid": common.HYBRID,
        "thinking": ignored("a model reasons as it is made to", OBJECT),
        "service_tier": ignored("`hybrid: {priority: N}` asks for a priority"),
        **{name: ignored() for name in _HINTS},
        "fallback_credit_token": ignored(),
        "container": refused(),
        "mcp_servers": refused([]),
        "thread": refused(),
    },
    kinds=(BLOCKS, TOOLS, CHOICES),
)

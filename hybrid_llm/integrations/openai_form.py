"""Tools and formats of answers in OpenAI's form, which several libraries use; `generate` takes its messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.tools import Tool


def as_options(call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of *call* by the names of `generate`: the tools, the format of the answer, its length."""
    made = dict(call)
    if made.get("tools") is not None:
        made["tools"] = tools_of(made["tools"]) or None
    if (wanted := made.pop("response_format", None)) is not None:
        made["output_schema"] = schema_of(wanted) if isinstance(wanted, Mapping) else wanted
    if (most := made.pop("max_completion_tokens", None)) is not None:
        made["max_tokens"] = most
    return made


def tools_of(described: Iterable[Mapping[str, Any]]) -> list[Tool]:
    """The tools of a list of `{"type": "function", "function": {"name": ..., "parameters": ...}}`.

    Raises:
        InvalidRequest: one is no function: nobody here runs the tools of a provider's servers.
    """
    return [_tool(each, at) for at, each in enumerate(described)]


def _tool(described: Mapping[str, Any], at: int) -> Tool:
    function = described.get("function")
    if described.get("type") != "function" or not isinstance(function, Mapping):
        raise InvalidRequest(f"tools[{at}]: tools of the type 'function' are supported", field="tools")
    return tool_of(function["name"], function.get("description"), function.get("parameters"))


def tool_of(name: str, description: str | None, parameters: Mapping[str, Any] | None) -> Tool:
    """A tool of a JSON Schema; without one it takes no arguments."""
    schema = dict(parameters or {"type": "object", "properties": {}})
    return Tool(name=name, description=description or "", parameters=json.dumps(schema))


def schema_of(response_format: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The JSON Schema that a `response_format` asks for; None for text.

    Raises:
        InvalidRequest: it is of no known type.
    """
    kind = None if response_format is None else response_format.get("type")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    described = response_format.get("json_schema")
    if kind != "json_schema" or not isinstance(described, Mapping) or not isinstance(described.get("schema"), Mapping):
        raise InvalidRequest("response_format: a type of text, json_object, or json_schema with its schema", field="")
    return dict(described["schema"])

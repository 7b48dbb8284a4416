"""Tools that a model may call, and its calls: records, in the terms of the OpenAI API."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from hybrid_llm.core.errors import HybridLLMError, InvalidRequest

TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What the name of a tool is, in every format of calls and at every provider."""
CHOICES: Final = ("auto", "none", "required")
"""`tool_choice`: the model decides; it answers with text; it calls a tool. No tool has such a name."""
ToolChoice = Literal["auto", "none", "required"] | int
"""What a `Request` holds: one of `CHOICES`, or the index of the tool that must be called."""

_NEITHER: Final = "pass a hybrid_llm.Tool, a typed function, or a pydantic model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call: *parameters* is a JSON Schema as JSON text. `repr` shows nothing of it."""

    name: str = field(repr=False)
    description: str = field(default="", repr=False)
    parameters: str = field(default="{}", repr=False)
    call: Callable[..., Any] | None = field(default=None, repr=False, compare=False)
    """What `run_tools` calls, with the arguments by name; sync or async. It stays in this process."""

    @classmethod
    def of(cls, source: object) -> Tool:
        """A tool from a typed Python function, or from a pydantic model: its name, docstring and fields.

        Raises:
            InvalidRequest: the source is neither, or a parameter has no type that JSON has.
        """
        return _tool_of(source)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model asks for. Its text never shows in `repr`."""

    id: str = ""
    """What the result refers to as `tool_call_id`. Ids of an app never leave this process: backends see numbers."""
    name: str = field(repr=False)
    arguments: str = field(default="{}", repr=False)
    """A JSON object, as JSON text."""

    @property
    def values(self) -> dict[str, Any]:
        """The arguments by name.

        Raises:
            HybridLLMError: they are no JSON object: `max_tokens` cut them off, or no backend wrote them.
        """
        values = parsed_arguments(self.arguments)
        if values is None:
            raise HybridLLMError("the arguments of this tool call are no JSON object")
        return values

    def as_openai(self) -> dict[str, Any]:
        """The call as a part of a message in OpenAI's form."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are a whole JSON object."""
        return parsed_arguments(self.arguments) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A piece of a tool call: the first of each *index* has *id* and *name*, whole; *arguments* add up to JSON text."""

    index: int
    id: str = ""
    name: str = field(default="", repr=False)
    arguments: str = field(default="", repr=False)


def parsed_arguments(text: str) -> dict[str, Any] | None:
    """*text* as the arguments of a call; None if it is no JSON object. No error holds the text."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def numbered_id(number: int) -> str:
    """The id of the *number*th call of a conversation, as backends see it: nine characters, which Mistral needs."""
    return f"call{number:05}"


def _tool_of(source: object) -> Tool:
    """A tool from *source*: see `Tool.of`."""
    if isinstance(source, Tool):
        return source
    is_model = isinstance(source, type) and callable(getattr(source, "model_json_schema", None))
    if not is_model and (not callable(source) or isinstance(source, type)):
        raise InvalidRequest(f"tools: {_NEITHER}", field="tools")
    try:
        return _of_model(source) if is_model else _of_function(source)
    except InvalidRequest:
        raise
    except Exception as error:  # noqa: BLE001  # code of the app: enums, a model's class
        fault = type(error).__name__
    raise InvalidRequest(f"tools: no JSON Schema can be made of a function or model ({fault})", field="tools")


def _of_model(model: Any) -> Tool:
    from hybrid_llm.core.signatures import untitled

    schema = untitled(model.model_json_schema())
    description = str(schema.pop("description", ""))
    return Tool(name=model.__name__, description=description, parameters=json.dumps(schema))


def _of_function(function: Any) -> Tool:
    from hybrid_llm.core.docstrings import read_docstring
    from hybrid_llm.core.signatures import NoSchema, parameters_schema

    name = getattr(function, "__name__", "")
    text, described = read_docstring(inspect.getdoc(function) or "")
    try:
        schema = parameters_schema(function, described)
    except NoSchema as error:
        fault = f"the parameter {error.parameter!r} of the function {name!r}: {error.why}"
    except NameError:  # a type that is written as text
        fault = f"the types of {name!r} cannot be read; its module must have every name in them"
    else:
        return Tool(name=name, description=text, parameters=json.dumps(schema), call=function)
    raise InvalidRequest(f"tools: {fault}", field="tools")

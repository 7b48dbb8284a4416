"""Tools that a model may call, and its calls: records, in the terms of the OpenAI API."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from hybrid_llm.core.errors import HybridLLMError, InvalidRequest

TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What the name of a tool is, in every format of calls and at every provider."""
CHOICES: Final = ("auto", "none", "required")
"""`tool_choice`: the model decides; it answers with text; it calls a tool. No tool has such a name."""
ToolChoice = Literal["auto", "none", "required"] | int
"""What a `Request` holds: one of `CHOICES`, or the index of the tool that must be called."""

_SCALARS: Final[Mapping[object, dict[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array", "items": {}},
    Any: {},
}
_LISTS: Final = (list, Sequence, set, frozenset)
_PASSED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
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


class _Unknown(Exception):
    """A type that JSON does not have."""


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


def bound(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """*values*, JSON that follows the function's schema, as its parameters' types: enums and pydantic models are made.

    Raises:
        InvalidRequest: a type of the function cannot be read. Else whatever a model's validation raises.
    """
    hints = _hints(function)
    return {name: _made(hints.get(name), value) for name, value in values.items()}


def _made(kind: Any, value: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _made(arguments[0], value)
    if origin in (Union, types.UnionType):
        return _made_one(arguments, value)
    if origin in _LISTS and isinstance(value, list):
        items = [_made(arguments[0], item) for item in value]
        return origin(items) if origin in (set, frozenset) else items
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {name: _made(arguments[1], item) for name, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if isinstance(kind, type) and callable(validate := getattr(kind, "model_validate", None)):
        return validate(value)
    return value


def _made_one(kinds: Sequence[Any], value: Any) -> Any:
    """*value* as the first of *kinds* that it fits: what can be made of it, or what it is."""
    for kind in kinds:
        with suppress(Exception):  # a model's validation is code of the app
            made = _made(kind, value)
            if made is not value or type(value) is kind:
                return made
    return value


def _of_model(model: Any) -> Tool:
    schema = model.model_json_schema()
    description = str(schema.pop("description", ""))
    schema.pop("title", None)
    return Tool(name=model.__name__, description=description, parameters=json.dumps(schema))


def _of_function(function: Any) -> Tool:
    name = getattr(function, "__name__", "")
    hints = _hints(function)
    text, described = _docstring(inspect.getdoc(function) or "")
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    required = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in _PASSED or parameter.name not in hints:
            raise _fault(name, parameter.name, "it needs a type, and to be passed by name")
        try:
            schema = _schema(hints[parameter.name], definitions)
        except _Unknown:
            raise _fault(name, parameter.name, "its type has no counterpart in JSON") from None
        if parameter.name in described:
            schema = {**schema, "description": described[parameter.name]}
        properties[parameter.name] = schema
        if parameter.default is inspect.Parameter.empty:
            required.append(parameter.name)
    whole: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    whole["additionalProperties"] = False
    if definitions:
        whole["$defs"] = definitions
    return Tool(name=name, description=text, parameters=json.dumps(whole), call=function)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # a type that is written as a text is evaluated: it may raise anything
        name = getattr(function, "__name__", type(function).__name__)
        text = f"tools: the types of {name!r} cannot be read; its module must have every name in them"
        raise InvalidRequest(text, field="tools") from error


def _fault(function: str, parameter: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"tools: the parameter {parameter!r} of the function {function!r}: {why}", field="tools")


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of values of the type *kind*; a model's own definitions go to *definitions*."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        text = next((each for each in arguments[1:] if isinstance(each, str)), "")
        return {**_schema(arguments[0], definitions), **({"description": text} if text else {})}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(each, definitions) for each in arguments]}
    if origin in _LISTS:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin in (dict, Mapping) and arguments[0] is str:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    return _named_schema(kind, definitions)


def _named_schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind in _SCALARS:
        return dict(_SCALARS[kind])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    if isinstance(kind, type) and callable(read := getattr(kind, "model_json_schema", None)):
        schema: dict[str, Any] = read()
        definitions |= schema.pop("$defs", {})
        return schema
    raise _Unknown


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """What a docstring says of the function, and of each parameter under `Args:` (Google's style)."""
    body, _, rest = text.partition("\nArgs:\n")
    described: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        if not line.startswith("    "):
            if line.strip():
                break
            continue
        head, colon, tail = line.strip().partition(":")
        if not line.startswith("     ") and colon:
            name = head.split()[0] if head else ""
            described[name] = tail.strip()
        elif name:
            described[name] += " " + line.strip()
    return body.strip(), described

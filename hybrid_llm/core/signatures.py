"""The JSON Schema of a typed function's parameters, and the values of their types that JSON arguments become.

What a type checker and pydantic know is known here without pydantic: dataclasses, typed dicts, enums, literals, dates,
and the limits that `Annotated` has from pydantic's `Field` or from annotated-types.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import inspect
import json
import pathlib
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from enum import Enum
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from hybrid_llm.core.docstrings import read_docstring
from hybrid_llm.core.jsonable import jsonable

Schema = dict[str, Any]

_SCALARS: Final[Mapping[object, Schema]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array", "items": {}},
    Any: {},
    object: {},
    decimal.Decimal: {"type": "number"},
    dt.datetime: {"type": "string", "format": "date-time"},
    dt.date: {"type": "string", "format": "date"},
    dt.time: {"type": "string", "format": "time"},
    uuid.UUID: {"type": "string", "format": "uuid"},
    pathlib.Path: {"type": "string"},
}
_READ: Final[Mapping[object, Callable[[Any], Any]]] = {
    decimal.Decimal: lambda value: decimal.Decimal(str(value)),
    dt.datetime: dt.datetime.fromisoformat,
    dt.date: dt.date.fromisoformat,
    dt.time: dt.time.fromisoformat,
    uuid.UUID: uuid.UUID,
    pathlib.Path: pathlib.Path,
}
"""How JSON becomes the types that it does not have."""
_LISTS: Final = (list, Sequence, Iterable, set, frozenset, AbstractSet)
_MADE: Final = {set: set, frozenset: frozenset, AbstractSet: set}
_PASSED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_LIMITS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
}
"""What annotated-types and pydantic call a limit -> the keyword."""
_LENGTHS: Final = {"min_length": ("minLength", "minItems"), "max_length": ("maxLength", "maxItems")}
_NAMED: Final = ("properties", "patternProperties", "$defs", "dependentSchemas")
"""Keywords whose value has schemas by names, which are no keywords."""
_VALUES: Final = ("default", "enum", "const", "examples")
_NAMES: Final[Mapping[type, str]] = {str: "string", int: "integer", float: "number", bool: "boolean"}


class NoSchema(Exception):
    """A *parameter* of a function has no schema: *why*."""

    def __init__(self, parameter: str, why: str) -> None:
        super().__init__(why)
        self.parameter, self.why = parameter, why


class _Unknown(Exception):
    """A type that JSON does not have."""


def parameters_schema(function: Any, described: Mapping[str, str]) -> Schema:
    """The schema of what *function* may be called with by name; *described* has what its docstring says of each.

    Raises:
        NoSchema: a parameter has no type, or one that JSON does not have. Else whatever its types raise.
    """
    hints, writer = hints_of(function), _Writer()
    properties: Schema = {}
    required = []
    for parameter in inspect.signature(function).parameters.values():
        name = parameter.name
        if parameter.kind not in _PASSED or name not in hints:
            raise NoSchema(name, "it needs a type, and to be passed by name")
        try:
            properties[name] = writer.schema(hints[name])
        except _Unknown:
            raise NoSchema(name, "its type has no counterpart in JSON") from None
        if name in described:
            properties[name] = {**properties[name], "description": described[name]}
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
        else:
            properties[name] = _with_default(properties[name], parameter.default)
    whole = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {**whole, "$defs": writer.definitions} if writer.definitions else whole


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The type of each parameter. Raises whatever evaluating a type that is written as text raises."""
    return typing.get_type_hints(function, include_extras=True)


def bound(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """*values*, JSON that follows the function's schema, as its parameters' types: enums and dataclasses are made.

    Raises:
        Exception: whatever a type of the function raises.
    """
    hints = hints_of(function)
    return {name: made(hints.get(name), value) for name, value in values.items()}


def _with_default(schema: Schema, default: object) -> Schema:
    """*schema* with its *default*, if JSON has it."""
    try:
        value = jsonable(default)
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return schema
    return {**schema, "default": value} if value is not None else schema


class _Writer:
    """Writes schemas of types; those that have a name and parts are *definitions*, which may refer to each other."""

    def __init__(self) -> None:
        self.definitions: Schema = {}
        self._names: dict[Any, str] = {}

    def schema(self, kind: Any) -> Schema:
        """The schema of values of the type *kind*. Raises _Unknown."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return _annotated(self.schema(arguments[0]), arguments[1:])
        if origin is Literal:
            return _enumerated(arguments)
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.schema(each) for each in arguments]}
        if origin is tuple:
            return self._tuple(arguments)
        if origin in _LISTS:
            return {"type": "array", "items": self.schema(arguments[0])}
        if origin in (dict, Mapping) and arguments[0] is str:
            return {"type": "object", "additionalProperties": self.schema(arguments[1])}
        if origin in (typing.Required, typing.NotRequired):
            return self.schema(arguments[0])
        return self._named(kind)

    def _tuple(self, arguments: tuple[Any, ...]) -> Schema:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": self.schema(arguments[0])}
        items = [self.schema(each) for each in arguments]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}

    def _named(self, kind: Any) -> Schema:
        if kind in _SCALARS:
            return dict(_SCALARS[kind])
        if (meant := _meant(kind)) is not None:
            return self.schema(meant)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return _enumerated([member.value for member in kind])
        if isinstance(kind, type) and callable(read := getattr(kind, "model_json_schema", None)):
            return self._of_model(read())
        if _is_record(kind):
            return self._record(kind)
        raise _Unknown

    def _of_model(self, schema: Schema) -> Schema:
        """The *schema* of a pydantic model, whose own definitions may be named as others are."""
        schema = untitled(schema)
        for name, definition in schema.pop("$defs", {}).items():
            free = name if self.definitions.get(name, definition) == definition else self._free(name)
            if free != name:
                old, new = json.dumps(f"#/$defs/{name}"), json.dumps(f"#/$defs/{free}")
                schema, definition = (json.loads(json.dumps(each).replace(old, new)) for each in (schema, definition))
            self.definitions[free] = definition
        return schema

    def _record(self, kind: Any) -> Schema:
        """A reference to the schema of a dataclass or a typed dict, which may contain itself."""
        if kind not in self._names:
            name = self._names[kind] = self._free(kind.__name__)
            self.definitions[name] = {}
            self.definitions[name] = self._of_record(kind)
        return {"$ref": f"#/$defs/{self._names[kind]}"}

    def _of_record(self, kind: Any) -> Schema:
        text, described = read_docstring(_own_docstring(kind))
        properties = {name: self.schema(hint) for name, hint in _fields(kind).items()}
        for name in described.keys() & properties.keys():
            properties[name] = {**properties[name], "description": described[name]}
        if dataclasses.is_dataclass(kind):
            for field in dataclasses.fields(kind):
                if field.default is not dataclasses.MISSING:
                    properties[field.name] = _with_default(properties[field.name], field.default)
        schema = {
            "type": "object",
            "properties": properties,
            "required": _required(kind),
            "additionalProperties": False,
        }
        return {**schema, "description": text} if text else schema

    def _free(self, name: str) -> str:
        taken = (name if number == 1 else f"{name}_{number}" for number in range(1, len(self.definitions) + 2))
        return next(each for each in taken if each not in self.definitions)


def _is_record(kind: Any) -> bool:
    """Whether *kind* is a dataclass, or a typed dict of `typing` or of typing_extensions."""
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "__required_keys__"))


def _fields(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    if not dataclasses.is_dataclass(kind):
        return hints
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _required(kind: Any) -> list[str]:
    if not dataclasses.is_dataclass(kind):
        return [name for name, hint in _fields(kind).items() if _is_required(kind, name, hint)]
    missing = dataclasses.MISSING
    fields = [field for field in dataclasses.fields(kind) if field.init]
    return [field.name for field in fields if field.default is missing and field.default_factory is missing]


def _is_required(kind: Any, name: str, hint: Any) -> bool:
    """Whether a typed dict must have that key; where its types are written as text, the class does not know it."""
    origin = get_origin(hint)
    return origin is typing.Required or (origin is not typing.NotRequired and name in kind.__required_keys__)


def _own_docstring(kind: Any) -> str:
    """The docstring of a class; that which `dataclass` makes of the fields is none."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return "" if text.startswith(f"{kind.__name__}(") else text


def _meant(kind: Any) -> Any:
    """The type that a `NewType`, or an alias made by `type`, stands for; None if *kind* is neither."""
    meant = getattr(kind, "__supertype__", None)
    alias = getattr(typing, "TypeAliasType", None)
    return kind.__value__ if alias is not None and isinstance(kind, alias) else meant


def _enumerated(values: Sequence[Any]) -> Schema:
    """One of *values*, with their type where they share one."""
    kinds = {type(value) for value in values}
    name = _NAMES.get(next(iter(kinds))) if len(kinds) == 1 else None
    return {"type": name, "enum": list(values)} if name else {"enum": list(values)}


def _annotated(schema: Schema, notes: Iterable[Any]) -> Schema:
    """*schema* with the description and the limits among *notes*."""
    for note in notes:
        text = note if isinstance(note, str) else _text(note, "description") or _text(note, "documentation")
        schema = {**schema, "description": text} if text else schema
        for each in (note, *_parts(note)):
            schema = {**schema, **dict(_limits(each, is_list=schema.get("type") == "array"))}
    return schema


def _text(note: Any, name: str) -> str:
    value = getattr(note, name, None)
    return value if isinstance(value, str) else ""


def _parts(note: Any) -> Sequence[Any]:
    parts = getattr(note, "metadata", ())
    return parts if isinstance(parts, list | tuple) else ()


def _limits(note: Any, *, is_list: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(note, str):
        return
    for name, keyword in _LIMITS.items():
        if isinstance(value := getattr(note, name, None), int | float | str):
            yield keyword, value
    for name, keywords in _LENGTHS.items():
        if isinstance(value := getattr(note, name, None), int) and value:
            yield keywords[is_list], value


def untitled(schema: Any) -> Any:
    """*schema* without the titles that pydantic makes of the names, which say nothing that these do not."""
    if isinstance(schema, list):
        return [untitled(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: value for name, value in schema.items() if name != "title" or not isinstance(value, str)}
    return {name: _untitled_part(name, value) for name, value in plain.items()}


def _untitled_part(keyword: str, value: Any) -> Any:
    if keyword in _VALUES:
        return value
    if keyword in _NAMED and isinstance(value, dict):
        return {name: untitled(each) for name, each in value.items()}
    return untitled(value)


def made(kind: Any, value: Any) -> Any:
    """*value*, JSON that follows the schema of *kind*, as a *kind*."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Annotated, typing.Required, typing.NotRequired):
        return made(arguments[0], value)
    if origin in (Union, types.UnionType):
        return _made_one(arguments, value)
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[1:] == (Ellipsis,) else arguments
        return tuple([made(each, item) for each, item in zip(kinds, value, strict=True)])
    if origin in _LISTS and isinstance(value, list):
        items = [made(arguments[0], item) for item in value]
        return _MADE[origin](items) if origin in _MADE else items
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {name: made(arguments[1], item) for name, item in value.items()}
    return _made_named(kind, value)


def _made_named(kind: Any, value: Any) -> Any:
    if kind in _READ:
        return _READ[kind](value)
    if (meant := _meant(kind)) is not None:
        return made(meant, value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if isinstance(kind, type) and callable(validate := getattr(kind, "model_validate", None)):
        return validate(value)
    if isinstance(value, dict) and _is_record(kind):
        hints = _fields(kind)
        parts = {name: made(hints.get(name), item) for name, item in value.items()}
        return kind(**parts)
    return value


def _made_one(kinds: Sequence[Any], value: Any) -> Any:
    """*value* as the first of *kinds* that it fits: what can be made of it, or what it is."""
    for kind in kinds:
        with suppress(Exception):  # a model's validation is code of the app
            one = made(kind, value)
            if one is not value or type(value) is kind:
                return one
    return value

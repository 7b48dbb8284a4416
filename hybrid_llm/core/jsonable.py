"""Records as plain data, for JSON: what `to_dict` returns and `--json` prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

Json = dict[str, Any]
"""A JSON object."""


def jsonable(value: object) -> object:
    """*value* as dicts, lists, texts, numbers, booleans and None, which `json.dumps` writes as valid JSON.

    A record becomes a dict of its fields; those that hold a function are left out. A pydantic model is dumped.
    A set is sorted, a number that JSON does not have (NaN, infinity) is null, anything else its `str`.

    Raises:
        TypeError: bytes, which nobody would read as a list of numbers, or an iterator, which may have no end.
    """
    match value:
        case None | bool() | int() | str() if not isinstance(value, Enum):
            return value
        case float():
            return value if math.isfinite(value) else None
        case Enum():
            return jsonable(value.value)
        case bytes() | bytearray() | memoryview() | Iterator():
            raise TypeError(f"{type(value).__name__} is no JSON: make it a text or a list")
        case Mapping():
            return {str(key): jsonable(item) for key, item in value.items()}
        case set() | frozenset():
            return sorted(map(jsonable, value), key=str)
        case _:
            return _compound(value)


def _compound(value: object) -> object:
    if callable(dump := getattr(value, "model_dump", None)) and not isinstance(value, type):  # a pydantic model
        return jsonable(dump(mode="json"))
    if is_dataclass(value) and not isinstance(value, type):
        items = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {name: jsonable(item) for name, item in items if not callable(item)}
    return [jsonable(item) for item in value] if isinstance(value, Iterable) else str(value)

"""Tools whose arguments have every kind of value, and what asks for them: for the calls of `benchmarks.tools`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from hybrid_llm.core.tools import Tool


def _object(properties: Mapping[str, Any], *optional: str, **more: Any) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    schema = {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}
    return {**schema, **more}


_CITY: Final = {"enum": ["Oslo", "Zürich", "東京", "São Paulo"]}
_ROOM: Final = {"$ref": "#/$defs/room"}

SCHEMAS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "get_weather": (
        "Weather of a city.",
        _object({"city": _CITY, "days": {"type": "integer", "minimum": 1, "maximum": 9}}),
    ),
    "set_heating": (
        "Heating of rooms.",
        _object(
            {"rooms": {"type": "array", "items": _ROOM, "minItems": 1, "maxItems": 2}},
            **{"$defs": {"room": _object({"name": {"type": "string", "maxLength": 8}, "warm": {"type": "boolean"}})}},
        ),
    ),
    "book-train": (
        "A seat on a train.",
        _object({"trip": _object({"from": _CITY, "to": _CITY}), "seat": {"type": "string", "pattern": "^[A-F][1-9]$"}}),
    ),
    "convert": (
        "Convert money.",
        _object(
            {
                "amount": {"type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.5},
                "to": {"type": "string", "pattern": "^[A-Z]{3}$"},
            }
        ),
    ),
    "label": (
        "Label a picture.",
        _object(
            {"größe": {"type": "integer", "minimum": -5, "maximum": 5}, '名 "x"\\': {"enum": ["ja", "nein", None]}}
        ),
    ),
    "remind": (
        "Remind me on a day.",
        _object(
            {"day": {"type": "string", "format": "date"}, "text": {"type": "string", "minLength": 1, "maxLength": 12}}
        ),
    ),
    "pay": (
        "Pay by card or in cash.",
        _object(
            {
                "by": {
                    "anyOf": [
                        _object({"kind": {"const": "card"}, "digits": {"type": "string", "pattern": "^[0-9]{4}$"}}),
                        _object({"kind": {"const": "cash"}}),
                        {"type": "null"},
                    ]
                }
            }
        ),
    ),
    "tags": (
        "Tag a note.",
        _object({"tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3}}),
    ),
    "move": (
        "Move a robot.",
        _object(
            {
                "by": {
                    "type": "array",
                    "prefixItems": [{"type": "integer", "minimum": -9, "maximum": 9}, {"enum": ["cm", "m"]}],
                    "items": False,
                    "minItems": 2,
                },
                "fast": {"type": "boolean"},
            },
            "fast",
        ),
    ),
    "menu": (
        "A menu of a program.",
        _object(
            {"entry": {"$ref": "#/$defs/entry"}},
            **{
                "$defs": {
                    "entry": _object(
                        {
                            "name": {"type": "string", "maxLength": 5},
                            "below": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/entry"}]},
                        }
                    )
                }
            },
        ),
    ),
    "now": ("The time.", _object({})),
}
"""By name: the description and the schema of the arguments."""

QUESTIONS: Final = (
    "What is the weather in Oslo?",
    "Make it warm in the kitchen.",
    "I go from Zürich to Oslo by train.",
    "How many EUR are 12.5 USD?",
    "Remind me to buy milk tomorrow.",
    "Please pay.",
)


def tool(name: str) -> Tool:
    """The tool of that name."""
    description, schema = SCHEMAS[name]
    return Tool(name=name, description=description, parameters=json.dumps(schema, ensure_ascii=False))

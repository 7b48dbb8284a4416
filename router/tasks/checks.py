"""Checks what an app passes to a task, before any work; no text is quoted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import OutputSchema

MOST_LABELS: Final = 100
MOST_CHARACTERS: Final = 100
MOST_VALUES: Final = 16
"""Of each kind, where kinds are named: small models would go on for ever."""
_KIND: Final = "a kind is a text of 1 to 100 characters, without line breaks"


def checked_text(value: object, field: str = "text") -> str:
    """*value*, a text with something in it."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: it must be a text, not {type(value).__name__}", field=field)
    if not value.strip():
        raise InvalidRequest(f"{field}: it is empty", field=field)
    return value


def checked_name(value: object, field: str) -> str:
    """*value*, a short text in one line."""
    name = checked_text(value, field)
    if len(name) > MOST_CHARACTERS or not name.isprintable():
        raise InvalidRequest(f"{field}: it must be one line of at most {MOST_CHARACTERS} characters", field=field)
    return name.strip()


def checked_labels(value: object, field: str = "labels") -> tuple[str, ...]:
    """*value*, two or more labels that differ."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | set | frozenset):
        raise InvalidRequest(f"{field}: pass a list of texts, such as ['positive', 'negative']", field=field)
    labels = tuple(sorted(value)) if isinstance(value, set | frozenset) else tuple(value)
    if not 2 <= len(labels) <= MOST_LABELS:
        what = f"there are {len(labels)}; pass 2 to {MOST_LABELS}, and of more choose a group first, then a label in it"
        raise InvalidRequest(f"{field}: {what}", field=field)
    for label in labels:
        _check_label(label, field)
    if len({label.casefold() for label in labels}) < len(labels):
        raise InvalidRequest(f"{field}: two are the same, or differ in upper and lower case alone", field=field)
    return labels


def _check_label(label: object, field: str) -> None:
    if not isinstance(label, str) or not 0 < len(label) <= MOST_CHARACTERS:
        raise InvalidRequest(f"{field}: each is a text of 1 to {MOST_CHARACTERS} characters", field=field)
    if label != label.strip() or not label.isprintable():
        message = "each is one line, with no space at its ends and no control characters"
        raise InvalidRequest(f"{field}: {message}", field=field)


def checked_share(value: object, field: str) -> float:
    """*value*, a probability."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= 1.0:
        raise InvalidRequest(f"{field}: it must be a number above 0 and at most 1", field=field)
    return float(value)


def checked_count(value: object, field: str, most: int) -> int:
    """*value*, a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidRequest(f"{field}: it must be a whole number from 1 to {most}", field=field)
    return value


def extraction_schema(value: object) -> OutputSchema:
    """The output schema of an extraction: *value*, or one with a list of texts for each kind that *value* lists."""
    if isinstance(value, dict | str | type):
        return value
    if not isinstance(value, Sequence | set | frozenset) or isinstance(value, bytes):
        message = "pass kinds, such as ['person', 'place'], a JSON Schema of an object, or a pydantic model"
        raise InvalidRequest(f"schema: {message}", field="schema")
    kinds = tuple(sorted(value)) if isinstance(value, set | frozenset) else tuple(value)
    if not 0 < len(kinds) <= MOST_LABELS or len(set(kinds)) < len(kinds):
        raise InvalidRequest(f"schema: pass 1 to {MOST_LABELS} kinds, each once", field="schema")
    for kind in kinds:
        _check_label(kind, "schema")
    texts: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "maxItems": MOST_VALUES}
    return {
        "type": "object",
        "properties": dict.fromkeys(kinds, texts),
        "required": list(kinds),
        "additionalProperties": False,
    }


def property_names(schema: OutputSchema) -> tuple[str, ...]:
    """The names that *schema* gives to what is extracted: those of its properties; none where it has them elsewhere.

    Raises:
        InvalidRequest: it does not describe an object.
    """
    try:
        parsed = schema.model_json_schema() if isinstance(schema, type) else schema
        parsed = json.loads(parsed) if isinstance(parsed, str) else parsed
    except Exception:  # noqa: BLE001  # of a model's class it may be anything; `generate` says what is wrong with it
        return ()
    if not isinstance(parsed, dict) or parsed.get("type", "object") != "object":
        raise InvalidRequest("schema: it must describe an object, {'type': 'object', ...}", field="schema")
    properties = parsed.get("properties")
    return tuple(map(str, properties)) if isinstance(properties, dict) else ()

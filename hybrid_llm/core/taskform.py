"""How a request of a task carries its text and its labels, so that a generator and an encoder read the same request.

The text stands between two marks in the last message of the user. The labels are in the output schema: `classify` has
one property `label` with an `enum`, `extract` has a property for each kind of entity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hybrid_llm.core.request import Request

CLASSIFY: Final = "classify"
EXTRACT: Final = "extract"
LABEL: Final = "label"
"""The property of a classification that holds the label."""
_FENCED: Final = re.compile(r"<(?P<mark>text(?:-\d+)?)>\n(?P<text>.*)\n</(?P=mark)>", re.DOTALL)
_MANY: Final = 10**9
_TITLES: Final = frozenset({"title", "description"})


def fenced(text: str) -> str:
    """*text* between two marks that it does not contain, so that no text can end before its end."""
    mark = _mark(text)
    return f"<{mark}>\n{text}\n{closing_mark(text)}"


def closing_mark(text: str) -> str:
    """The mark behind *text*: a small model that copies the form of its prompt writes it too, and is stopped there."""
    return f"</{_mark(text)}>"


def _mark(text: str) -> str:
    mark, number = "text", 1
    while f"{mark}>" in text:
        number += 1
        mark = f"text-{number}"
    return mark


def text_of(request: Request) -> str | None:
    """The text that *request* is about: what is between the marks of its last message; None without marks."""
    content = request.messages[-1].content
    found = _FENCED.search(content)
    return None if found is None else found["text"]


def classify_schema(labels: Sequence[str]) -> dict[str, Any]:
    """The output schema of a classification."""
    return {
        "type": "object",
        "properties": {LABEL: {"enum": list(labels)}},
        "required": [LABEL],
        "additionalProperties": False,
    }


def labels_of(schema: Any) -> tuple[str, ...]:
    """The labels of a schema that `classify_schema` made; empty for another one."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or list(properties) != [LABEL] or not isinstance(properties[LABEL], dict):
        return ()
    labels = properties[LABEL].get("enum")
    sound = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    return tuple(labels) if sound and isinstance(labels, list) else ()


def kinds_of(schema: Any) -> dict[str, int]:
    """Property -> how many texts it may list, of a schema whose every property is texts that a text contains.

    Such a property is a list of texts, or a text that may be null or absent, which counts 0. Empty for another schema.
    """
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or schema.get("type") != "object":
        return {}
    if not schema.keys() <= _TITLES | {"type", "properties", "required", "additionalProperties"}:
        return {}
    required = schema.get("required", [])
    sizes = {name: _size(value, optional=name not in required) for name, value in properties.items()}
    return {} if None in sizes.values() else {name: size for name, size in sizes.items() if size is not None}


def _size(value: Any, *, optional: bool) -> int | None:
    """How many texts the property lists, 0 for one text; None for what an encoder cannot fill."""
    plain = {name: each for name, each in value.items() if name not in _TITLES} if isinstance(value, dict) else {}
    most = plain.pop("maxItems", _MANY) if plain.get("type") == "array" else _MANY
    if plain == {"type": "array", "items": {"type": "string"}}:
        return most if isinstance(most, int) and most > 0 else None
    nullable = plain.pop("default", None) is None and _is_nullable(plain)
    return 0 if nullable or (optional and plain == {"type": "string"}) else None


def _is_nullable(plain: Mapping[str, Any]) -> bool:
    either = [{"type": "string"}, {"type": "null"}]
    return plain == {"anyOf": either} or plain == {"type": ["string", "null"]}


def unserved(request: Request, tasks: Mapping[str, frozenset[str]]) -> str:
    """Why a specialist in *tasks* cannot take *request*, for people; empty where it can. No label is quoted."""
    known = tasks.get(request.task)
    if known is None:
        return f"it serves the task {' and '.join(sorted(tasks))} alone"
    if request.tools or request.is_continuation:
        return "it calls no tools" if request.tools else "it continues no answer of another backend"
    if request.output_schema is None or text_of(request) is None:
        return "the request has no output schema, or no marked text"
    asked = _asked(request.task, request.output_schema)
    if not asked:
        return "the output schema is none that it can fill"
    foreign = sum(name.lower() not in known for name in asked)
    return f"it does not know {foreign} of the {len(asked)} labels" if foreign else ""


def _asked(task: str, output_schema: str) -> Sequence[str]:
    """The labels, or the kinds of entities, that the request asks for."""
    try:
        schema = json.loads(output_schema)
    except ValueError:
        return ()
    return labels_of(schema) if task == CLASSIFY else tuple(kinds_of(schema))

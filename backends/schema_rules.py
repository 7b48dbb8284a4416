"""What must hold of an output schema before a grammar is made of it; a fault is named with its keyword and its place.

The grammar compiler computes with 64-bit floats, ignores keywords that it does not know, and takes a schema that refers
to itself without an end for one that is followed by no text at all.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote

from hybrid_llm.backends.schema_bounds import MOST_CHARACTERS, Place, TooLarge, check_bounds

_TYPES: Final = ("string", "number", "integer", "boolean", "object", "array", "null")
_MOST_DEPTH: Final = 128
"""Steps of a place; the grammar compiler cannot read much deeper ones."""
_EXACT: Final = 2**53
"""Beyond this, not every integer is a float."""
_MOST_POWER: Final = 22
"""Beyond this, no power of ten is a float."""

Node = tuple[Place, Any]


class BrokenRule(ValueError):
    """*place* is a JSON pointer into the schema, ending in the keyword; *why* quotes no value of the schema."""

    def __init__(self, place: Place, why: str) -> None:
        super().__init__(f"{pointer(place)}: {why}" if place else why)


def pointer(place: Place) -> str:
    """*place* as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place)


def read_schema(text: str) -> dict[str, Any]:
    """Return a schema as it is written: numbers exact, decimals as `Decimal`.

    Raises:
        BrokenRule: it is not JSON, not an object, has a key twice, NaN, or is too long or nested too deeply.
    """
    if len(text) > MOST_CHARACTERS:
        raise BrokenRule((), f"it has more than {MOST_CHARACTERS} characters")
    try:
        parsed = json.loads(text, parse_float=Decimal, parse_constant=_no_number, object_pairs_hook=_unique)
    except BrokenRule:
        raise
    except (ValueError, RecursionError):
        raise BrokenRule((), "it is not JSON, or nested too deeply") from None
    if not isinstance(parsed, dict):
        raise BrokenRule((), "a schema must be a JSON object")
    return parsed


def schema_text(schema: object) -> str:
    """*schema* as JSON text. Raises BrokenRule with the place of a name that is no text, or a value that is no JSON."""
    _check_plain(schema, ())
    return json.dumps(schema, separators=(",", ":"))


def _check_plain(value: object, place: Place) -> None:
    if isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                raise BrokenRule(place, f"it has a name of the type {type(name).__name__}; names in JSON are texts")
            _check_plain(each, (*place, name))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            _check_plain(each, (*place, number))
    elif not isinstance(value, str | int | float | None):
        raise BrokenRule(place, f"{type(value).__name__} is no type of JSON")


def check_rules(schema: dict[str, Any]) -> None:
    """Raise `BrokenRule` for the first keyword whose value is wrong or cannot be enforced exactly, or has no end."""
    nodes = dict(subschemas(schema))
    for place, node in nodes.items():
        _check_node(place, node)
    targets = _resolved(schema, nodes)
    check_ends(nodes, targets)
    try:
        check_bounds(nodes)
    except TooLarge as large:
        raise BrokenRule(large.place, large.why) from None


def subschemas(schema: Any, place: Place = ()) -> Iterator[Node]:
    """Every schema inside *schema*, itself first, each with its place; what is no schema where one belongs, too."""
    left: list[Node] = [(place, schema)]
    while left:
        place, node = left.pop()
        yield place, node
        if isinstance(node, dict) and len(place) <= _MOST_DEPTH:
            left += reversed([child for key, value in node.items() for child in _children((*place, key), value)])


def _resolved(schema: dict[str, Any], nodes: dict[Place, Any]) -> dict[Place, Place]:
    """The place of each `$ref` -> the place of its target. *nodes* gets the targets that are under other keywords."""
    names = {name: place for place, node in nodes.items() for name in _own_names(node)}
    targets: dict[Place, Place] = {}
    left = list(nodes)
    while left:
        place = left.pop()
        if not isinstance(nodes[place], dict) or "$ref" not in nodes[place]:
            continue
        reference = nodes[place]["$ref"]
        target = names[reference] if reference in names else _place_of(schema, reference)
        if target is None:
            raise BrokenRule((*place, "$ref"), "it must point into the schema itself, such as #/$defs/name")
        if target not in nodes:
            more = dict(subschemas(_at(schema, target), target))
            for at, node in more.items():
                _check_node(at, node)
            nodes |= more
            left += more
        targets[place] = target
    return targets


def _own_names(node: Any) -> Iterator[str]:
    """The references by which *node* names itself."""
    if isinstance(node, dict):
        yield from ("#" + node["$anchor"],) if "$anchor" in node else ()
        yield from (node["$id"],) if "$id" in node else ()


def _children(place: Place, value: Any) -> Iterator[Node]:
    kind = KINDS.get(str(place[-1]))
    if kind is _schema:
        yield place, value
    elif kind is _schemas or (kind is _schema_or_list and isinstance(value, list)):
        yield from (((*place, at), each) for at, each in enumerate(value if isinstance(value, list) else ()))
    elif kind is _schema_or_list:
        yield place, value
    elif kind is _named_schemas and isinstance(value, dict):
        yield from (((*place, name), each) for name, each in value.items())


def _check_node(place: Place, node: Any) -> None:
    if len(place) > _MOST_DEPTH:
        raise BrokenRule(place[:8], f"it is nested in more than {_MOST_DEPTH // 2} schemas")
    if not isinstance(node, dict):
        if not isinstance(node, bool):
            raise BrokenRule(place, "a schema is an object, true or false")
        return
    for keyword, value in node.items():
        kind, at = KINDS.get(keyword), (*place, keyword)
        if kind is not None:
            if why := kind(value):
                raise BrokenRule(at, why)
            _check_exact(at, keyword, value)
        elif near := difflib.get_close_matches(keyword, CONSTRAINTS, n=1, cutoff=0.85):
            raise BrokenRule(at, f"there is no such keyword; did you mean {near[0]}?")


def _check_exact(place: Place, keyword: str, value: Any) -> None:
    """Refuse a number that is another one as a 64-bit float, or a limit beyond the integers that floats have."""
    if keyword in ("enum", "const"):
        for at, number in _numbers(value, place):
            if not _is_exact(number):
                raise BrokenRule(at, "this number has too many digits to be enforced exactly: write it as a string")
    elif keyword in LIMITS and abs(value) > _EXACT:
        raise BrokenRule(place, "a limit beyond 2^53 cannot be enforced exactly")
    elif keyword in LIMITS and not _is_exact(value):
        raise BrokenRule(place, "this number has too many digits to be enforced exactly: write fewer")


def _numbers(value: Any, place: Place) -> Iterator[tuple[Place, int | Decimal]]:
    left = [(place, value)]
    while left:
        at, one = left.pop()
        if isinstance(one, int | Decimal) and not isinstance(one, bool):
            yield at, one
        elif isinstance(one, list):
            left += [((*at, index), each) for index, each in enumerate(one)]
        elif isinstance(one, dict):
            left += [((*at, name), each) for name, each in one.items()]


def _is_exact(number: int | Decimal) -> bool:
    """Whether the grammar compiler reads *number* as it is written: digits times a power of ten, both exact floats."""
    _, digits, exponent = Decimal(number).as_tuple()
    whole, power = "".join(map(str, digits)).lstrip("0"), int(exponent)
    shorter = whole.rstrip("0") if power >= 0 else whole  # zeros after the point are digits to it
    return len(shorter) <= 16 and int(shorter or 0) <= _EXACT and abs(power + len(whole) - len(shorter)) <= _MOST_POWER


def check_ends(nodes: Mapping[Place, Any], targets: Mapping[Place, Place]) -> None:
    """Refuse a schema that a value can begin to follow and never finish: one that contains itself in every case."""
    readers: dict[Place, list[Place]] = {}
    for place, node in nodes.items():
        for part in _parts(place, node, targets):
            readers.setdefault(part, []).append(place)
    ending: set[Place] = set()
    left = list(nodes)
    while left:
        place = left.pop()
        if place not in ending and _ends(place, nodes[place], targets, ending):
            ending.add(place)
            left += readers.get(place, ())
    endless = next((place for place in targets if place not in ending), None)
    if endless is not None:
        raise BrokenRule((*endless, "$ref"), "what it refers to contains itself in every case, without an end")


def _parts(place: Place, node: Any, targets: Mapping[Place, Place]) -> Iterator[Place]:
    """The schemas that decide whether *node* ends."""
    if isinstance(node, dict):
        for keyword in ("allOf", "anyOf", "oneOf"):
            yield from ((*place, keyword, at) for at in range(len(node.get(keyword, ()))))
        yield from _required_parts(place, node)
        if place in targets:
            yield targets[place]


def _ends(place: Place, node: Any, targets: Mapping[Place, Place], ending: set[Place]) -> bool:
    """Whether some value follows *node* and is finite, as far as the schemas known to be *ending* show."""
    if not isinstance(node, dict) or "enum" in node or "const" in node:
        return True
    if place in targets and targets[place] not in ending:
        return False
    if not all((*place, "allOf", at) in ending for at in range(len(node.get("allOf", ())))):
        return False
    for keyword in ("anyOf", "oneOf"):
        if keyword in node and not any((*place, keyword, at) in ending for at in range(len(node[keyword]))):
            return False
    return _has_other_type(node) or all(part in ending for part in _required_parts(place, node))


def _has_other_type(node: Mapping[str, Any]) -> bool:
    """Whether a value without parts, such as a string, may follow *node*."""
    types = node.get("type", _TYPES)
    return bool(set([types] if isinstance(types, str) else types) - {"object", "array"})


def _required_parts(place: Place, node: Mapping[str, Any]) -> Iterator[Place]:
    """The schemas of the parts that each object and each array that follows *node* has."""
    if node.get("type") in ("object", ["object"]):
        for name in node.get("required", ()):
            if name in node.get("properties", ()):
                yield (*place, "properties", name)
            elif "additionalProperties" in node:
                yield (*place, "additionalProperties")
    elif node.get("type") in ("array", ["array"]):
        yield from _required_items(place, node)


def _required_items(place: Place, node: Mapping[str, Any]) -> Iterator[Place]:
    prefix, least = len(node.get("prefixItems", ())), int(node.get("minItems", 0))
    yield from ((*place, "prefixItems", at) for at in range(min(least, prefix)))
    if least > prefix and isinstance(node.get("items"), dict | bool):
        yield (*place, "items")


def _place_of(schema: dict[str, Any], reference: str) -> Place | None:
    """The place that `#` or `#/...` names; None if there is none."""
    if not reference.startswith("#") or reference[1:2] not in ("", "/"):
        return None
    place: list[str | int] = []
    node: Any = schema
    for part in unquote(reference[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        step: str | int = int(name) if isinstance(node, list) and name.isdecimal() and len(name) < 6 else name
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            return None
        place.append(step)
    return tuple(place)


def _at(schema: Any, place: Place) -> Any:
    for step in place:
        schema = schema[step]
    return schema


def _no_number(name: str) -> None:
    raise BrokenRule((), f"{name} is no number in JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
        raise BrokenRule((), f"an object has the key `{twice[:40]}` twice")
    return found


def _one_of_types(value: Any) -> str:
    named = [value] if isinstance(value, str) else value
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        return "it must be the name of a type, or a list of them"
    unknown = next((name for name in named if name not in _TYPES), None)
    if unknown is None:
        return ""
    near = difflib.get_close_matches(unknown, _TYPES, n=1)
    return "there is no such type; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(_TYPES)}")


def _must(words: str, holds: Callable[[Any], bool]) -> Callable[[Any], str]:
    return lambda value: "" if holds(value) else f"it must be {words}"


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_schema = _must("a schema", lambda value: isinstance(value, dict | bool))
_schemas = _must("a list of schemas that is not empty", lambda value: isinstance(value, list) and bool(value))
_schema_or_list = _must("a schema", lambda value: isinstance(value, dict | bool | list))
_named_schemas = _must("an object of schemas", lambda value: isinstance(value, dict))
_text = _must("a text", lambda value: isinstance(value, str))
_flag = _must("true or false", lambda value: isinstance(value, bool))
_count = _must("a whole number, 0 or more", _is_count)
_number = _must("a number", _is_number)
LIMITS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
    "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains")  # fmt: skip
_NOTES: Final = ("$schema", "title", "description", "$comment")
KINDS: Final[dict[str, Callable[[Any], str]]] = {
    "type": _one_of_types,
    "enum": _must("a list that is not empty", lambda value: isinstance(value, list) and bool(value)),
    "const": lambda _: "",
    "required": _must("a list of names", _is_names),
    "multipleOf": _must("a number above 0", lambda value: _is_number(value) and value > 0),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    **dict.fromkeys(LIMITS[5:], _count),
    **dict.fromkeys(("pattern", "format", "$ref", "$id", "$anchor"), _text),
    **dict.fromkeys(_NOTES, _text),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _flag),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _schemas),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"), _named_schemas),
    **dict.fromkeys(("additionalProperties", "additionalItems", "not", "if", "then", "else", "contains",
        "propertyNames", "unevaluatedItems", "unevaluatedProperties"), _schema),
    "items": _schema_or_list,
    "x-guidance": lambda _: "it is no keyword of JSON Schema",
}  # fmt: skip
CONSTRAINTS: Final = tuple(name for name in KINDS if name not in _NOTES)

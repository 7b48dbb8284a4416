"""The shapes of values in requests: JSON Schemas, and the checks that are made of them.

One notation for both: the document at `/openapi.json` holds the very schemas that the gateway checks, so that neither
can say what the other does not. It is the part of JSON Schema 2020-12 that requests need, with OpenAPI's
`discriminator`: of several objects, the one whose property has the value of the request is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hybrid_llm.core.fields import Number, Whole
from hybrid_llm.router.failures import Failure

Schema = dict[str, Any]
Check = Callable[[Any, str], None]
"""Raises `Failure` if a value, at a place of the request, has another shape."""

TEXT: Final[Schema] = {"type": "string"}
NAME: Final[Schema] = {"type": "string", "minLength": 1}
FLAG: Final[Schema] = {"type": "boolean"}
OBJECT: Final[Schema] = {"type": "object"}
ANYTHING: Final[Schema] = {}
NULL: Final[Schema] = {"type": "null"}


def number(limits: Whole | Number) -> Schema:
    """A number within *limits*."""
    kind = "integer" if isinstance(limits, Whole) else "number"
    return {"type": kind, "minimum": limits.least, "maximum": limits.most}


def words(*allowed: str) -> Schema:
    """One of a few words."""
    return {"type": "string", "enum": list(allowed)}


def list_of(item: Schema, **limits: int) -> Schema:
    """A list; *limits* are `minItems` and `maxItems`."""
    return {"type": "array", "items": item, **limits}


def record(required: Mapping[str, Schema] | None = None, /, **optional: Schema) -> Schema:
    """An object with *required* properties; others, and those that are null, are as good as absent."""
    schema: Schema = {
        "type": "object",
        "properties": {**(required or {}), **{name: or_null(one) for name, one in optional.items()}},
    }
    return schema | ({"required": list(required)} if required else {})


def any_of(*schemas: Schema) -> Schema:
    """A value of one of *schemas*, no two of which take values of one type."""
    return {"anyOf": list(schemas)}


def or_null(schema: Schema) -> Schema:
    """*schema*, or null."""
    if schema == ANYTHING:
        return schema
    return any_of(*schema.get("anyOf", [schema]), NULL)


def by(name: str, schemas: Mapping[str, Schema], *, absent: str | None = None) -> Schema:
    """An object of the kind that its property *name* says; without it, of the kind *absent*."""
    kinds = [_kind(name, kind, schema, required=kind != absent) for kind, schema in schemas.items()]
    return {"oneOf": kinds, "discriminator": {"propertyName": name}}


def _kind(name: str, kind: str, schema: Schema, *, required: bool) -> Schema:
    properties = {name: {"const": kind}, **schema.get("properties", {})}
    return {
        "type": "object",
        "properties": properties,
        "required": [*([name] if required else []), *schema.get("required", ())],
    }


def check_of(schema: Schema) -> Check:
    """The check of *schema*."""
    if "oneOf" in schema:
        return _by_kind(schema)
    if "anyOf" in schema:
        return _by_type(schema["anyOf"])
    if "const" in schema or ("enum" in schema and "type" not in schema):
        return _among(schema.get("enum", [schema.get("const")]))
    return {
        "string": _text,
        "integer": _number,
        "number": _number,
        "boolean": _plain,
        "null": _plain,
        "array": _list,
        "object": _record,
    }.get(schema.get("type", ""), _anything)(schema)


def same(one: Any, other: Any) -> bool:
    """Whether two values are one in JSON, where true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


_TYPES: Final[Mapping[str, tuple[type | tuple[type, ...], str]]] = {
    "string": (str, "a text"),
    "integer": (int, "a whole number"),
    "number": ((int, float), "a number"),
    "boolean": (bool, "true or false"),
    "null": (type(None), "null"),
    "array": (list, "a list"),
    "object": (dict, "an object"),
}


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind][0]) and (kind == "boolean" or not isinstance(value, bool))


def _refuse(place: str, kinds: Sequence[str]) -> Failure:
    wanted = " or ".join(_TYPES[kind][1] for kind in kinds)
    return Failure(400, "invalid_type", f"{place}: it must be {wanted}", _field(place))


def _field(place: str) -> str:
    """The field of the request in which *place* is."""
    return place.partition(".")[0].partition("[")[0]


def _anything(_: Schema) -> Check:
    def check(_value: Any, _place: str) -> None:
        """Take every value."""

    return check


def _plain(schema: Schema) -> Check:
    kind = schema["type"]

    def check(value: Any, place: str) -> None:
        if not _is(value, kind):
            raise _refuse(place, [kind])

    return check


def _text(schema: Schema) -> Check:
    least, most, allowed = schema.get("minLength", 0), schema.get("maxLength"), schema.get("enum")

    def check(value: Any, place: str) -> None:
        if not isinstance(value, str):
            raise _refuse(place, ["string"])
        if allowed is not None and value not in allowed:
            raise _not_among(place, allowed)
        if len(value) < least or (most is not None and len(value) > most):
            span = f"at least {least} characters" if most is None else f"{least} to {most} characters"
            raise Failure(400, "invalid_value", f"{place}: it must have {span}", _field(place))

    return check


def _number(schema: Schema) -> Check:
    kind, least, most = schema["type"], schema.get("minimum"), schema.get("maximum")

    def check(value: Any, place: str) -> None:
        if not _is(value, kind):
            raise _refuse(place, [kind])
        if (least is not None and value < least) or (most is not None and value > most):
            span = f"of at least {least:g}" if most is None else f"from {least:g} to {most:g}"
            raise Failure(400, "invalid_value", f"{place}: it must be {_TYPES[kind][1]} {span}", _field(place))

    return check


def _list(schema: Schema) -> Check:
    item = check_of(schema.get("items", ANYTHING))
    least, most = schema.get("minItems", 0), schema.get("maxItems")

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list):
            raise _refuse(place, ["array"])
        if len(value) < least or (most is not None and len(value) > most):
            span = f"at least {least}" if most is None else f"{least} to {most}"
            raise Failure(400, "invalid_value", f"{place}: it must have {span} items", _field(place))
        for at, one in enumerate(value):
            item(one, f"{place}[{at}]")

    return check


def _record(schema: Schema) -> Check:
    checks = {name: check_of(one) for name, one in schema.get("properties", {}).items()}
    required, closed = schema.get("required", ()), schema.get("additionalProperties") is False

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise _refuse(place, ["object"])
        for name in required:
            if name not in value:
                raise Failure(400, "missing_required_parameter", f"{place}.{name}: it is missing", _field(place))
        for name, one in value.items():
            if name in checks:
                checks[name](one, f"{place}.{name}")
            elif closed:
                text = f"{place}: there are {', '.join(checks)}, and nothing else"
                raise Failure(400, "unknown_parameter", text, _field(place))

    return check


def _by_type(schemas: Sequence[Schema]) -> Check:
    """The check of the one schema that takes values of the type that a value has."""
    kinds = {"object" if "oneOf" in schema else schema["type"]: check_of(schema) for schema in schemas}

    def check(value: Any, place: str) -> None:
        for kind, one in kinds.items():
            if _is(value, kind):
                return one(value, place)
        raise _refuse(place, list(kinds))

    return check


def _by_kind(schema: Schema) -> Check:
    name = schema["discriminator"]["propertyName"]
    kinds: dict[Any, Check] = {}
    absent: Check | None = None
    for one in schema["oneOf"]:
        kinds[one["properties"][name]["const"]] = kind = check_of(one)
        absent = absent if name in one["required"] else kind

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise _refuse(place, ["object"])
        if name not in value and absent is not None:
            return absent(value, place)
        kind = value.get(name)
        if not isinstance(kind, str) or kind not in kinds:
            raise _not_among(f"{place}.{name}", list(kinds))
        return kinds[kind](value, place)

    return check


def _among(allowed: Sequence[Any]) -> Check:
    def check(value: Any, place: str) -> None:
        if not any(same(value, one) for one in allowed):
            raise _not_among(place, allowed)

    return check


def _not_among(place: str, allowed: Sequence[Any]) -> Failure:
    listed = ", ".join(repr(one) for one in allowed)
    return Failure(400, "unsupported_value", f"{place}: only {listed} is supported", _field(place))

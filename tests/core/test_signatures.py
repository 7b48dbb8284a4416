"""What a typed function tells a model, and the values that a model's arguments become."""

from __future__ import annotations

import datetime as dt
import decimal
import importlib.util
import json
import pathlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, TypedDict

import jsonschema
import pytest

from hybrid_llm import InvalidRequest, Tool
from hybrid_llm.backends.calls.grammar import check_tool
from hybrid_llm.core.docstrings import read_docstring
from hybrid_llm.core.signatures import bound

GOOGLE = """Tell the weather.

It is never wrong.

Args:
    city (str): The name of a city,
        in English: as on a map.
    *days: For how many.

Returns:
    A text.
"""
NUMPY = """Tell the weather.

It is never wrong.

Parameters
----------
city : str
    The name of a city,
    in English: as on a map.
days, hours : int, optional
    For how many.

Returns
-------
str
    A text.
"""
SPHINX = """Tell the weather.

It is never wrong.

:param str city: The name of a city,
    in English: as on a map.
:type days: int
:param days: For how many.
:returns: A text.
:raises ValueError: never.
"""
EPYDOC = SPHINX.replace("\n:", "\n@")


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX, EPYDOC, GOOGLE.replace("Args", "Parameters")])
def test_a_docstring_is_read_in_the_usual_styles(text):
    body, described = read_docstring(text)
    assert body == "Tell the weather.\n\nIt is never wrong."
    assert described["city"] == "The name of a city, in English: as on a map."
    assert described["days"] == "For how many."
    assert described.keys() <= {"city", "days", "hours"}


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("", ""),
        ("Say: hello.\n\nNote: it is\n    indented.", "Say: hello.\n\nNote: it is\n    indented."),
        ("Parameters\nare not listed.", "Parameters\nare not listed."),
        ("Do it.\n\nReturns:\n    Nothing.", "Do it."),
        ("Do it.\n\nArgs:", "Do it."),
        ("Do it.\n\nParameters\n----------", "Do it."),
    ],
)
def test_what_is_no_list_of_parameters_is_none(text, body):
    assert read_docstring(text) == (body, {})


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    """A point.

    Attributes:
        x: To the right.
    """

    x: float
    y: float = 0.5
    tags: list[Colour] = field(default_factory=list)


@dataclass(frozen=True)
class Tree:
    name: str
    below: tuple[Tree, ...] = ()


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


User = NewType("User", int)
NIL = uuid.UUID(int=0)
INSTANT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)

CASES = [
    (Colour, {"type": "string", "enum": ["red", "blue"]}, "red", Colour.RED),
    (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}, "a", "a"),
    (Literal["a", 2, None], {"enum": ["a", 2, None]}, 2, 2),
    (User, {"type": "integer"}, 7, 7),
    (tuple[int, Colour], None, [1, "red"], (1, Colour.RED)),
    (tuple[Colour, ...], None, ["red"], (Colour.RED,)),
    (frozenset[int], {"type": "array", "items": {"type": "integer"}}, [1, 1], frozenset({1})),
    (Sequence[Colour], None, ["red"], [Colour.RED]),
    (Iterable[int], None, [1], [1]),
    (list, {"type": "array", "items": {}}, [1, "a"], [1, "a"]),
    (dict, {"type": "object"}, {"a": 1}, {"a": 1}),
    (dict[str, list[Colour]], None, {"a": ["red"]}, {"a": [Colour.RED]}),
    (Any, {}, {"a": [1]}, {"a": [1]}),
    (dt.datetime, {"type": "string", "format": "date-time"}, "2026-01-02T03:04:05Z", INSTANT),
    (dt.date, {"type": "string", "format": "date"}, "2026-01-02", dt.date(2026, 1, 2)),
    (dt.time | None, None, "03:04:05", dt.time(3, 4, 5)),
    (uuid.UUID, {"type": "string", "format": "uuid"}, str(NIL), NIL),
    (decimal.Decimal, {"type": "number"}, 0.1, decimal.Decimal("0.1")),
    (pathlib.Path, {"type": "string"}, "a/b", pathlib.Path("a/b")),
    (Point, None, {"x": 1, "tags": ["red"]}, Point(1, tags=[Colour.RED])),
    (Point | Colour, None, {"x": 1}, Point(1)),
    (Tree, None, {"name": "a", "below": [{"name": "b"}]}, Tree("a", (Tree("b"),))),
    (Movie, None, {"title": "x", "year": 1}, {"title": "x", "year": 1}),
    (list[Movie], None, [{"title": "x"}], [{"title": "x"}]),
    (Annotated[list[Point], "points"], None, [{"x": 1}], [Point(1)]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "schema", "value", "made"), CASES)
def test_a_type_has_a_schema_that_a_grammar_holds_and_its_arguments_become_that_type(kind, schema, value, made):
    def tool(x):
        pass

    tool.__annotations__ = {"x": kind}
    whole = json.loads(check_tool(Tool.of(tool), 0))
    assert schema is None or whole["properties"]["x"] == schema
    jsonschema.validate({"x": value}, whole)
    (found,) = bound(tool, {"x": value}).values()
    assert (found, type(found)) == (made, type(made))


def test_the_schemas_of_records_are_written_once_with_what_their_docstrings_say():
    def draw(start: Point, end: Point, tree: Tree, movie: Movie) -> None:
        """Draw."""

    draw.__annotations__ = {"start": Point, "end": Point, "tree": Tree, "movie": Movie}
    whole = json.loads(Tool.of(draw).parameters)
    assert whole["properties"]["start"] == whole["properties"]["end"] == {"$ref": "#/$defs/Point"}
    point = whole["$defs"]["Point"]
    assert (point["description"], point["required"]) == ("A point.", ["x"])
    assert point["properties"]["x"] == {"type": "number", "description": "To the right."}
    assert point["properties"]["y"] == {"type": "number", "default": 0.5}
    assert whole["$defs"]["Tree"]["properties"]["below"]["items"] == {"$ref": "#/$defs/Tree"}
    assert "description" not in whole["$defs"]["Tree"], "the docstring that `dataclass` writes says nothing"
    assert whole["$defs"]["Movie"]["required"] == ["title"]


def test_defaults_are_in_the_schema_where_json_has_them():
    def paint(
        colour: Colour = Colour.BLUE, size: int = 3, at: Point | None = None, by: float = float("inf"), on: Any = object
    ) -> None:
        """Paint."""

    properties = json.loads(Tool.of(paint).parameters)["properties"]
    defaults = {name: schema["default"] for name, schema in properties.items() if "default" in schema}
    assert {name: defaults[name] for name in ("colour", "size")} == {"colour": "blue", "size": 3}
    assert "at" not in defaults
    assert json.loads(Tool.of(paint).parameters)["required"] == []


@pytest.mark.skipif(importlib.util.find_spec("pydantic") is None, reason="needs pydantic")
def test_the_limits_and_texts_of_fields_are_in_the_schema():
    from pydantic import BaseModel, Field

    def book(seats, name, days, price=1.5):
        """Book."""

    book.__annotations__ = {
        "seats": Annotated[int, Field(ge=1, lt=9, description="How many.")],
        "name": Annotated[str, Field(pattern="^[a-z]+$", max_length=5)],
        "days": Annotated[list[int], Field(min_length=1)],
        "price": Annotated[float, Field(multiple_of=0.5)],
    }
    properties = json.loads(check_tool(Tool.of(book), 0))["properties"]
    assert properties == {
        "seats": {"type": "integer", "description": "How many.", "minimum": 1, "exclusiveMaximum": 9},
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
        "days": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        "price": {"type": "number", "multipleOf": 0.5, "default": 1.5},
    }

    class Titled(BaseModel):
        title: str
        kind: str = Field(default="x", examples=[{"title": "kept"}])

    made = json.loads(Tool.of(Titled).parameters)["properties"]
    assert made == {
        "title": {"type": "string"},
        "kind": {"type": "string", "default": "x", "examples": [{"title": "kept"}]},
    }


@pytest.mark.skipif(importlib.util.find_spec("pydantic") is None, reason="needs pydantic")
def test_two_models_of_one_name_keep_their_own_definitions():
    from pydantic import create_model

    inner = [create_model("Inner", **{name: (int, ...)}) for name in "ab"]
    outer = [create_model(f"Outer{at}", x=(each, ...)) for at, each in enumerate(inner)]

    def both(left, right):
        pass

    both.__annotations__ = dict(zip(("left", "right"), outer, strict=True))
    whole = json.loads(check_tool(Tool.of(both), 0))
    jsonschema.validate({"left": {"x": {"a": 1}}, "right": {"x": {"b": 1}}}, whole)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"left": {"x": {"a": 1}}, "right": {"x": {"a": 1}}}, whole)


class Pair(NamedTuple):
    left: int


@pytest.mark.parametrize("kind", [bytes, complex, dict[int, str], list[bytes], Pair, type, tuple[bytes, ...]])
def test_a_type_that_json_does_not_have_is_refused_with_the_name_of_its_parameter(kind):
    def tool(x):
        pass

    tool.__annotations__ = {"x": kind}
    with pytest.raises(InvalidRequest, match="the parameter 'x' of the function 'tool'"):
        Tool.of(tool)

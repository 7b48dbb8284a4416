"""One line declares a key: the reader, the JSON Schema and the Markdown table are made from it, and agree."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hybrid_llm.core.errors import PolicyError
from hybrid_llm.core.fields import (
    VERSION,
    Amount,
    Choice,
    File,
    Flag,
    ListOf,
    MapOf,
    Money,
    Number,
    Text,
    Variants,
    Whole,
    duration,
    key,
    one_of,
    percentage,
    table,
)
from hybrid_llm.policies.reader.fields import parse_document
from hybrid_llm.policies.reader.schemas import json_schema
from tests.checks.schemas import markdown_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """A square."""

    side: float = key(Number(0.5, 10.0), "Length of a side.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every kind of value."""

    name: str = key(Text(), "A text.")
    count: int = key(Whole(1, 10), "A whole number.", default=2)
    quick: bool = key(Flag(), "A flag.", default=False)
    size: str = key(Choice.of("small", "large"), "A word.", default="small")
    wait_ms: float = key(duration("ms", 1.0, 3.6e6), "A duration.", name="wait", default=250.0)
    share: float = key(percentage(), "A percentage.", default=0.1)
    price: Money | None = key(Amount(), "An amount.", default=None)
    folder: Path | None = key(one_of(Choice({"none": None}), File()), "A path.", default=None)
    tags: tuple[str, ...] = key(ListOf(Text("a tag"), single=True), "Names.", default=())
    shapes: dict = key(MapOf(Variants("shape", lambda: ["square"], lambda _: SQUARE)), "Shapes.", default={})


SQUARE = table(Square, "a square")
SETTINGS = table(Settings, "settings", extra=(VERSION,))
SCHEMA = Draft202012Validator(json_schema(SETTINGS, "Settings", "this test"))


def read(text: str) -> Settings:
    return parse_document(text, "settings.yaml", "the settings", SETTINGS, Path("/etc"))


def test_a_file_becomes_a_record_with_defaults():
    assert read("version: 1\nname: a\n") == Settings(name="a")
    found = read("version: 1\nname: a\nwait: 2s\nshare: 25%\nprice: 3 EUR\nfolder: x\ntags: one\ncount: 3\n")
    assert (found.wait_ms, found.share, found.price) == (2000.0, 0.25, Money(3.0, "EUR"))
    assert (found.folder, found.tags, found.count) == (Path("/etc/x"), ("one",), 3)


@pytest.mark.parametrize(
    ("line", "column", "message", "hint"),
    [
        ("count: 11", 8, "`11` is not a whole number from 1 to 10", ""),
        ("cuont: 1", 1, "settings has no key `cuont`", "did you mean `count`?"),
        ("size: larg", 7, "`larg` is not `small` or `large`", "did you mean `large`?"),
        ("wait: 2h", 7, "`2h` is more than 1h", ""),
        ("wait: 100us", 7, "`100us` is less than 1ms", ""),
        ("quick: yes", 8, "`yes` is not true or false", "write true, without quotes"),
        ("shapes: {a: {kind: circle}}", 20, "`circle` is not a kind of shape", "known here: square"),
        ("shapes: {a: {kind: square}}", 10, "`side` is missing", ""),
        ("shapes: {a: {kind: square, side: 11}}", 34, "`11` is not a number from 0.5 to 10", ""),
        ("tags: [a, a]", 11, "`a` is in the list twice", ""),
    ],
)
def test_what_is_wrong_is_reported_with_position_and_hint(line, column, message, hint):
    with pytest.raises(PolicyError) as caught:
        read(f"version: 1\nname: a\n{line}\n")
    (error,) = caught.value.errors
    assert (error.line, error.column, error.hint or "") == (3, column, hint)
    assert f"settings.yaml:3:{column}: {message}" in str(error)


VALUES = st.sampled_from(
    [0, 1, 10, 11, 0.5, True, "a", "", "small", "none", "5%", "101%", "2s", "0ms", "1 EUR", [], ["a"]]
)
LIMITS = ("is more than 1h", "is less than 1ms")


@given(st.dictionaries(st.sampled_from([key.name for key in SETTINGS.keys]), VALUES, max_size=4))
def test_schema_and_reader_agree(document):
    document = {"version": 1, "name": "a", **document}
    try:
        read(json.dumps(document))
        problems = []
    except PolicyError as error:
        problems = [str(one) for one in error.errors if not any(limit in str(one) for limit in LIMITS)]
    assert SCHEMA.is_valid(document) is (not problems), problems or list(SCHEMA.iter_errors(document))


def test_the_table_for_the_docs_has_every_key_with_its_default():
    rows = markdown_table(SETTINGS).splitlines()
    assert len(rows) == 2 + len(SETTINGS.keys)
    assert "| `wait` | a duration such as 400ms | `250ms` | A duration. |" in rows
    assert "| `share` | a percentage such as 10% | `10%` | A percentage. |" in rows
    assert "| `name` | a text | required | A text. |" in rows

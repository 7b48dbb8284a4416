"""The text of a task is what stands between its marks, whatever it holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.request import Message, Request
from hybrid_llm.core.taskform import classify_schema, fenced, kinds_of, labels_of, text_of

PIECES = st.lists(st.sampled_from(["<text>", "</text>", "\n", "<text-2>\n", "\n</text-2>", "a", "text>", "text-3>"]))


def request(content: str) -> Request:
    return Request(messages=(Message(role="user", content=content),), deadline=86_400.0)


@given(st.text() | PIECES.map("".join))
def test_no_text_ends_before_its_end(text):
    assert text_of(request(fenced(text))) == text
    assert text_of(request(f"{fenced(text)}\n\nQuestion: which?")) == text


def test_a_message_without_marks_has_no_text():
    assert text_of(request("hello")) is None


@given(st.lists(st.text(), min_size=1, unique=True))
def test_the_labels_of_a_schema_come_back(labels):
    assert labels_of(classify_schema(labels)) == tuple(labels)


@pytest.mark.parametrize("schema", [None, [], {}, {"properties": 1}, {"properties": {"label": 1}}, {"enum": ["a"]}])
def test_another_schema_has_no_labels_and_no_kinds(schema):
    assert labels_of(schema) == ()
    assert kinds_of(schema) == {}


def test_kinds_are_lists_of_texts_or_texts_that_may_be_missing():
    texts = {"type": "array", "items": {"type": "string"}, "title": "People"}
    none = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    schema = {"type": "object", "properties": {"a": texts, "b": none, "c": {"type": "string"}}, "required": ["a"]}
    assert kinds_of(schema) == {"a": 10**9, "b": 0, "c": 0}
    assert kinds_of({**schema, "properties": {"a": {**texts, "maxItems": 3}}}) == {"a": 3}
    assert kinds_of({**schema, "required": ["a", "c"]}) == {}  # `c` cannot be left out where there is none
    assert kinds_of({**schema, "minProperties": 2}) == {}
    assert kinds_of({**schema, "properties": {"a": {**texts, "minItems": 1}}}) == {}
    assert kinds_of({**schema, "properties": {"a": {"type": "number"}}}) == {}

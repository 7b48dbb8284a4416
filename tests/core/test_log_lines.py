"""Log records as lines of JSON: one object a line, with fields, and no text of an exception."""

from __future__ import annotations

import json
import logging
import sys

from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.cli.json_stderr import objects
from hybrid_llm.core.log_lines import FIELDS, JSONLines


def line(message, *args, exc_info=None, **fields):
    record = logging.LogRecord("hybrid_llm.x", logging.WARNING, __file__, 1, message, args, exc_info)
    setattr(record, FIELDS, fields)
    return JSONLines().format(record)


@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=3))
def test_a_record_is_one_line_of_json(message, fields):
    text = line("%s", message, **{key: value for key, value in fields.items() if key not in ("message", "exc_info")})
    assert "\n" not in text
    found = json.loads(text)
    assert (found["message"], found["level"], found["logger"]) == (message, "WARNING", "hybrid_llm.x")
    assert found["time"].endswith("Z")


def test_a_field_takes_the_place_of_no_part_of_the_record():
    assert json.loads(line("real", level="DEBUG", request="r-1"))["level"] == "WARNING"


def test_an_exception_is_its_class_and_where_it_was_raised():
    try:
        raise ValueError("SECRET")
    except ValueError:
        text = line("failed", exc_info=sys.exc_info())
    assert json.loads(text)["error"] == "ValueError"
    assert json.loads(text)["stack"][-1].endswith("test_an_exception_is_its_class_and_where_it_was_raised")
    assert "SECRET" not in text


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])), max_size=6))
def test_whatever_is_written_to_standard_error_becomes_objects_with_nothing_lost(lines):
    record = JSONLines().format(logging.makeLogRecord({"msg": "\u2028 \r\n"}))
    found = [json.loads(each) for each in objects("\n".join(["E0101 x", *lines, record]).encode())]
    assert found[-1]["message"] == "\u2028 \r\n"
    assert [each["message"] for each in found[:-1]] == ["E0101 x", *filter(str.strip, lines)]

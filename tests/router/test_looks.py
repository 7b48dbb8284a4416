"""Long work looks at the deadline between its pieces, and finds in pieces what it finds in the whole."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core import looks
from hybrid_llm.router.privacy.detectors import DETECTORS, prepare
from hybrid_llm.router.privacy.pseudonyms.patterns import Patterns

PART = 1 << 16


class Over(Exception):
    """The deadline is over."""


def over() -> None:
    raise Over


@given(st.integers(PART - 12, PART + 12), st.integers(1, 9))
def test_a_match_across_two_parts_is_found_as_in_the_whole(at, size):
    data = b"." * at + b"a" * size + b".aa." + b"." * PART + b"aaa"
    pattern = re.compile(rb"a{1,9}")
    whole = [match.span() for match in pattern.finditer(data)]
    assert [match.span() for match in looks.bounded(pattern, data, 9)] == whole


@given(st.integers(PART - 20, PART + 5))
def test_a_known_value_across_two_parts_is_found(at):
    known: Patterns[str] = Patterns()
    known.add_all(["jane.doe@example.org"], "email")
    known.add_all(["jane"], "name")
    text = "é" + "." * at + "jane.doe@example.org" + "." * PART
    start = at + 1
    found = sorted(known.matches(text))
    assert found == [(start, start + 4, "name"), (start, start + 20, "email")]


@pytest.mark.parametrize("name", ["email", "phone", "credential"])
def test_a_scan_within_one_text_ends_when_the_deadline_is_over(name):
    text = "\n".join(f"token=Zq{n:05d}xK9 mail u{n}@example.org call +1 415 201 {n % 10000:04d}" for n in range(3000))
    (prepared,) = prepare([text])
    looking = looks.begin(over)
    try:
        with pytest.raises(Over):
            DETECTORS[name].find_in(prepared)
    finally:
        looks.end(looking)


def test_without_a_deadline_nothing_ends():
    looks.look()
    assert list(looks.looked(range(600))) == list(range(600))

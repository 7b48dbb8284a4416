"""The check of the bytes that leave: a text that was not cleared stops them, wherever it stands."""

from __future__ import annotations

from typing import Any

import pytest

from hybrid_llm.backends.http.encode import checked, named
from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.request import Location, Sampling


@pytest.mark.parametrize(
    "body",
    [
        {"a": "leak"},
        {"leak": "a"},
        {"a": ["a", {"a": {"a": ["leak"]}}]},
        {"a": "a "},
        {"a": "A"},
        {"a": ""},
        {"a": 1, "b": "a"},
    ],
)
def test_a_text_that_was_not_cleared_does_not_leave(body: dict[str, Any]) -> None:
    with pytest.raises(PrivacyViolation):
        checked(body, {"a"}, Location.CLOUD)


def test_what_was_cleared_leaves_as_it_is() -> None:
    assert checked({"a": ["ä", 1, None, True]}, {"a", "ä"}, Location.CLOUD) == b'{"a":["\\u00e4",1,null,true]}'


def test_a_number_that_json_does_not_have_is_no_body() -> None:
    with pytest.raises(ValueError, match="JSON"):
        checked({"a": float("inf")}, {"a"}, Location.CLOUD)


def test_settings_that_nobody_named_are_left_to_the_server() -> None:
    assert named(Sampling()) == {}
    assert named(Sampling(temperature=0.0, explicit=("temperature",))) == {"temperature": 0.0}
    assert named(Sampling(top_k=3, seed=0)) == {"top_k": 3, "seed": 0}

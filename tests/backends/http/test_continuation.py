"""What an answer repeats of the end of the one that it goes on with is cut, however it is cut into pieces."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given

from hybrid_llm.backends.http.continuation import Seam


def joined(partial: str, pieces: list[str]) -> str:
    seam = Seam(partial)
    return "".join([*map(seam.join, pieces), seam.rest()])


def cut(text: str, cuts: list[int]) -> list[str]:
    at = sorted({0, len(text), *(each % (len(text) + 1) for each in cuts)})
    return [text[start:end] for start, end in pairwise(at)]


SMALL = st.text("ab ,", max_size=24)


@given(SMALL, SMALL, st.lists(st.integers(0, 99), max_size=8))
def test_the_result_does_not_depend_on_how_the_answer_is_cut(partial: str, text: str, cuts: list[int]) -> None:
    assert joined(partial, cut(text, cuts)) == joined(partial, [text])


@given(st.text(min_size=4, max_size=300), SMALL, st.lists(st.integers(0, 99), max_size=8), st.integers(4, 200))
def test_a_repetition_is_cut_and_nothing_else(partial: str, rest: str, cuts: list[int], size: int) -> None:
    repeated = partial[-size:]
    result = joined(partial, cut(repeated + rest, cuts))
    assert (repeated + rest).endswith(result)
    assert len(result) <= len(rest)


@given(st.text(max_size=50), st.lists(st.text(max_size=5), max_size=9))
def test_what_repeats_nothing_is_passed_on_whole(partial: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    kept = joined(partial, pieces)
    assert text.endswith(kept)
    assert kept == text or partial.endswith(text.removesuffix(kept))


def test_without_a_partial_answer_nothing_is_held_back() -> None:
    assert Seam().join("x") == "x"

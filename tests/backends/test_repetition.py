"""A loop is found soon after it began, and texts in which much is alike hold none."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.repetition import RepetitionWatch


def found_at(tokens):
    watch = RepetitionWatch(len(tokens))
    return next((index for index, token in enumerate(tokens) if watch.push(token)), None)


@given(
    before=st.lists(st.integers(0, 50_000), max_size=300),
    piece=st.lists(st.integers(0, 50_000), min_size=1, max_size=256),
)
def test_any_loop_is_found_once_it_repeated_itself_three_times_or_for_128_tokens(before, piece):
    at = found_at([*before, *piece * (4 + 128 // len(piece) + 1)])
    assert at is not None
    assert at < len(before) + len(piece) + max(3 * len(piece), 128)


@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 40)), max_size=4))
def test_what_it_finds_is_a_loop(pieces):
    """Beside the definition itself, on pieces of few words that come again and again."""
    tokens = [token for piece, times in pieces for token in piece * times][:600]
    at = found_at(tokens)

    def looped(end):
        return any(
            all(tokens[i] == tokens[i - period] for i in range(end - max(3 * period, 128), end))
            for period in range(1, 1 + len(tokens))
            if end - max(3 * period, 128) - period >= 0
        )

    assert at == next((end - 1 for end in range(1, len(tokens) + 1) if looped(end)), None)


REFRAIN = [*range(900, 960)]


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param([5, 6, 7] * 40, id="a rule between the columns of a table"),
        pytest.param([t for row in range(400) for t in (9, row, 9, row % 7, 9, 10)], id="a numbered table"),
        pytest.param([t for verse in range(30) for t in (*range(verse * 9, verse * 9 + 50), *REFRAIN)], id="a refrain"),
        pytest.param(REFRAIN * 3, id="a refrain that is sung three times"),
        pytest.param([t for n in range(300) for t in (n % 100, 11)], id="numbers that count to 99, three times"),
        pytest.param(random.Random(7).choices((0, 1), k=5000), id="one of two, again and again"),
    ],
)
def test_tables_lists_and_refrains_are_no_loops(tokens):
    assert found_at(tokens) is None

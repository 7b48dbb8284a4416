"""What is learnt from times to first token: averages, what a slow endpoint costs it and for how long, quantiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.latency import FirstTokenTimes


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_second_time_replaces_the_first_which_included_connecting():
    times = FirstTokenTimes()
    assert times.average_ms is None
    times.add(900.0)
    assert (times.average_ms, times.expected_ms) == (900.0, 0.0)
    times.add(100.0)
    assert times.average_ms == 100.0
    times.add(200.0)
    assert times.average_ms == pytest.approx(120.0)


def test_a_missed_call_raises_what_is_expected_but_not_the_average_of_the_answers():
    times = FirstTokenTimes(Clock())
    for _ in range(2):
        times.add(100.0)
    times.add_missed(50.0)
    assert times.expected_ms == 100.0, "it was given up before an answer was due"
    times.add_missed(1100.0)
    assert times.expected_ms == pytest.approx(300.0)
    assert times.average_ms == 100.0


def test_what_is_expected_is_halved_for_every_ten_seconds_without_news():
    clock = Clock()
    times = FirstTokenTimes(clock)
    for _ in range(2):
        times.add(800.0)
    clock.now = 20.0
    assert times.expected_ms == pytest.approx(200.0)
    times.add(800.0)
    assert times.expected_ms == pytest.approx(800.0)


@given(st.lists(st.floats(0.0, 1e6), max_size=300), st.floats(0.0, 1.0))
def test_a_quantile_is_one_of_the_last_128_times_and_needs_twenty(values, share):
    times = FirstTokenTimes()
    for value in values:
        times.add(value)
    found = times.quantile(share)
    if len(values) < 20:
        assert found is None
    else:
        window = sorted(values[-128:])
        assert found in window
        assert sum(time <= found for time in window) >= share * len(window) - 1

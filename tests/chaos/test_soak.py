"""The short part of a soak: nothing lost, nothing wrong, and what it opened is closed; and how growth is measured."""

from __future__ import annotations

import math

import psutil
import pytest

from tests.chaos.soak import growth, soak
from tests.chaos.world import eventually


@pytest.mark.parametrize(
    ("values", "expected"),
    [([5.0] * 9, 0.0), ([float(n) for n in range(9)], 8.0), ([0.0, 9.0] * 50, 0.0), ([3.0], 0.0)],
)
def test_growth_is_that_of_the_fitted_line(values, expected):
    assert math.isclose(growth(list(enumerate(values))), expected, abs_tol=0.3)


def test_a_short_soak_loses_nothing_and_leaves_nothing_open():
    process = psutil.Process()
    before = process.num_fds()
    result = soak(6.0, rate=8.0)
    assert (result.outcomes["lost"], result.outcomes["wrong"]) == (0, 0), result.examples
    assert result.outcomes["answered"] > 0
    assert result.faults > 0
    assert {(each.process, each.figure) for each in result.trends} >= {("app", "RSS, MB"), ("node", "sockets")}
    assert eventually(lambda: process.num_fds() <= before + 10, 10.0) is not None

"""The short part of a soak: nothing lost, nothing wrong, and what it opened is closed; and how growth is measured."""

from __future__ import annotations

import csv
import math
from xml.etree import ElementTree as ET

import psutil
import pytest

from tests.chaos.curve import write_curve
from tests.chaos.soak import growth, soak
from tests.chaos.world import eventually


@pytest.mark.parametrize(
    ("values", "expected"),
    [([5.0] * 9, 0.0), ([float(n) for n in range(9)], 8.0), ([0.0, 9.0] * 50, 0.0), ([3.0], 0.0)],
)
def test_growth_is_that_of_the_fitted_line(values, expected):
    assert math.isclose(growth(list(enumerate(values))), expected, abs_tol=0.3)


def test_a_short_soak_loses_nothing_leaves_nothing_open_and_draws_its_curve(tmp_path):
    process = psutil.Process()
    before = process.num_fds()
    result = soak(6.0, rate=8.0)
    assert (result.outcomes["lost"], result.outcomes["wrong"]) == (0, 0), result.examples
    assert result.outcomes["answered"] > 0
    assert result.faults > 0
    assert {(each.process, each.figure) for each in result.trends} >= {("app", "RSS, MB"), ("node", "sockets")}
    paths = write_curve(tmp_path, result.samples, "RSS, MB")
    rows = list(csv.DictReader(paths[0].open(encoding="utf-8")))
    assert [int(row["requests"]) for row in rows] == sorted(int(row["requests"]) for row in rows)
    assert {row["process"] for row in rows} == {"app", "node"}
    lines = [each for each in ET.parse(paths[1]).getroot() if each.tag.endswith("polyline")]
    assert len(lines) == 2
    assert eventually(lambda: process.num_fds() <= before + 10, 10.0) is not None

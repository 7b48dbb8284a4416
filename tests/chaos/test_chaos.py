"""The short part of the chaos suite: a few faults, real node processes, some dozens of requests under each."""

from __future__ import annotations

import os

import pytest

from tests.chaos import faults
from tests.chaos.suite import play
from tests.chaos.world import World

REQUESTS = int(os.environ.get("HYBRID_LLM_CHAOS_REQUESTS", "40"))


@pytest.fixture(scope="module")
def world():
    with World() as made:
        yield made


@pytest.mark.parametrize(
    "kind", [faults.Kill, faults.Stop, faults.Cut, faults.Swapped, faults.DiskFull, faults.Closed], ids=lambda k: k.name
)
def test_whatever_goes_wrong_every_request_ends_once_and_no_answer_is_wrong(world, kind):
    (row,) = play(world, [kind], requests=REQUESTS, seed=1)
    assert (row.lost, row.wrong) == (0, 0), row.examples
    assert row.requests == REQUESTS
    assert row.answered > 0
    assert kind.ends_clients or row.back_s is not None, "no node answered again after the fault was gone"

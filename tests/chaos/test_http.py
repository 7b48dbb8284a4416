"""A few faults over HTTP: gateways as backends of kind `openai`, and such backends behind a gateway."""

from __future__ import annotations

import os

import pytest

from tests.chaos import faults
from tests.chaos.http import HttpWorld
from tests.chaos.official import OfficialWorld
from tests.chaos.suite import play

REQUESTS = int(os.environ.get("HYBRID_TESTS_CHAOS_REQUESTS", "30"))


@pytest.fixture(scope="module", params=[HttpWorld, OfficialWorld], ids=["library", "official client"])
def world(request):
    with request.param() as made:
        yield made


@pytest.mark.parametrize("kind", [faults.Kill, faults.Cut, faults.Garble, faults.Refused], ids=lambda k: k.name)
def test_over_http_too_every_request_ends_once_no_answer_is_wrong_and_nothing_private_leaves(world, kind):
    (told,) = play(world, [kind], requests=REQUESTS, seed=1)
    assert (told.lost, told.wrong, told.avoidable) == (0, 0, 0), told.examples
    assert told.answered > 0
    assert told.back_s is not None, "no server answered again after the fault was gone"
    seen = set().union(*(node.seen() for node in world.nodes))
    assert seen, "nothing has come to a server at all"

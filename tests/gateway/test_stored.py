"""Answers that a later request follows: they have their turns and their tags, are their tenant's, and are bounded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import Serve, fakes
from tests.gateway.test_http import Reply, send

RESPONSES = "/v1/responses"


def respond(url: str, text: str = "hello", headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    return send(url, RESPONSES, {"model": "auto", "input": text, **fields}, **(headers or {}))


def test_a_later_turn_goes_no_further_than_the_ones_before(serve: Serve) -> None:
    edge, cloud = fakes()
    url = serve(edge, cloud)
    hard = {"x_hybrid_task": "hard"}
    assert respond(url, headers=hard).headers["x-hybrid-backend"] == "cloud"
    cloud.requests.clear()
    first = respond(url, "private", hard | {"x_hybrid_privacy": "phi"}).document["id"]
    second = respond(url, "and now?", hard, previous_response_id=first)
    third = respond(url, "and then?", hard, previous_response_id=second.document["id"])
    for reply in (second, third):
        assert (reply.headers["x-hybrid-backend"], reply.headers["x-hybrid-tags"]) == ("edge", "phi")
    assert cloud.requests == []
    said = [turn.content for turn in edge.requests[-1].messages if turn.role == "user"]
    assert said == ["private", "and now?", "and then?"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_to_be_stored_is_not(serve: Serve, *, stream: bool) -> None:
    url = serve(*fakes())
    reply = respond(url, store=False, stream=stream)
    own = reply.events[-1]["response"]["id"] if stream else reply.document["id"]
    assert respond(url, previous_response_id=own).status == 404


def test_the_answers_used_longest_ago_are_dropped(serve: Serve) -> None:
    url = serve(*fakes(), responses=2)
    first, second = (respond(url).document["id"] for _ in range(2))
    assert send(url, f"{RESPONSES}/{first}", method="GET").status == 200
    third = respond(url).document["id"]
    found = [send(url, f"{RESPONSES}/{each}", method="GET").status for each in (first, second, third)]
    assert found == [200, 404, 200]


def test_only_its_tenant_reads_counts_or_deletes_an_answer(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")}
    keys.write_text(json.dumps([{"sha256": digest, "tenant": name} for name, digest in hashes.items()]))
    url = serve(*fakes(), keys=keys)
    own, other = ({"authorization": f"Bearer {name}"} for name in hashes)
    stored = respond(url, headers=own).document["id"]
    counted = {"model": "auto", "input": "x", "previous_response_id": stored}
    for headers, status in ((other, 404), (own, 200)):
        assert respond(url, headers=headers, previous_response_id=stored).status == status
        assert send(url, f"{RESPONSES}/input_tokens", counted, **headers).status == status
        for method in ("GET", "DELETE"):
            assert send(url, f"{RESPONSES}/{stored}", method=method, **headers).status == status

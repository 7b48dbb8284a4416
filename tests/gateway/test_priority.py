"""Priorities that clients of a gateway ask for: by our extension, by OpenAI's service tiers, within their rights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import FakeBackend
from tests.gateway.conftest import Serve, fakes

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
RESPONSE = {"model": "auto", "input": "hello"}
RIGHTS = "version: 1\nrights: [{name: local, who: local, models: '*', priority: 3}]\n"


@pytest.fixture
def rights(tmp_path: Path) -> Path:
    path = tmp_path / "rights.yaml"
    path.write_text(RIGHTS)
    return path


def following(backend: FakeBackend) -> FakeBackend:
    backend.capabilities = replace(backend.capabilities, priorities=True)
    return backend


def chat(url: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=CHAT | fields, headers=headers, timeout=20)


TIERS = [
    ("priority", 3, "priority"),
    ("flex", 0, "flex"),
    ("default", None, "default"),
    ("auto", None, "default"),
    ("scale", None, "default"),
]


@pytest.mark.parametrize(("tier", "priority", "reported"), TIERS)
def test_a_tier_asks_for_a_priority_and_the_answer_reports_the_tier_it_had(
    serve: Serve, rights, tier, priority, reported
):
    edge, cloud = map(following, fakes(["hello"]))
    url = serve(edge, cloud, rights=rights)
    assert chat(url, service_tier=tier).json()["service_tier"] == reported
    lines = chat(url, service_tier=tier, stream=True).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert [event["service_tier"] for event in events if "service_tier" in event] == [reported]
    response = httpx.post(f"{url}/v1/responses", json=RESPONSE | {"service_tier": tier}, timeout=20)
    assert response.json()["service_tier"] == reported
    assert [request.priority for request in edge.requests] == [priority] * 3


@pytest.mark.parametrize("tier", ["priority", "flex"])
def test_a_tier_that_no_backend_follows_is_reported_as_the_default(serve: Serve, rights, tier):
    assert chat(serve(*fakes(["hello"]), rights=rights), service_tier=tier).json()["service_tier"] == "default"


def test_without_rights_nobody_raises_itself_by_a_tier(serve: Serve):
    edge, cloud = map(following, fakes(["hello"]))
    assert chat(serve(edge, cloud), service_tier="priority").json()["service_tier"] == "default"
    assert edge.requests[0].priority is None


def test_an_answer_to_a_request_without_a_tier_reports_none(serve: Serve, rights):
    edge, cloud = map(following, fakes(["hello"]))
    url = serve(edge, cloud, rights=rights)
    assert "service_tier" not in chat(url).json()
    answer = chat(url, hybrid={"priority": 2, "details": True}).json()
    assert "service_tier" not in answer
    assert answer["hybrid"]["priority"] == 2


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"x-hybrid-priority": "2"}, {"hybrid": {"priority": 3}}),
        ({}, {"hybrid": {"priority": 2}, "service_tier": "flex"}),
        ({}, {"metadata": {"hybrid_priority": "2"}}),
    ],
)
def test_our_extension_names_a_priority_and_comes_before_a_tier(serve: Serve, rights, headers, fields):
    edge, cloud = map(following, fakes(["hello"]))
    assert chat(serve(edge, cloud, rights=rights), headers, **fields).status_code == 200
    assert edge.requests[0].priority == 2


def test_a_priority_above_the_entry_is_refused_and_not_lowered(serve: Serve, rights):
    edge, cloud = map(following, fakes(["hello"]))
    refused = chat(serve(edge, cloud, rights=rights), hybrid={"priority": 4})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    assert "priority" in refused.json()["error"]["message"]
    assert not edge.requests + cloud.requests


@pytest.mark.parametrize("value", [-1, 10, 1.5, True, "high", "", "-1", "١", [], {}])
@pytest.mark.parametrize("with_rights", [False, True])
def test_what_is_no_priority_is_refused_by_name(serve: Serve, rights, value, with_rights):
    url = serve(*fakes(["hello"]), rights=rights if with_rights else None)
    refused = chat(url, hybrid={"priority": value})
    assert refused.status_code == (403 if with_rights and value == 10 else 400)
    assert "priority" in refused.json()["error"]["message"]


def test_the_priority_of_vllm_is_refused_where_it_asks_for_something(serve: Serve):
    url = serve(*fakes(["hello"]))
    assert chat(url, priority=0).status_code == 200
    refused = chat(url, priority=-5).json()["error"]
    assert (refused["code"], refused["param"]) == ("unsupported_parameter", "priority")
    assert chat(url, service_tier="gold").status_code == 400

"""A call may name the backends that may answer it; tags and rules come first."""

from __future__ import annotations

import asyncio

import pytest

from hybrid_llm.core.errors import InvalidRequest, NoEligibleBackend


def test_only_a_named_backend_answers(make_client, edge, cloud):
    client = make_client(edge, cloud)
    assert client.generate("x", backends=["cloud"]).backend == "cloud"
    assert client.generate("x", backends=("edge", "cloud")).backend == "edge"
    decision = client.decide("x", backends=["cloud"])
    assert (decision.order, dict(decision.excluded)) == (("cloud",), {"edge": "the call names cloud"})


def test_a_tag_comes_before_the_wish(make_client, edge, cloud):
    with pytest.raises(NoEligibleBackend, match="phi"):
        make_client(edge, cloud).generate("x", privacy={"phi"}, backends=["cloud"])
    assert cloud.requests == []


def test_a_backend_that_is_not_there_is_said(make_client, edge, cloud):
    with pytest.raises(InvalidRequest, match="there are edge, cloud"):
        make_client(edge, cloud).generate("x", backends=["clown"])


def test_tokens_are_counted_without_a_call(make_client, edge, cloud):
    client = make_client(edge, cloud)
    counted = client.count_tokens("one two three")
    assert counted == asyncio.run(client.acount_tokens("one two three")) > 0
    assert client.count_tokens("one two three" * 10) > counted
    assert edge.requests == cloud.requests == []

"""A node takes whatever a client sends: it answers or refuses with a type, repeats no text, and serves the others."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given

from tests.fuzz.doors import GENERATE, VERSION, doors, stage
from tests.fuzz.effort import examples
from tests.fuzz.mutations import mutated

NAMES = (
    "message", "sealed message", "content of a sealed message", "RPC", "metadata", "claims of a token", "HTTP/2",
    "several messages",
)  # fmt: skip
COUNTS = {"HTTP/2": 25, "several messages": 20}
MORE_MB = 40.0
"""By how much the memory of a node may differ after it was fuzzed: what its allocators and caches keep."""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with stage(tmp_path_factory.mktemp("fuzzed")) as running:
        running.honest()
        yield running


@pytest.fixture(scope="module")
def known(node):
    return {door.name: door for door in doors(node)}


def test_all_doors_are_here(known):
    assert tuple(known) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_whatever_comes_in_is_answered_or_refused_by_type_and_others_are_served(node, known, name):
    door = known[name]
    for seed in door.seeds:  # the caches of a node grow with the first of each kind
        door.send(node, seed)
    before = node.settled(12)

    @examples(COUNTS.get(name, 50))
    @given(mutated(door.seeds))
    def check(data):
        door.send(node, data)
        node.honest()

    check()
    after = node.settled(before["tasks"])
    assert after["tasks"] <= before["tasks"]
    assert after["threads"] <= before["threads"] + 6, (before, after)
    assert after["descriptors"] <= before["descriptors"] + 6, (before, after)
    assert after["rss_mb"] <= before["rss_mb"] + MORE_MB, (before, after)


def test_an_rpc_that_a_library_declares_and_does_not_implement_is_unimplemented(node):
    """`Health/List` with gRPC's own servicer for asyncio: it is no failure of the node, which others would avoid."""
    with pytest.raises(grpc.RpcError) as caught:
        node.rogue.unary_unary("/grpc.health.v1.Health/List")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_of_a_stream_that_is_none_is_the_clients_fault(node):
    call = node.rogue.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([b"*"]), timeout=10))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("algorithm", ["Gzip", "Deflate"])
def test_a_message_that_unpacks_to_a_hundred_times_the_limit_is_refused_unpacked(node, algorithm):
    before = node.held()
    call = node.rogue.unary_stream(GENERATE)
    bomb = bytes(400_000_000)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(bomb, compression=getattr(grpc.Compression, algorithm), metadata=(VERSION,), timeout=30))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert node.held()["rss_mb"] <= before["rss_mb"] + MORE_MB
    node.honest()

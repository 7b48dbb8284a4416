"""Which endpoint gets a request: one of those offered, and the one that has read it where that costs no time."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.grpc.picker import Picker, blocks_of
from hybrid_llm.core.request import Message, Request


@dataclass
class FakeEndpoint:
    address: str
    busy: float = 0.0
    expected_ttft_ms: float = 10.0


def request(text: str, **fields) -> Request:
    return Request(messages=(Message(role="user", content=text),), **fields)


endpoint_lists = st.lists(
    st.builds(
        FakeEndpoint, address=st.sampled_from("abcdef"), busy=st.floats(0, 9), expected_ttft_ms=st.floats(0, 999)
    ),
    min_size=1,
    unique_by=lambda endpoint: endpoint.address,
)


@given(st.lists(st.tuples(endpoint_lists, st.lists(st.binary(min_size=1, max_size=1), max_size=3)), max_size=20))
def test_the_picked_endpoint_is_one_of_those_offered_whatever_was_picked_before(turns):
    picker = Picker(draw=random.Random(1), remembered=3)
    for endpoints, blocks in turns:
        assert picker.pick(endpoints, blocks) in endpoints


def test_the_quicker_of_two_is_picked_and_the_slowest_of_all_never():
    picker = Picker(draw=random.Random(1))
    endpoints = [
        FakeEndpoint("a", 0.0, 1.0),
        FakeEndpoint("b", 0.0, 2.0),
        FakeEndpoint("c", 0.0, 3.0),
    ]
    taken = Counter(picker.pick(endpoints).address for _ in range(900))
    assert taken["c"] == 0
    assert taken["a"] > taken["b"] > 200


def test_a_beginning_that_all_prompts_share_does_not_send_all_of_them_to_one_endpoint():
    picker = Picker(draw=random.Random(1))
    endpoints = [FakeEndpoint(name) for name in "abc"]
    system = [b"s%d" % index for index in range(3)]
    taken = Counter(
        picker.pick(endpoints, [*system, *(b"%d-%d" % (user, index) for index in range(5))]).address
        for user in range(300)
    )
    assert min(taken.values()) > 60, taken


def test_an_endpoint_that_has_read_half_of_the_prompt_is_picked():
    for known, stays in ((5, True), (4, True), (3, False)):
        picker, endpoints = Picker(draw=random.Random(1)), [FakeEndpoint(name) for name in "abc"]
        first = picker.pick(endpoints, [b"k%d" % index for index in range(known)])
        first.expected_ttft_ms = 900.0
        again = picker.pick(
            endpoints, [*(b"k%d" % index for index in range(known)), *(b"n%d" % i for i in range(8 - known))]
        )
        assert (again is first) == stays


def test_a_session_stays_until_its_endpoint_is_far_busier_than_the_others_or_gone():
    picker = Picker(draw=random.Random(1))
    endpoints = [FakeEndpoint(name) for name in "abc"]
    blocks = blocks_of(request("x", session_id="s"))
    first = picker.pick(endpoints, blocks)
    for endpoint in endpoints:
        endpoint.expected_ttft_ms = 0.0 if endpoint is not first else 500.0
    assert picker.pick(endpoints, blocks) is first
    first.busy = 5.0
    second = picker.pick(endpoints, blocks)
    assert second is not first
    first.busy = 0.0
    assert picker.pick(endpoints, blocks) is second, "it has moved"
    assert picker.pick([endpoint for endpoint in endpoints if endpoint is not second], blocks) is not second


def test_prompts_that_begin_alike_go_to_the_endpoint_that_has_read_the_longest_part():
    picker = Picker(draw=random.Random(1))
    endpoints = [FakeEndpoint(name) for name in "abcdef"]
    system = "You are a careful assistant. " * 60
    home = picker.pick(endpoints, blocks_of(request(system + "What is 1 + 1?")))
    for endpoint in endpoints:
        endpoint.expected_ttft_ms = 0.0 if endpoint is not home else 500.0
    assert picker.pick(endpoints, blocks_of(request(system + "And who are you?"))) is home
    assert picker.pick(endpoints, blocks_of(request("Another beginning. " * 60))) is not home


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_two_prompts_share_the_hashes_of_their_common_beginning_and_no_others(one, two):
    shared = len(blocks_of(request(one))) if one == two else None
    mine, theirs = blocks_of(request(one)), blocks_of(request(two))
    common = sum(a == b for a, b in zip(mine, theirs, strict=False))
    assert mine[:common] == theirs[:common]
    assert not set(mine[common:]) & set(theirs[common:])
    assert shared is None or common == shared


def test_a_session_of_another_tenant_is_another_session():
    assert blocks_of(request("x", session_id="s", tenant="t")) != blocks_of(request("x", session_id="s"))
    assert blocks_of(request("short")) == ()

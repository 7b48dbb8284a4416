"""Which node gets a request: always one of those that can be asked, who knows it where that costs nobody time."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.grpc.picker import Chooser, blocks_of
from hybrid_llm.core.request import Message, Request


@dataclass
class Desk:
    name: str
    busy: float = 0.0
    waiting_ms: float = 10.0


def request(text: str, **fields) -> Request:
    return Request(messages=(Message(role="user", content=text),), **fields)


desks = st.lists(
    st.builds(Desk, name=st.sampled_from("abcdef"), busy=st.floats(0, 9), waiting_ms=st.floats(0, 999)),
    min_size=1,
    unique_by=lambda desk: desk.name,
)


@given(st.lists(st.tuples(desks, st.lists(st.binary(min_size=1, max_size=1), max_size=3)), max_size=20))
def test_the_choice_is_one_of_the_seats_whatever_was_chosen_before(turns):
    chooser = Chooser(draw=random.Random(1), remembered=3)
    for seats, blocks in turns:
        assert chooser.choose(seats, blocks) in seats


def test_of_two_the_quicker_one_is_taken_and_the_slowest_of_all_never():
    chooser = Chooser(draw=random.Random(1))
    seats = [Desk("a", waiting_ms=1.0), Desk("b", waiting_ms=2.0), Desk("c", waiting_ms=3.0)]
    taken = Counter(chooser.choose(seats).name for _ in range(900))
    assert taken["c"] == 0
    assert taken["a"] > taken["b"] > 200


def test_a_beginning_that_all_share_does_not_send_all_of_them_to_one_node():
    chooser = Chooser(draw=random.Random(1))
    seats = [Desk(name) for name in "abc"]
    system = [b"s%d" % index for index in range(3)]
    taken = Counter(
        chooser.choose(seats, [*system, *(b"%d-%d" % (user, index) for index in range(5))]).name for user in range(300)
    )
    assert min(taken.values()) > 60, taken


def test_who_has_read_half_of_it_is_asked():
    for known, stays in ((5, True), (4, True), (3, False)):
        chooser, seats = Chooser(draw=random.Random(1)), [Desk(name) for name in "abc"]
        first = chooser.choose(seats, [b"k%d" % index for index in range(known)])
        first.waiting_ms = 900.0
        again = chooser.choose(
            seats, [*(b"k%d" % index for index in range(known)), *(b"n%d" % i for i in range(8 - known))]
        )
        assert (again is first) == stays


def test_a_session_stays_where_it_is_until_that_node_is_far_busier_than_the_others_or_gone():
    chooser = Chooser(draw=random.Random(1))
    seats = [Desk(name) for name in "abc"]
    blocks = blocks_of(request("x", session_id="s"))
    first = chooser.choose(seats, blocks)
    for seat in seats:
        seat.waiting_ms = 0.0 if seat is not first else 500.0
    assert chooser.choose(seats, blocks) is first
    first.busy = 5.0
    second = chooser.choose(seats, blocks)
    assert second is not first
    first.busy = 0.0
    assert chooser.choose(seats, blocks) is second, "it has moved"
    assert chooser.choose([seat for seat in seats if seat is not second], blocks) is not second


def test_prompts_that_begin_alike_go_to_the_node_that_has_read_the_longest_part():
    chooser = Chooser(draw=random.Random(1))
    seats = [Desk(name) for name in "abcdef"]
    system = "You are a careful assistant. " * 60
    home = chooser.choose(seats, blocks_of(request(system + "What is 1 + 1?")))
    for seat in seats:
        seat.waiting_ms = 0.0 if seat is not home else 500.0
    assert chooser.choose(seats, blocks_of(request(system + "And who are you?"))) is home
    assert chooser.choose(seats, blocks_of(request("Another beginning. " * 60))) is not home


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_two_prompts_share_the_names_of_what_they_begin_with_and_no_others(one, two):
    shared = len(blocks_of(request(one))) if one == two else None
    mine, theirs = blocks_of(request(one)), blocks_of(request(two))
    common = sum(a == b for a, b in zip(mine, theirs, strict=False))
    assert mine[:common] == theirs[:common]
    assert not set(mine[common:]) & set(theirs[common:])
    assert shared is None or common == shared


def test_a_session_of_another_tenant_is_another_session():
    assert blocks_of(request("x", session_id="s", tenant="t")) != blocks_of(request("x", session_id="s"))
    assert blocks_of(request("short")) == ()

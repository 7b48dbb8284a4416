"""Admission: bursts fill the queue, a lasting load does not, and no request waits for a slot that comes too late."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest

from hybrid_llm.backends.node.requests import Admission
from hybrid_llm.core.errors import BackendOverloaded


class Server:
    """A node of *slots* in which each answer takes *work_s*; its time passes by hand."""

    def __init__(self, *, slots: int = 4, max_queue: int = 64, work_s: float = 1.0):
        self.now = 0.0
        self.slots, self.work_s = slots, work_s
        self.admission = Admission(max_queue=max_queue, clock=lambda: self.now)
        self.running: list[tuple[float, float, ExitStack]] = []
        self.waiting: list[tuple[float, ExitStack]] = []
        self.waits: list[float] = []
        self.refused: list[BackendOverloaded] = []

    def ask(self, remaining: float = 60.0) -> bool:
        place = ExitStack()
        try:
            place.enter_context(self.admission.admit(self.slots, remaining))
        except BackendOverloaded as error:
            self.refused.append(error)
            return False
        self.waiting.append((self.now, place))
        self.run(0.0)
        return True

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            while self.waiting and len(self.running) < self.slots:
                asked, place = self.waiting.pop(0)
                self.running.append((self.now + self.work_s, self.now - asked, place))
            first = min(self.running, default=None, key=lambda each: each[0])
            if first is None or first[0] > until:
                break
            self.running.remove(first)
            self.now = first[0]
            first[2].close()
            self.waits.append(first[1])
            self.admission.observe(first[1], self.work_s)
        self.now = until


def test_a_burst_fills_the_queue_and_the_next_one_is_refused_with_a_time():
    server = Server(slots=4, max_queue=8)
    assert [server.ask() for _ in range(13)] == [True] * 12 + [False]
    assert server.refused[0].retry_after > 0
    assert server.admission.in_flight == 12
    server.run(10.0)
    assert server.admission.in_flight == 0


def test_under_a_load_that_lasts_those_who_are_let_in_wait_for_less_than_an_answer_and_no_slot_is_idle():
    server, draw = Server(), random.Random(1)
    for _ in range(2000):
        server.ask()
        server.run(draw.expovariate(20.0))  # five times what it can take
    late = server.waits[len(server.waits) // 2 :]
    assert max(late) < server.work_s
    assert len(server.waits) > 0.95 * server.now * server.slots / server.work_s


def test_once_the_load_is_gone_a_burst_fills_the_queue_again():
    server, draw = Server(max_queue=8), random.Random(1)
    for _ in range(500):
        server.ask()
        server.run(draw.expovariate(20.0))
    for _ in range(40):
        server.run(2.0)
        server.ask()
    server.run(10.0)
    assert sum(server.ask() for _ in range(20)) == 12


def test_a_request_whose_time_would_pass_in_the_queue_is_refused_at_once():
    server = Server(slots=1)
    assert server.ask()
    server.run(1.5)
    assert [server.ask(), server.ask(1.5), server.ask(1.5)] == [True, True, False]


def test_nothing_is_refused_for_its_deadline_before_anything_was_measured():
    server = Server(slots=1)
    assert server.ask(0.1)
    assert server.ask(0.1)


def test_requests_that_expire_in_the_queue_shorten_it():
    server = Server(slots=1, max_queue=8)
    for _ in range(12):
        server.now += 10.0
        server.admission.expired()
    assert sum(server.ask() for _ in range(9)) == 2


@pytest.mark.parametrize("slots", [1, 2, 16])
def test_a_node_without_a_queue_takes_what_its_slots_hold(slots):
    server = Server(slots=slots, max_queue=0)
    assert sum(server.ask() for _ in range(40)) == slots


def test_one_client_leaves_a_part_of_the_queue_to_others():
    admission, held = Admission(max_queue=8, client_share=0.5), ExitStack()
    for _ in range(4 + 4):
        held.enter_context(admission.admit(4, 60.0, "rogue"))
    with pytest.raises(BackendOverloaded, match="leaves the rest to others"):
        held.enter_context(admission.admit(4, 60.0, "rogue"))
    for _ in range(4):
        held.enter_context(admission.admit(4, 60.0, "app"))
    with pytest.raises(BackendOverloaded, match="the node is full"):
        held.enter_context(admission.admit(4, 60.0, "app"))
    held.close()
    assert admission.in_flight == 0

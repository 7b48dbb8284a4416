"""The engine's tokens are shared between clients by their weights, whatever each of them sends. Counted, not timed."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import EngineInfo, EngineRequest
from hybrid_llm.backends.node.engines.fairness import ANSWER_COST, FairClock
from hybrid_llm.backends.node.engines.loop import LoopEngine
from hybrid_llm.backends.node.engines.scheduler import Scheduler

VOCAB, WINDOW, BUDGET, SHARED = 31, 96, 16, 4
MAXIMAL = WINDOW * ANSWER_COST


class Node:
    """An engine that computes nothing, and what it read and drew for each client, in the currency of fairness."""

    rewinds = True

    def __init__(self, slots: int, weights: dict[str, float] | None = None) -> None:
        info = EngineInfo(
            engine="counting", model="m", architecture="a", vocab_size=VOCAB, context_window=WINDOW, slots=slots
        )
        self.scheduler = Scheduler(
            slots=slots, prefill_budget=BUDGET, shared_budget=SHARED, max_waiting=10_000, reuse=False
        )
        self.engine = LoopEngine(self, info, self.scheduler)
        self.weights = weights or {}
        self.served: Counter[str] = Counter()
        self.last: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.steps = 0
        self.ended: set[str] = set()

    def forward(self, segments):
        clients = {sequence.slot: sequence.client for sequence in self.scheduler.running.values()}
        self.last = Counter()
        for segment in segments:
            drawn = segment.complete and len(segment.ids) == 1
            self.last[clients[segment.slot]] += ANSWER_COST if drawn else len(segment.ids)
        self.served += self.last
        complete = sum(segment.complete for segment in segments)
        return torch.nn.functional.one_hot(torch.zeros(complete, dtype=torch.long), VOCAB).float()

    def intact(self, *_):
        return True

    def submit(self, client, prompt, answer):
        self.sent[client] += 1
        request_id, weight = f"{client} {self.sent[client]}", self.weights.get(client, 1.0)
        ids = (1,) * prompt
        self.engine.submit(
            EngineRequest(request_id=request_id, prompt_ids=ids, max_tokens=answer, client=client, weight=weight)
        )
        return request_id

    def step(self):
        self.steps += 1
        outputs = self.engine.step()
        assert not any(output.error for output in outputs)
        self.ended |= {output.request_id for output in outputs if output.last}

    def steps_of(self, request_id):
        begun = self.steps
        while request_id not in self.ended:
            self.step()
        return self.steps - begun

    def waiting(self, client):
        return sum(sequence.client == client for sequence in self.scheduler.waiting.values())


sizes = st.tuples(st.integers(2, 60), st.integers(1, 30))


@given(
    slots=st.integers(1, 6),
    loads=st.lists(st.lists(sizes, min_size=1, max_size=3), min_size=2, max_size=4),
    weights=st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=4, max_size=4),
)
@settings(max_examples=60, phases=[Phase.generate])
def test_nobody_with_queued_work_gets_less_than_its_share_by_more_than_two_maximal_requests(slots, loads, weights):
    """Each client always has requests waiting. After every step, what one got is compared with every other's."""
    clients = [str(index) for index in range(len(loads))]
    node = Node(slots, dict(zip(clients, weights, strict=False)))
    for _ in range(150):
        for client, load in zip(clients, loads, strict=True):
            while node.waiting(client) <= slots:
                node.submit(client, *load[node.sent[client] % len(load)])
        node.step()
        got = [node.served[client] / node.weights[client] for client in clients]
        assert max(got) - min(got) <= 2 * MAXIMAL  # the bound of VTC, for what runs and what is computed again


@given(st.integers(2, 16), st.integers(1, 40), st.integers(0, 60), st.tuples(st.integers(2, 16), st.integers(5, 30)))
@settings(max_examples=60, phases=[Phase.generate])
def test_a_flood_costs_another_client_few_steps(slots, flood, before, honest):
    """Within a quarter of the steps that the request takes alone, and what it takes to find it a slot."""
    alone = Node(slots)
    expected = alone.steps_of(alone.submit("honest", *honest))
    node = Node(slots)
    for _ in range(flood):
        node.submit("flood", 60, 36)
    for _ in range(before):
        node.step()
    assert node.steps_of(node.submit("honest", *honest)) <= 1.25 * expected + 4


@given(st.integers(1, 16), st.integers(5, 30))
def test_little_of_a_flood_is_computed_while_another_answer_is_generated(flood, answer):
    node = Node(16)
    request_id = node.submit("honest", 8, answer)
    node.step()
    for _ in range(flood):
        node.submit("flood", 60, 2)
    node.step()  # the flood comes level with the honest client
    node.step()
    while request_id not in node.ended:
        assert node.last["flood"] <= ANSWER_COST * SHARED
        node.step()


def test_a_client_alone_has_every_slot_and_the_whole_budget():
    node = Node(4)
    for _ in range(8):
        node.submit("alone", 60, 10)
    node.step()
    assert len(node.scheduler.running) == 4
    assert node.last["alone"] == BUDGET


def test_a_client_that_was_away_saves_up_nothing_and_owes_what_it_had():
    clock = FairClock()
    clock.join("busy", 1.0, [])
    clock.charge("busy", 500)
    clock.join("new", 1.0, ["busy"])
    assert clock["new"] == 499
    clock.charge("new", 300)
    clock.join("new", 1.0, ["busy"])  # it left, and is back at once
    assert clock["new"] == 799


def test_weights_share_the_slots():
    node = Node(8, {"heavy": 3.0})
    for _ in range(300):
        for client in ("heavy", "light"):
            while node.waiting(client) < 9:
                node.submit(client, 10, 20)
        node.step()
    assert 2.5 < node.served["heavy"] / node.served["light"] < 3.5


def test_slots_are_left_where_they_are_when_each_client_has_one():
    """Requests are not thrown out of the slots in turn: with more clients than slots, each runs to its end."""
    node = Node(2)
    for client in "abcdef":
        node.submit(client, 10, 20)
    node.step()
    running = set(node.scheduler.running)
    while not node.ended:
        node.step()
    assert node.ended <= running

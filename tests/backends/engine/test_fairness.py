"""The engine's tokens are shared between clients by their weights, whatever each of them sends. Counted, not timed."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import EngineInfo, EngineRequest
from hybrid_llm.backends.node.engines.fairness import FairClock, StepCosts
from hybrid_llm.backends.node.engines.loop import LoopEngine
from hybrid_llm.backends.node.engines.scheduler import Scheduler

VOCAB, WINDOW, BUDGET = 31, 96, 16


class Node:
    """An engine that computes nothing in the time of its own clock, and the tokens that it computed for each client."""

    rewinds = True

    def __init__(
        self, slots: int, weights: dict[str, float] | None = None, *, fixed: float = 0.0, token: float = 1.0
    ) -> None:
        info = EngineInfo(
            engine="counting", model="m", architecture="a", vocab_size=VOCAB, context_window=WINDOW, slots=slots
        )
        self.scheduler = Scheduler(slots=slots, prefill_budget=BUDGET, max_waiting=10_000, reuse=False)
        self.engine = LoopEngine(self, info, self.scheduler, timer=lambda: self.now)
        self.weights = weights or {}
        self.fixed, self.token, self.now = fixed, token, 0.0
        for tokens in (1, WINDOW):
            self.scheduler.costs.learn(tokens, fixed + tokens * token)
        self.served: Counter[str] = Counter()
        self.last: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.steps = 0
        self.ended: set[str] = set()

    @property
    def lead(self) -> float:
        """Seconds by which the least served client may get ahead."""
        return 8 * (self.fixed + self.token)

    def forward(self, segments):
        clients = {sequence.slot: sequence.client for sequence in self.scheduler.running.values()}
        self.last = Counter()
        for segment in segments:
            self.last[clients[segment.slot]] += len(segment.ids)
        self.served += self.last
        self.now += self.fixed + self.token * self.last.total()
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

    def seconds_of(self, request_id):
        begun = self.now
        while request_id not in self.ended:
            self.step()
        return self.now - begun

    def waiting(self, client):
        return sum(sequence.client == client for sequence in self.scheduler.waiting.values())


sizes = st.tuples(st.integers(2, 60), st.integers(1, 30))


@given(
    slots=st.integers(1, 6),
    loads=st.lists(st.lists(sizes, min_size=1, max_size=3), min_size=2, max_size=4),
    weights=st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=4, max_size=4),
)
@settings(max_examples=20, phases=[Phase.generate], deadline=None)
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
        assert max(got) - min(got) <= 2 * WINDOW  # the bound of VTC, for what runs and what is computed again


costs = st.fixed_dictionaries({"fixed": st.sampled_from([0.0, 1.0, 3.0, 20.0, 500.0]), "token": st.just(1.0)})


@given(
    slots=st.integers(4, 16),
    floods=st.lists(st.tuples(sizes, st.sampled_from([0.5, 1.0, 2.0])), min_size=1, max_size=3),
    before=st.integers(0, 60),
    honest=st.tuples(st.integers(2, 60), st.integers(1, 30)),
    costs=costs,
)
@settings(max_examples=40, phases=[Phase.generate], deadline=None)
def test_others_take_no_more_of_the_engine_than_their_share_while_an_answer_is_computed(
    slots, floods, before, honest, costs
):
    """In the engine's own time, whatever the others send and whatever a step costs.

    A request takes at most as many times longer than alone as all weights are more than its own, and one lead of each.
    """
    weights = {f"flood {index}": weight for index, (_, weight) in enumerate(floods)}
    node, alone = Node(slots, weights, **costs), Node(slots, **costs)
    for client, (size, _) in zip(weights, floods, strict=True):
        for _ in range(40):
            node.submit(client, *size)
    for _ in range(before):
        node.step()
    alone.seconds_of(alone.submit("earlier", 1, 1))  # prompts are read in parts from the second client on
    expected = alone.seconds_of(alone.submit("honest", *honest))
    shares = 1 + sum(weights.values())
    took = node.seconds_of(node.submit("honest", *honest))
    assert took <= shares * (expected + node.lead) + len(floods) * node.token


def test_what_a_client_does_not_use_is_not_lost():
    """The flood has as much of the engine as the other, who has only one answer to be computed."""
    node, alone = Node(8, fixed=3.0), Node(8, fixed=3.0)
    for _ in range(40):
        node.submit("flood", 60, 2)
    node.step()
    assert node.seconds_of(node.submit("honest", 4, 60)) >= 1.9 * alone.seconds_of(alone.submit("honest", 4, 60))


def test_where_tokens_are_almost_free_a_flood_goes_on_at_its_pace():
    """On a GPU a step of sixteen answers takes hardly longer than one of one."""
    node = Node(16, fixed=500.0)
    for _ in range(40):
        node.submit("flood", 2, 60)
    for _ in range(5):
        node.step()
    request_id = node.submit("honest", 2, 10)
    node.step()
    while request_id not in node.ended:
        assert node.last["flood"] == 15
        node.step()


def test_the_answers_of_a_client_that_must_wait_take_turns():
    node = Node(8, fixed=2.0)
    for _ in range(6):
        node.submit("flood", 2, 80)
    node.step()
    node.submit("honest", 2, 80)
    for _ in range(30):
        node.step()
    generated = [each.generated for each in node.scheduler.running.values() if each.client == "flood"]
    assert 10 < min(generated) <= max(generated) < 20
    assert max(generated) - min(generated) <= 1


def test_a_client_alone_has_every_slot_and_the_whole_budget():
    node = Node(4)
    for _ in range(8):
        node.submit("alone", 60, 10)
    node.step()
    assert len(node.scheduler.running) == 4
    assert node.last["alone"] == BUDGET


def test_after_a_second_client_has_come_no_step_is_long():
    """Prompts are then read in parts, also while nobody else is there: the next one to come waits for the step."""
    node = Node(4)
    node.seconds_of(node.submit("another", 1, 1))
    node.submit("alone", 60, 10)
    node.step()
    assert node.last["alone"] * node.token <= node.lead < BUDGET * node.token


@given(
    st.floats(1e-4, 1.0),
    st.floats(1e-5, 1e-2),
    st.lists(st.tuples(st.integers(1, 300), st.floats(0, 0.05)), min_size=20, max_size=60),
)
@settings(max_examples=40, phases=[Phase.generate], deadline=None)
def test_what_steps_cost_is_learnt_from_those_that_were_measured(fixed, token, steps):
    """Within a tenth for steps of the sizes that were seen, on a machine that delays each step a little."""
    learnt = StepCosts()
    for tokens in (1, 300):
        learnt.learn(tokens, fixed + tokens * token)
    for tokens, delay in steps:
        learnt.learn(tokens, (fixed + tokens * token) * (1 + delay))
    for tokens in (1, 300):
        assert abs(learnt.fixed + tokens * learnt.token - (fixed + tokens * token)) <= 0.1 * (fixed + tokens * token)


def test_a_step_that_was_disturbed_changes_little():
    costs = StepCosts()
    for _ in range(10):
        costs.learn(1, 0.01)
        costs.learn(9, 0.03)
    costs.learn(9, 60.0)
    assert costs.fixed + 9 * costs.token < 0.05


def test_a_client_that_was_away_saves_up_nothing_and_owes_what_it_had():
    clock = FairClock()
    clock.join("busy", 1.0, [])
    clock.charge("busy", 500)
    clock.join("new", 1.0, ["busy"])
    assert 499.99 < clock["new"] < 500  # it is next
    clock.charge("new", 300)
    served = clock["new"]
    clock.join("new", 1.0, ["busy"])  # it left, and is back at once
    assert clock["new"] == served


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

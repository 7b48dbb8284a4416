"""The engine's tokens are shared between clients by their weights, whatever each of them sends. Counted, not timed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import KV_BLOCK, EngineInfo, EngineRequest
from hybrid_llm.backends.node.engines.blocks import BlockPool
from hybrid_llm.backends.node.engines.fairness import FairClock, StepCosts, divide, shares
from hybrid_llm.backends.node.engines.loop import LoopEngine
from hybrid_llm.backends.node.engines.scheduler import Scheduler
from hybrid_llm.backends.node.rights import GatedCall
from hybrid_llm.core.request import Request
from hybrid_llm.core.rights.counters import MemoryCounters
from hybrid_llm.core.rights.gate import Gate
from hybrid_llm.core.rights.grants import Caller, FixedRights, Operation, Wanted
from hybrid_llm.core.rights.quotas import Quotas
from hybrid_llm.policies.rights import parse_rights

VOCAB, WINDOW, BUDGET = 31, 96, 16


class Node:
    """An engine that computes nothing in the time of its own clock, and the tokens that it computed for each client."""

    rewinds = True

    def __init__(
        self,
        slots: int,
        weights: dict[str, float] | None = None,
        *,
        fixed: float = 0.0,
        token: float = 1.0,
        piece: float = 0.0,
    ) -> None:
        info = EngineInfo(
            engine="counting", model="m", architecture="a", vocab_size=VOCAB, context_window=WINDOW, slots=slots
        )
        self.scheduler = Scheduler(
            BlockPool(slots * WINDOW // KV_BLOCK, reuse=False), slots=slots, prefill_budget=BUDGET, max_waiting=10_000
        )
        self.engine = LoopEngine(self, info, self.scheduler, timer=lambda: self.now)
        self.weights = weights or {}
        self.fixed, self.token, self.piece, self.now = fixed, token, piece, 0.0
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
        clients = {sequence.table: sequence.client for sequence in self.scheduler.running.values()}
        self.last = Counter()
        for segment in segments:
            self.last[clients[segment.table]] += len(segment.ids)
        self.served += self.last
        pieces = sum(len(segment.ids) > 1 for segment in segments)
        self.now += self.fixed + self.token * self.last.total() + self.piece * pieces
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

    def ended_of(self, client):
        return sum(request_id.startswith(f"{client} ") for request_id in self.ended)

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


PRIORITIES = """
version: 1
rights: [{name: all, who: "*", models: "*", priority: 9}]
"""


def share_of(identity, priority):
    """What a node's rights give a request of *identity* that asks for *priority*."""
    gate = Gate(FixedRights(parse_rights(PRIORITIES)), Quotas(MemoryCounters()), backend="node")
    admitted = gate.admit(Caller(identity=identity), Operation.GENERATE)
    return GatedCall(gate=gate, admitted=admitted, priority=priority).check(Request(messages=()), "m")


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 3), (2, 5)])
def test_of_two_clients_that_queue_the_one_of_the_higher_priority_is_served_first_and_the_other_not_starved(
    slots, low, high
):
    calm, urgent = share_of("calm", low), share_of("urgent", high)
    node = Node(slots, {calm.flow: calm.weight, urgent.flow: urgent.weight})
    for share in (calm, urgent):  # the one of the lower priority came first
        for _ in range(32):
            node.submit(share.flow, 10, 10)
    while node.ended_of(urgent.flow) < 32:
        node.step()
    served = node.ended_of(calm.flow)
    assert 0 < served <= 32 / 2 ** (high - low) + 2 * slots


TENANTS = """
version: 1
rights: [{name: tenants, who: gateway, tenants: [a, b, c, flood], account: tenant, models: "*"}]
"""


def accounts():
    """The accounts of four tenants that one certificate speaks for, as a node's rights give them."""
    gate = Gate(FixedRights(parse_rights(TENANTS)), Quotas(MemoryCounters()), backend="node")
    admitted = gate.admit(Caller(identity="gateway"), Operation.GENERATE)
    for tenant in ("a", "b", "c", "flood"):
        wanted = Wanted(operation=Operation.GENERATE, models=("m",), tenant=tenant)
        yield gate.check(admitted, wanted).account


class Load:
    """Three tenants that keep so many *requests* each in flight on a node, and a fourth that floods it."""

    def __init__(self, slots, requests, weights=(1.0, 1.0, 1.0, 1.0), *, flood=(40, 30), **costs):
        *self.honest, self.flooding = accounts()
        self.slots, self.flood, self.costs = slots, flood, costs
        self.requests = dict(zip(self.honest, requests, strict=True))
        self.weights = dict(zip((*self.honest, self.flooding), weights, strict=True))

    def slots_of(self, tenant):
        return max(1, int(self.slots * self.weights[tenant] / sum(self.weights.values())))

    @property
    def fits(self):
        """Whether each of the three keeps within its part of the slots, and all fit beside the share of the fourth."""
        within = all(count <= self.slots_of(tenant) for tenant, count in self.requests.items())
        return within and self.share + sum(self.requests.values()) <= self.slots

    @property
    def share(self):
        """Requests of the fourth tenant: as many, by weight, as any other one has, at most its part of the slots."""
        level = max(count / self.weights[tenant] for tenant, count in self.requests.items())
        return max(1, min(int(level * self.weights[self.flooding]), self.slots_of(self.flooding)))

    def mean_times(self, flood, answers=12):
        """The mean time of the first answers of each of the three, of various lengths, beside *flood* requests."""
        node, begun, took = Node(self.slots, self.weights, **self.costs), {}, {tenant: [] for tenant in self.honest}
        while min(map(len, took.values())) < answers:
            for number, (tenant, count) in enumerate(self.requests.items()):
                for _ in range(count - sum(each[0] == tenant for each in begun.values())):
                    size = 7 * node.sent[tenant] + 5 * number
                    begun[node.submit(tenant, 5 + size % 40, 5 + size % 27)] = (tenant, node.now)
            for _ in range(flood - node.sent[self.flooding] + node.ended_of(self.flooding)):
                node.submit(self.flooding, *self.flood)
            node.step()
            for request_id in begun.keys() & node.ended:
                tenant, at = begun.pop(request_id)
                took[tenant].append(node.now - at)
        return [sum(each[:answers]) / answers for each in took.values()]

    def slowdowns(self):
        """By how much longer the answers of each take beside forty requests, in place of the share of them."""
        usual, flooded = (self.mean_times(flood) for flood in (self.share, 40))
        return [after / before - 1 for before, after in zip(usual, flooded, strict=True)]


FULL, LIGHT, MIXED = (2, 2, 2), (1, 1, 1), (2, 1, 1)
UNEVEN = (4.0, 1.0, 1.0, 0.5)


@pytest.mark.parametrize(
    "costs", [{"fixed": each} for each in (0.0, 3.0, 20.0, 500.0)] + [{"fixed": 60.0, "piece": 8.0}]
)
@pytest.mark.parametrize(
    ("requests", "weights"),
    [(FULL, (1.0,) * 4), (LIGHT, (1.0,) * 4), (MIXED, (1.0,) * 4), ((4, 1, 1), UNEVEN), (LIGHT, UNEVEN[::-1])],
)
def test_one_tenants_flood_slows_no_other_by_more_than_a_tenth(requests, weights, costs):
    """Forty requests are always queued in place of as many, by weight, as any other tenant has in flight.

    A piece of a prompt may cost more than its tokens, as it does where attention is called for each.
    """
    assert max(Load(8, requests, weights, **costs).slowdowns()) <= 0.1


@given(
    slots=st.sampled_from([8, 16]),
    requests=st.tuples(*[st.integers(1, 2)] * 3),
    weights=st.tuples(*[st.sampled_from([1.0, 1.0, 2.0, 4.0])] * 4),
    flood=sizes,
    fixed=st.sampled_from([0.0, 1.0, 4.0, 16.0, 64.0, 256.0]),
)
@settings(max_examples=12, phases=[Phase.generate], deadline=None)
def test_no_flood_slows_others_by_more_than_a_tenth_and_a_step_of_one_token(slots, requests, weights, flood, fixed):
    load = Load(slots, requests, weights, flood=flood, fixed=fixed)
    assume(load.fits)
    usual, flooded = (load.mean_times(each, answers=36) for each in (load.share, 40))  # of 12, one may move the mean
    assert all(after <= 1.1 * before + fixed + 1 for before, after in zip(usual, flooded, strict=True))


counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 20), min_size=2)
weights = st.fixed_dictionaries({client: st.sampled_from([0.5, 1.0, 2.0, 4.0]) for client in "abcdef"})


@given(counts, weights, st.integers(1, 32), st.integers(1, 1000))
def test_a_client_changes_no_share_by_sending_more_than_all_others(requests, weights, slots, more):
    usual = shares(requests, weights.__getitem__, slots)
    most = max(requests, key=lambda client: requests[client] / weights[client])
    assert shares(requests | {most: requests[most] + more}, weights.__getitem__, slots) == usual
    assert all(share >= 1 for share in usual.values())


@given(st.integers(0, 100), counts, weights)
def test_tokens_are_divided_by_weight_and_none_is_lost_that_somebody_wants(tokens, wanted, weights):
    parts = divide(tokens, wanted, weights.__getitem__)
    assert sum(parts.values()) == min(tokens, sum(wanted.values()))
    for client, part in parts.items():
        due = tokens * weights[client] / sum(weights[each] for each in wanted)
        assert min(wanted[client], due - len(wanted)) <= part <= wanted[client]


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0, 10), min_size=1), weights, st.floats(0, 100))
def test_seconds_are_counted_to_those_that_were_served_least(served, weights, seconds):
    clock = FairClock()
    for client, before in served.items():
        clock.join(client, weights[client], [each for each in served if each != client and each in clock])
        clock.charge(client, before)
    before = {client: clock[client] for client in served}
    clock.level(served, seconds)
    counted = sum((clock[client] - before[client]) * weights[client] for client in served)
    assert counted == pytest.approx(seconds, abs=1e-6)
    charged = [clock[client] for client in served if clock[client] > before[client]]
    assert not charged or max(charged) == pytest.approx(min(clock[client] for client in served))


def test_a_step_is_not_shortened_for_a_light_client_whose_token_is_almost_free():
    """A client of an eighth of the weight draws a token in every step, beside those of the heavy one."""
    node = Node(8, {"heavy": 4.0, "light": 0.5}, fixed=100.0)
    for client in ("heavy", "light"):
        node.submit(client, 2, 60)
    node.step()
    for _ in range(30):
        node.step()
        assert node.last == {"heavy": 1, "light": 1}


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
    assert 5 < min(generated) <= max(generated) < 10
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

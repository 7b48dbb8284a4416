"""What a simulated policy reads: load, memory, predictions, network and budget are those of its world."""

from __future__ import annotations

import pytest

from hybrid_llm.lab.simulate.rtt import constant_rtt
from hybrid_llm.lab.simulate.trace import Spans
from hybrid_llm.policies import parse_policy
from tests.lab.simulated import CLOUD, EDGE, HEAD, Around, simulate, trace, world


def seen(policy, requests, **setting):
    """The signals of each decision."""
    found = []

    class Spy(Around):
        def decide(self, request, signals):
            found.append(signals)
            return self._policy.decide(request, signals)

    simulate(Spy(policy), requests, **setting)
    return found


def test_a_policy_sees_load_and_memory_of_what_runs():
    idle, busy_ = seen(EDGE, trace((0.0, 1000, 100), (0.5, 10, 5)))
    assert (idle.device.cpu_load, busy_.device.cpu_load) == pytest.approx((0.1, 0.9))
    assert idle.device.memory_available_mb == pytest.approx(8192.0 - 4096.0 - 613.0)
    assert idle.device.memory_available_mb - busy_.device.memory_available_mb == pytest.approx(23.4 * 1.1)
    assert (idle.backends["edge"].active, busy_.backends["edge"].active) == (0, 1)
    assert busy_.device.temperature_c > idle.device.temperature_c
    assert busy_.device.battery < idle.device.battery == 1.0


def test_a_policy_sees_predictions_that_answers_have_taught():
    requests = trace(*[(10.0 * number, 100 + 40 * (number % 10), 20) for number in range(60)])
    last = seen(CLOUD, requests, rtt=constant_rtt(200.0))[-1].backends["cloud"]
    assert last.predictions > 50
    assert last.predicted_ttft_ms == pytest.approx(200.0 + 14.0 + (100 + 40 * 9) / 5.0, rel=0.1)
    assert last.predicted_tpot_ms == pytest.approx(6.48 * (1.0 + 0.046 * 4), rel=0.1)
    assert last.rtt_ms == pytest.approx(200.0)
    assert (last.active, last.queue, last.load) == (4, 0, 4 / 16), "the streams of others, as the node tells them"


def test_a_call_that_loses_against_its_hedge_is_learnt_as_slow():
    hedged = parse_policy(HEAD + "rules:\n  - prefer: [cloud, edge]\nresilience: {hedge_after: 900ms}\n")
    requests = trace(*[(10.0 * number, 50, 5) for number in range(8)])
    states = [signals.backends["cloud"] for signals in seen(hedged, requests, rtt=constant_rtt(5000.0))]
    assert states[-1].predicted_ttft_ms > 2.0 * states[0].predicted_ttft_ms


def test_a_policy_sees_the_network_and_the_budget_as_they_are():
    text = HEAD + "objectives: {budget: 10 USD/day}\nrules:\n  - prefer: [cloud, edge]\n"
    there = world(node={"input_per_1k": 1.0, "output_per_1k": 1.0})
    requests = trace((0.0, 900, 100), (30.0, 10, 5), (70.0, 10, 5))
    first, second, third = seen(
        parse_policy(text), requests, world=there, offline=Spans([(20.0, 40.0)]), metered=Spans([(60.0, 80.0)])
    )
    assert [one.network.online for one in (first, second, third)] == [True, False, True]
    assert [one.network.metered for one in (first, second, third)] == [False, False, True]
    assert (first.budget.spent, first.budget.left) == (0.0, 10.0)
    assert (second.budget.spent, second.budget.left) == pytest.approx((1.0, 9.0))
    assert third.backends["cloud"].cost_per_1k_tokens == pytest.approx(1.0)

"""The simulated world obeys its own formulas: queues as theory has them, energy, heat, money, and never a leak."""

from __future__ import annotations

import dataclasses
import math
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.core.protocols import DETECTOR_NAMES
from hybrid_llm.core.request import Location
from hybrid_llm.lab.simulate.compare import always, percentile, summarise
from hybrid_llm.lab.simulate.engine import Status
from hybrid_llm.lab.simulate.rtt import constant_rtt
from hybrid_llm.lab.simulate.trace import Arrival, Spans, Trace, at_rate, synthetic, with_tags
from hybrid_llm.lab.simulate.world import World
from hybrid_llm.policies import builtin_names, builtin_policy, parse_policy
from tests.lab.simulated import (
    BARE,
    CLOUD,
    CLOUD_FIRST,
    COOL,
    EDGE,
    EDGE_FIRST,
    ENDLESS,
    FREE,
    HEAD,
    Around,
    simulate,
    trace,
    world,
)
from tests.policies.test_properties import cases

SETTINGS = settings(
    max_examples=int(os.environ.get("HYBRID_TESTS_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def busy(count=400, *, seed=1, per_hour=1500.0):
    return with_tags(
        synthetic(count, per_hour=per_hour, seed=seed, day_starts_s=0.0), {"phi": 0.2, "open": 0.3}, seed=1
    )


# ---- one request, by hand


def test_one_answer_on_the_device_takes_what_the_formula_says():
    run = simulate(EDGE, trace((5.0, 500, 11)), world=world(edge=BARE, load=FREE, thermal=COOL, battery=ENDLESS))
    (one,) = run.outcomes
    assert (one.status, one.location) == (Status.ANSWERED, Location.EDGE)
    assert one.ttft_ms == pytest.approx(500.0)
    assert one.total_ms == pytest.approx(600.0)
    assert run.model_energy_j == pytest.approx(World().power.compute_w * 0.6)


def test_one_answer_in_the_cloud_takes_a_round_trip_more_and_costs_what_it_used():
    node = {"overhead_ms": 10.0, "prefill_tokens_per_s": 1000.0, "decode_ms": 10.0, "background_streams": 0}
    there = world(node={**node, "input_per_1k": 2.0, "output_per_1k": 3.0}, battery=ENDLESS)
    run = simulate(CLOUD, trace((0.0, 100, 21)), world=there, rtt=constant_rtt(40.0))
    (one,) = run.outcomes
    assert one.ttft_ms == pytest.approx(40.0 + 10.0 + 100.0)
    assert one.total_ms == pytest.approx(150.0 + 20 * 10.0)
    assert one.cost == pytest.approx((2.0 * 100 + 3.0 * 21) / 1000.0)
    assert run.model_energy_j == pytest.approx(World().power.radio_w * 0.35)


def test_streams_of_a_node_slow_each_other_down():
    node = {"overhead_ms": 0.0, "decode_ms": 10.0, "batch_slowdown": 0.5, "background_streams": 2}
    run = simulate(CLOUD, trace((0.0, 1, 101)), world=world(node=node), rtt=constant_rtt(0.0))
    assert run.outcomes[0].total_ms - run.outcomes[0].ttft_ms == pytest.approx(100 * 10.0 * 2.0)


def test_the_second_waits_for_the_first_on_the_device():
    here = world(edge=BARE, load=FREE, thermal=COOL)
    first, second = simulate(EDGE, trace((0.0, 1000, 1), (0.25, 1000, 1)), world=here).outcomes
    assert first.ttft_ms == pytest.approx(1000.0)
    assert second.ttft_ms == pytest.approx(1750.0)


def test_a_request_that_waits_beyond_its_deadline_ends_late_and_leaves_the_queue():
    text = HEAD + "objectives: {deadline: 1500ms}\nrules:\n  - exclude: cloud\n"
    here = world(edge=BARE, load=FREE, thermal=COOL)
    run = simulate(parse_policy(text), trace((0.0, 1400, 1), (0.1, 1000, 1), (0.2, 50, 1)), world=here)
    assert [one.status for one in run.outcomes] == [Status.ANSWERED, Status.LATE, Status.ANSWERED]
    assert [one.total_ms for one in run.outcomes] == pytest.approx([1400.0, 1500.0, 1450.0])


def test_what_does_not_fit_the_device_is_answered_by_the_next_in_the_order():
    run = simulate(EDGE_FIRST, trace((0.0, 5000, 10)))
    assert run.outcomes[0].location is Location.CLOUD
    assert simulate(EDGE, trace((0.0, 5000, 10))).outcomes[0].status is Status.FAILED


def test_a_full_queue_of_the_device_hands_over_to_the_cloud():
    here = world(edge={**BARE, "queue_limit": 1})
    run = simulate(EDGE_FIRST, trace(*[(0.001 * n, 2000, 10) for n in range(5)]), world=here)
    assert [one.location for one in run.outcomes].count(Location.EDGE) == 2
    assert [one.location for one in run.outcomes].count(Location.CLOUD) == 3


def test_the_rules_see_the_budget_shrink():
    text = HEAD + (
        "objectives: {budget: 1 USD/day}\nrules:\n"
        "  - exclude: cloud\n    when: has(budget.left) && budget.left < 0.5\n  - prefer: [cloud, edge]\n"
    )
    there = world(node={"input_per_1k": 1.0, "output_per_1k": 1.0}, requests={"max_tokens": 20})
    requests = trace(*[(10.0 * n, 190, 10) for n in range(10)])
    run = simulate(parse_policy(text), requests, world=there)
    assert [one.location for one in run.outcomes].count(Location.CLOUD) == 3
    assert math.fsum(one.cost for one in run.outcomes) == pytest.approx(0.6)


def test_a_budget_is_never_exceeded_not_even_by_hedges_and_retries():
    text = HEAD + (
        "objectives: {budget: 1 USD/day}\nrules:\n  - prefer: [cloud, edge]\n"
        "resilience: {retries: 3, retry_budget: 100%, hedge_after: 10ms}\n"
    )
    there = world(node={"input_per_1k": 1.0, "output_per_1k": 1.0, "failure_share": 0.2})
    requests = trace(*[(0.3 * n, 100, 20) for n in range(60)])
    run = simulate(parse_policy(text), requests, world=there)
    assert 0.4 < math.fsum(one.cost for one in run.outcomes) <= 1.0
    assert all(one.status is Status.ANSWERED for one in run.outcomes)


# ---- network


def test_offline_the_policy_knows_and_a_call_that_is_open_breaks_off():
    requests = trace((0.0, 100, 200), (10.0, 100, 10), (100.0, 100, 10))
    run = simulate(CLOUD, requests, offline=Spans([(0.5, 50.0)]))
    assert [one.status for one in run.outcomes] == [Status.FAILED, Status.REFUSED, Status.ANSWERED]
    assert run.outcomes[0].cost > 0.0
    fallback = simulate(CLOUD_FIRST, requests, offline=Spans([(0.01, 50.0)]))
    assert [one.location for one in fallback.outcomes] == [Location.EDGE, Location.EDGE, Location.CLOUD]


def test_calls_that_fail_open_the_breaker_and_are_answered_by_the_device():
    run = simulate(
        CLOUD_FIRST, trace(*[(n * 2.0, 50, 10) for n in range(60)]), world=world(node={"failure_share": 1.0})
    )
    assert all(one.location is Location.EDGE and one.cost == 0.0 for one in run.outcomes)
    waits = [one.ttft_ms for one in run.outcomes]
    tried = [number for number, wait in enumerate(waits) if wait > min(waits) + 25.0]
    assert len(tried) < 20, "with the breaker open nobody waits for a round trip"
    assert tried[-1] - tried[-2] > 5, "a probe that ends an ejection in vain may end the next one later"


def test_slow_calls_are_hedged_and_the_first_token_wins():
    slow = constant_rtt(3000.0)
    here = world(edge=BARE, load=FREE, thermal=COOL)
    hedged = parse_policy(HEAD + "rules:\n  - prefer: [cloud, edge]\nresilience: {hedge_after: 200ms}\n")
    requests = trace((0.0, 300, 11), (10.0, 300, 11, "phi"))
    both = simulate(hedged, requests, world=here, rtt=slow)
    assert [one.location for one in both.outcomes] == [Location.EDGE, Location.EDGE]
    assert [one.ttft_ms for one in both.outcomes] == pytest.approx([500.0, 300.0])
    assert [one.cost for one in both.outcomes] == pytest.approx([0.0004 * 0.3, 0.0]), (
        "a cancelled call pays for its prompt"
    )
    plain = simulate(CLOUD_FIRST, requests, world=here, rtt=slow)
    assert plain.outcomes[0].location is Location.CLOUD
    assert plain.outcomes[0].ttft_ms > 3000.0


def test_the_retry_budget_bounds_the_hedges():
    text = HEAD + "rules:\n  - prefer: [cloud, edge]\nresilience: {hedge_after: 200ms, retry_budget: 1%}\n"
    requests = trace(*[(10.0 * number, 50, 5) for number in range(100)])
    run = simulate(parse_policy(text), requests, rtt=constant_rtt(3000.0))
    assert [one.location for one in run.outcomes].count(Location.EDGE) in (10, 11)


def test_an_answer_that_breaks_off_is_continued_where_the_policy_says_so():
    text = HEAD + "rules:\n  - prefer: [cloud, edge]\nresilience: {continue_streams: true}\n"
    node = {"overhead_ms": 0.0, "decode_ms": 10.0, "background_streams": 0, "input_per_1k": 1.0, "output_per_1k": 1.0}
    here = world(edge=BARE, load=FREE, thermal=COOL, node=node)
    requests, offline = trace((0.0, 100, 200)), Spans([(1.0, 60.0)])
    (one,) = simulate(parse_policy(text), requests, world=here, offline=offline, rtt=constant_rtt(0.0)).outcomes
    assert (one.status, one.location) == (Status.ANSWERED, Location.EDGE)
    given = 1 + int((1.0 - 0.02) / 0.01)
    assert one.cost == pytest.approx((100 + given) / 1000.0)
    assert one.ttft_ms == pytest.approx(20.0)
    assert one.total_ms == pytest.approx(1000.0 + (100 + given) + (200 - given - 1) * 10.0)
    (lost,) = simulate(CLOUD_FIRST, requests, world=here, offline=offline, rtt=constant_rtt(0.0)).outcomes
    assert lost.status is Status.FAILED


def test_an_answer_closes_the_breaker_again():
    text = HEAD + "rules:\n  - prefer: [cloud, edge]\nresilience: {breaker: {failures: 2, open: 10m}}\n"
    requests = trace(*[(10.0 * number, 10, 5) for number in range(4)])
    run = simulate(parse_policy(text), requests, offline=Spans([(0.0, 5.0), (15.0, 25.0)]))
    assert [one.location for one in run.outcomes] == [Location.EDGE, Location.CLOUD, Location.EDGE, Location.CLOUD]


def test_a_metered_connection_costs_more_energy():
    requests = trace((0.0, 1000, 500))
    plain, metered = simulate(CLOUD, requests), simulate(CLOUD, requests, metered=Spans([(0.0, 100.0)]))
    ratio = World().power.radio_metered_w / World().power.radio_w
    assert metered.model_energy_j == pytest.approx(plain.model_energy_j * ratio)


def test_the_power_of_the_radio_changes_where_the_metered_span_begins():
    run = simulate(CLOUD, trace((0.0, 1000, 500)), metered=Spans([(2.0, 100.0)]))
    seconds = run.outcomes[0].total_ms / 1000.0
    expected = World().power.radio_w * 2.0 + World().power.radio_metered_w * (seconds - 2.0)
    assert run.model_energy_j == pytest.approx(expected)


@SETTINGS
@given(st.floats(0.0, 400.0), st.floats(0.0, 400.0), st.integers(0, 10**6))
def test_a_slower_network_never_lowers_the_latency_of_the_cloud(one, two, seed):
    requests = synthetic(60, per_hour=600.0, seed=seed, day_starts_s=0.0)
    slots = world(node={"slots": 1000})
    fast, slow = (simulate(CLOUD, requests, world=slots, rtt=constant_rtt(rtt)) for rtt in sorted((one, two)))
    waits = {one.arrival: one.ttft_ms for one in slow.outcomes}
    assert all(one.ttft_ms <= waits[one.arrival] + 1e-6 for one in fast.outcomes)


# ---- queue


def test_the_queue_agrees_with_the_theory_of_one_server_and_constant_service():
    """M/D/1: mean wait = rho s / (2 (1 - rho)) (Pollaczek-Khinchine)."""
    rng, now, arrivals = random.Random(7), 0.0, []
    service, rho = 0.5, 0.6
    for _ in range(12_000):
        now += rng.expovariate(rho / service)
        arrivals.append(Arrival(at_s=now, prompt_tokens=500, output_tokens=1))
    here = world(edge={**BARE, "queue_limit": 1000}, load=FREE, thermal=COOL, battery=ENDLESS)
    run = simulate(EDGE, Trace(arrivals=tuple(arrivals), source="M/D/1"), world=here)
    assert all(one.status is Status.ANSWERED for one in run.outcomes)
    wait = math.fsum(one.ttft_ms for one in run.outcomes) / len(run.outcomes) / 1000.0 - service
    assert wait == pytest.approx(rho * service / (2.0 * (1.0 - rho)), rel=0.06)


# ---- device


def test_a_device_at_work_warms_up_as_the_formula_says():
    here = world(edge=BARE, load=FREE, thermal={"resistance_k_per_w": 4.0, "time_constant_s": 100.0}, battery=ENDLESS)
    text = parse_policy(HEAD + "objectives: {deadline: 1000s}\nrules:\n  - exclude: cloud\n")
    run = simulate(
        text,
        trace((0.0, 1, 5001)),
        world=dataclasses.replace(
            here,
            requests=world(requests={"max_tokens": 100000}).requests,
            edge=dataclasses.replace(here.edge, context_window=200000),
        ),
    )
    idle, full, seconds = 25.0 + 4.0 * 3.5, 25.0 + 4.0 * 18.5, run.outcomes[0].total_ms / 1000.0
    expected = full + (25.0 - full) * math.exp(-seconds / 100.0)
    assert run.peak_c == pytest.approx(expected, abs=0.01)
    assert run.samples[-1].temperature_c == pytest.approx(idle, abs=1.0)


def test_a_hot_device_is_slower_and_not_below_its_floor():
    hot = {"ambient_c": 99.0, "throttle_from_c": 50.0, "throttle_to_c": 60.0, "throttle_floor": 0.25}
    cold = simulate(EDGE, trace((0.0, 500, 11)), world=world(edge=BARE, load=FREE, thermal=COOL))
    slow = simulate(EDGE, trace((0.0, 500, 11)), world=world(edge=BARE, load=FREE, thermal=hot))
    assert slow.outcomes[0].total_ms == pytest.approx(4.0 * cold.outcomes[0].total_ms)
    assert slow.model_energy_j == pytest.approx(cold.model_energy_j), "slower, at as much less power"


def test_other_programs_slow_the_edge_down_only_when_the_processor_is_full():
    def latency(background):
        load = {"background_share": background, "edge_share": 0.8}
        return simulate(EDGE, trace((0.0, 500, 11)), world=world(edge=BARE, load=load)).outcomes[0].total_ms

    assert latency(0.2) == pytest.approx(latency(0.0))
    assert latency(0.6) == pytest.approx(2.0 * latency(0.0))


def test_an_empty_battery_ends_what_runs_and_the_mains_bring_the_device_back():
    small = world(battery={"capacity_wh": 0.01, "charging": '["07:01-08:00"]'}, edge=BARE)
    run = simulate(EDGE, trace((1.0, 3000, 10), (20.0, 10, 2), (90.0, 10, 2)), world=small)
    assert [one.status for one in run.outcomes] == [Status.OFF, Status.OFF, Status.ANSWERED]
    assert run.on_s < 60.0 + 60.0 + 20.0
    assert min(sample.battery for sample in run.samples) == 0.0


def test_a_device_without_a_battery_tells_none():
    run = simulate(EDGE, busy(50), world=world(battery=ENDLESS))
    assert run.battery is None
    assert summarise(run).least_battery is None


@SETTINGS
@given(
    st.fixed_dictionaries(
        {"capacity_wh": st.floats(0.001, 60.0), "start_share": st.floats(0.0, 1.0), "charger_w": st.floats(0.0, 50.0)}
    ),
    st.sampled_from([EDGE, CLOUD, EDGE_FIRST, CLOUD_FIRST]),
    st.integers(0, 10**6),
)
def test_the_battery_stays_between_empty_and_full_and_the_device_draws_at_least_its_idle_power(battery, policy, seed):
    text = {name: f"{value:.6f}" for name, value in battery.items()} | {"charging": '["07:01-07:03"]'}
    run = simulate(policy, busy(60, seed=seed), world=world(battery=text))
    assert all(0.0 <= sample.battery <= 1.0 for sample in run.samples)
    assert run.energy_j >= World().power.idle_w * run.on_s - 1e-6
    assert run.energy_j == pytest.approx(World().power.idle_w * run.on_s + run.model_energy_j)
    assert World().thermal.ambient_c - 1e-9 <= run.peak_c <= 25.0 + 4.0 * (3.5 + 15.0 + 1.288)
    assert len(run.outcomes) == 60


def test_the_mains_fill_the_battery_by_what_arrives_less_what_is_drawn():
    battery = {"capacity_wh": 10.0, "start_share": 0.1, "charging": '["07:00-08:00"]'}
    run = simulate(EDGE, trace((0.0, 10, 1)), world=world(battery=battery, power={"compute_w": 0.0}))
    gained = (30.0 * 0.9 - 3.5) * run.on_s
    assert run.battery == pytest.approx(0.1 + gained / 36_000.0)


# ---- privacy and conservation, under any policy


RESILIENCE = [
    "",
    "resilience: {retries: 0}\n",
    "resilience: {retries: 5, retry_budget: 100%, hedge_after: 20ms, continue_streams: true}\n",
    "resilience: {retries: 2, hedge_after: p50, continue_streams: true, breaker: {failures: 1, open: 1s}}\n",
]


@st.composite
def busy_worlds(draw):
    node = {"failure_share": draw(st.sampled_from(["0.0", "0.5", "1.0"])), "queue_limit": draw(st.integers(0, 2))}
    node["slots"] = draw(st.integers(5, 7))
    edge = {"queue_limit": draw(st.integers(0, 2)), "slots": draw(st.integers(1, 2))}
    battery = {"capacity_wh": draw(st.sampled_from(["0.05", "50.0", "0.0"]))}
    return world(node=node, edge=edge, battery=battery, requests={"deadline_s": draw(st.sampled_from(["1.0", "60.0"]))})


@SETTINGS
@given(cases(), busy_worlds(), st.integers(0, 10**6), st.booleans(), st.sampled_from(RESILIENCE))
def test_every_request_ends_exactly_once_and_what_is_bound_never_leaves(case, where, seed, outage, resilience):
    policy = parse_policy(case.text() + resilience, backends=case.backends)
    requests = with_tags(
        synthetic(80, per_hour=20_000.0, seed=seed, day_starts_s=0.0), dict.fromkeys(case.tags, 0.3), seed=seed
    )
    offline = Spans([(4.0, 9.0)]) if outage else Spans()
    run = simulate(policy, requests, world=where, offline=offline, seed=seed)
    assert sorted(id(one.arrival) for one in run.outcomes) == sorted(map(id, requests.arrivals))
    for one in run.outcomes:
        bound = any("cloud" not in case.tags[tag] for tag in one.arrival.tags)
        assert one.bound is bound
        assert not one.left
        assert not (bound and one.location is Location.CLOUD)
        assert one.total_ms >= one.ttft_ms >= 0.0
        assert (one.location is not None) is (one.status is Status.ANSWERED)
    counts = summarise(run, 400.0)
    total = counts.edge + counts.cloud + counts.refused + counts.failed + counts.late + counts.off
    assert total == counts.requests == 80
    assert counts.bound_left == 0


@pytest.mark.parametrize("name", builtin_names())
def test_the_built_in_policies_let_nothing_out_that_their_tags_keep(name):
    policy = builtin_policy(name)
    requests = with_tags(
        synthetic(300, per_hour=900.0, seed=3, day_starts_s=0.0), dict.fromkeys(policy.tags, 0.2), seed=3
    )
    found = summarise(simulate(policy, requests, world=world(node={"failure_share": 0.2})))
    assert found.bound > 80
    assert found.bound_left == 0


class Leaky(Around):
    """Decides against its own tags, as a broken engine would."""

    def decide(self, request, signals):
        return dataclasses.replace(self._policy.decide(request, signals), order=("cloud", "edge"))


def test_a_request_that_leaves_against_its_tags_is_counted_whatever_decided_so():
    requests = trace((0.0, 10, 5, "phi"), (1.0, 10, 5), (2.0, 10, 5, "phi"), (3.0, 9000, 5, "phi"))
    offline = Spans([(2.5, 60.0)])
    run = simulate(Leaky(EDGE_FIRST), requests, offline=offline)
    assert [one.left for one in run.outcomes] == [True, False, True, False], "offline nothing leaves"
    assert summarise(run).bound_left == 2


def test_always_edge_sends_nothing_and_always_cloud_refuses_what_must_stay():
    policy, requests = builtin_policy("balanced"), busy(300)
    requests = Trace(
        arrivals=tuple(dataclasses.replace(one, tags=one.tags & {"phi"}) for one in requests.arrivals), source="phi"
    )
    edge, cloud = (summarise(simulate(always(place, policy).policy, requests)) for place in Location)
    assert edge.cloud == 0
    assert edge.cost == 0.0
    assert edge.would_leave == 0
    assert cloud.edge == 0
    assert cloud.refused == cloud.bound == cloud.would_leave > 0


def test_what_is_sent_under_pseudonyms_is_counted():
    text = (
        "version: 1\nname: p\ntags: {pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}}\n"
        "rules:\n  - prefer: [cloud, edge]\n"
    )
    policy = parse_policy(text)
    requests = found_in(trace((0.0, 10, 5, "pii"), (1.0, 10, 5), (2.0, 10, 5, "pii")))
    assert summarise(simulate(policy, requests)).pseudonymised == 2
    assert summarise(simulate(always(Location.CLOUD, policy).policy, requests)).pseudonymised == 2


def found_in(requests):
    """The same requests, whose tags detectors set, and not the app."""
    arrivals = tuple(dataclasses.replace(one, tags=frozenset(), found=one.tags) for one in requests.arrivals)
    return dataclasses.replace(requests, arrivals=arrivals)


@pytest.mark.parametrize(
    ("detect", "accept", "sent"),
    [("email", False, 0), ("email", True, 1), ("email, my_names", False, 1)],
)
def test_a_declared_tag_goes_out_under_pseudonyms_only_as_the_guard_lets_it(detect, accept, sent):
    rule = f"to_cloud: pseudonymise, detect: [{detect}], accept_undetected_names: {str(accept).lower()}"
    text = f"version: 1\nname: p\ntags: {{pii: {{allow: [edge, cloud], {rule}}}}}\nrules:\n  - prefer: [cloud, edge]\n"
    policy = parse_policy(text, detectors={*DETECTOR_NAMES, "my_names"})
    declared = trace((0.0, 10, 5, "pii"))
    both = dataclasses.replace(declared.arrivals[0], at_s=9.0, found=frozenset({"pii"}))
    requests = dataclasses.replace(declared, arrivals=(*declared.arrivals, both))
    for one in (policy, always(Location.CLOUD, policy).policy):
        run = simulate(one, requests)
        summary = summarise(run)
        assert (summary.pseudonymised, summary.cloud, summary.bound_left) == (sent, sent, 0)
        assert [(outcome.bound, outcome.would_leave) for outcome in run.outcomes] == [
            (True, True),
            (not sent, not sent),
        ]
    assert ("cloud", "tag pii was declared, and no detector finds what to replace") in run.exclusions


# ---- the seed


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    flaky = world(node={"failure_share": 0.3})
    runs = [simulate(CLOUD_FIRST, busy(200, seed=seed), world=flaky, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_made_up_trace_has_its_rate_and_its_shares():
    found = with_tags(synthetic(8000, per_hour=120.0, seed=5, day_starts_s=0.0), {"phi": 0.05}, seed=5)
    assert found.per_hour == pytest.approx(120.0, rel=0.1)
    assert sum("phi" in one.tags for one in found.arrivals) / 8000 == pytest.approx(0.05, abs=0.01)
    assert {one.task for one in found.arrivals} == {"chat", "summarise", "extract"}


def test_a_stretched_trace_has_the_same_requests_at_another_rate():
    before = synthetic(100, per_hour=120.0, seed=5, day_starts_s=0.0)
    after = at_rate(before, 7.0)
    assert after.per_hour == pytest.approx(7.0)
    assert [one.prompt_tokens for one in after.arrivals] == [one.prompt_tokens for one in before.arrivals]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(values, share):
    found = percentile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


# ---- several nodes


def test_the_picker_spreads_calls_over_the_nodes_of_a_backend():
    node = {"slots": 1, "background_streams": 0, "overhead_ms": 0.0, "prefill_tokens_per_s": 1000.0}
    requests = trace(*[(0.0, 1000, 1)] * 20)
    one, two = (
        max(ended.ttft_ms for ended in simulate(CLOUD, requests, world=world(node=node | {"count": count})).outcomes)
        for count in (1, 2)
    )
    assert one == pytest.approx(20 * 1030.0)
    assert two < 0.8 * one


def test_each_node_of_a_backend_is_called_before_a_retry_is_paid_for():
    text = parse_policy(HEAD + "rules:\n  - exclude: edge\nresilience: {retries: 0}\n")
    requests = trace(*[(10.0 * number, 10, 5) for number in range(60)])
    one, three = (
        [ended.status for ended in simulate(text, requests, world=world(node=node)).outcomes].count(Status.ANSWERED)
        for node in ({"failure_share": 0.3}, {"failure_share": 0.3, "count": 3})
    )
    assert one < 50 < three

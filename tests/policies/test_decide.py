"""What a policy decides, and what it tells about it."""

from dataclasses import replace

import pytest

from hybrid_llm.core.errors import InvalidRequest, PolicyError
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState, Breaker, Signals
from hybrid_llm.policies import parse_policy

HEAD = (
    "version: 1\nname: clinic\ntags:\n  phi: {allow: [edge]}\n  public: {allow: [edge, cloud]}\n  stuck: {allow: []}\n"
)
NODES = {"near": Location.CLOUD, "edge": Location.EDGE, "far": Location.CLOUD}


def tagged(request, *tags):
    return replace(request, privacy=frozenset(tags))


def test_without_rules_the_backends_come_in_declared_order(signals, request_):
    decision = parse_policy(HEAD).decide(request_, signals)
    assert (decision.order, decision.rule, decision.excluded) == (("edge", "cloud"), "default", {})
    assert decision.policy == "clinic"
    assert len(decision.digest) == 16


def test_a_tag_takes_out_what_it_does_not_allow(signals, request_):
    policy = parse_policy(HEAD + "rules:\n  - prefer: [cloud, edge]\n")
    decision = policy.decide(tagged(request_, "phi", "public"), signals)
    assert decision.order == ("edge",)
    assert decision.excluded == {"cloud": "tag phi allows only edge"}
    assert policy.decide(tagged(request_, "public"), signals).order == ("cloud", "edge")
    assert policy.decide(tagged(request_, "stuck"), signals).excluded["edge"] == "tag stuck allows no location"


def test_an_undeclared_tag_is_an_invalid_request_that_lists_the_declared_ones(signals, request_):
    with pytest.raises(
        InvalidRequest, match=r"'phj' is not declared.*phi, public, stuck; did you mean `phi`"
    ) as caught:
        parse_policy(HEAD).decide(tagged(request_, "phj"), signals)
    assert caught.value.field == "privacy"


def test_allowed_is_what_every_tag_allows():
    policy = parse_policy(HEAD)
    assert policy.allowed([]) == {Location.EDGE, Location.CLOUD}
    assert policy.allowed(["public", "phi"]) == {Location.EDGE}
    assert policy.allowed(["stuck"]) == frozenset()
    assert policy.tags["phi"].allow == {Location.EDGE}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"ready": False, "reason": "loading the model"}, "loading the model"),
        ({"ready": False}, "it is not ready"),
        ({"breaker": Breaker.OPEN}, "its circuit breaker is open after failures"),
        ({"location": Location.CLOUD}, "it runs on cloud, the policy was checked for edge"),
    ],
)
def test_a_backend_that_cannot_take_it_now_is_out_with_the_reason(signals, request_, state, reason):
    backends = {**signals.backends, "edge": replace(signals.backends["edge"], **state)}
    decision = parse_policy(HEAD).decide(request_, replace(signals, backends=backends))
    assert (decision.order, decision.excluded) == (("cloud",), {"edge": reason})


def test_a_half_open_breaker_may_be_tried(signals, request_):
    backends = {**signals.backends, "edge": replace(signals.backends["edge"], breaker=Breaker.HALF_OPEN)}
    assert parse_policy(HEAD).decide(request_, replace(signals, backends=backends)).order == ("edge", "cloud")


def breakers_open(signals, **serves):
    states = {name: replace(signals.backends[name], breaker=Breaker.OPEN, serves=it) for name, it in serves.items()}
    return replace(signals, backends={**signals.backends, **states})


def test_where_only_open_breakers_are_left_what_serves_is_a_last_resort(signals, request_):
    decision = parse_policy(HEAD).decide(request_, breakers_open(signals, edge=False, cloud=True))
    assert (decision.order, decision.last_resort) == (("cloud",), {"cloud"})
    assert decision.excluded == {"edge": "its circuit breaker is open after failures"}
    assert "cloud: its circuit breaker is open, but it serves and nothing else is left" in decision.explain()


def test_there_is_no_last_resort_while_a_breaker_is_closed(signals, request_):
    decision = parse_policy(HEAD).decide(request_, breakers_open(signals, cloud=True))
    assert (decision.order, decision.last_resort) == (("edge",), frozenset())
    assert decision.excluded == {"cloud": "its circuit breaker is open after failures"}


def test_a_last_resort_is_never_what_a_hard_rule_excludes(signals, request_):
    text = HEAD + "rules:\n  - exclude: cloud\n    because: not today\n"
    decision = parse_policy(text).decide(request_, breakers_open(signals, edge=False, cloud=True))
    assert (decision.order, decision.last_resort) == ((), frozenset())
    assert decision.excluded["cloud"] == "not today (rules[0])"


def test_backends_that_only_one_side_knows_are_out(signals, request_):
    other = BackendState(name="new", location=Location.EDGE)
    world = replace(signals, backends={"edge": signals.backends["edge"], "new": other})
    decision = parse_policy(HEAD).decide(request_, world)
    assert decision.order == ("edge",)
    assert decision.excluded == {"cloud": "its state is unknown", "new": "the policy does not know this backend"}


def test_all_hard_rules_apply_and_the_first_reason_is_kept(signals, request_):
    text = HEAD + (
        "rules:\n"
        "  - prefer: [cloud, edge]\n"
        "  - exclude: edge\n    when: request.prompt_tokens > 1\n    because: too long\n"
        "  - exclude: [edge, cloud]\n    when: request.max_tokens >   1\n"
    )
    decision = parse_policy(text).decide(request_, signals)
    assert decision.order == ()
    assert decision.excluded == {"edge": "too long (rules[1])", "cloud": "request.max_tokens > 1 (rules[2])"}


def test_a_location_stands_for_its_backends_and_the_omitted_go_last(signals, request_):
    states = {name: BackendState(name=name, location=place) for name, place in NODES.items()}
    world = Signals(backends=states)
    assert parse_policy(HEAD + "rules: [{prefer: edge}]\n", backends=NODES).decide(request_, world).order == (
        "edge",
        "near",
        "far",
    )
    assert parse_policy(HEAD + "rules: [{prefer: [far, cloud]}]\n", backends=NODES).decide(request_, world).order == (
        "far",
        "near",
        "edge",
    )
    assert parse_policy(HEAD + "rules: [{exclude: cloud}]\n", backends=NODES).decide(request_, world).order == ("edge",)


def test_a_location_reads_its_first_backend(request_):
    states = {name: BackendState(name=name, location=place) for name, place in NODES.items()}
    world = Signals(backends={**states, "near": replace(states["near"], queue=5)})
    text = HEAD + "rules:\n  - exclude: far\n    when: cloud.queue == 5 && near.queue == 5 && far.queue == 0\n"
    assert parse_policy(text, backends=NODES).decide(request_, world).order == ("near", "edge")


def test_a_hard_rule_that_reads_a_place_without_backends_fails_closed(request_):
    only = {"edge": Location.EDGE}
    world = Signals(backends={"edge": BackendState(name="edge", location=Location.EDGE)})
    text = HEAD + "rules:\n  - exclude: edge\n    when: cloud.queue > 5\n    because: busy\n"
    decision = parse_policy(text, backends=only).decide(request_, world)
    assert decision.excluded == {"edge": "this could not be evaluated, so it is excluded: busy (rules[0])"}


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ("latency: 1.0", ("cloud", "edge")),  # 150 + 90 * 20 = 1950 ms against 300 + 90 * 8 = 1020 ms
        ("cost: 1.0", ("edge", "cloud")),
        ("energy: 1.0", ("cloud", "edge")),
        ("latency: 1.0, cost: 18599.0", ("cloud", "edge")),  # 930 ms against 0.05 units of currency
        ("latency: 1.0, cost: 18601.0", ("edge", "cloud")),
    ],
)
def test_rank_adds_up_absolute_units(signals, request_, weights, order):
    decision = parse_policy(HEAD + f"rules: [{{rank: {{{weights}}}}}]\n").decide(request_, signals)
    assert decision.order == order
    assert decision.rule == "rules[0]"


@pytest.mark.parametrize(
    ("edge", "cloud", "weights", "order"),
    [
        (0.9, 0.6, "quality: 1", ("edge", "cloud")),
        (0.6, 0.9, "quality: 1", ("cloud", "edge")),
        (0.9, 0.6, "latency: 1, quality: 3099", ("cloud", "edge")),  # 930 ms against 0.3 of quality
        (0.9, 0.6, "latency: 1, quality: 3101", ("edge", "cloud")),
        (None, 0.1, "quality: 1", ("cloud", "edge")),  # what is not known counts as 0
        (None, None, "latency: 1, quality: 9999", ("cloud", "edge")),  # and changes nothing where nobody knows it
        (0.0, None, "quality: 1", ("edge", "cloud")),  # a tie
        (float("nan"), 0.0, "quality: 1", ("cloud", "edge")),
    ],
)
def test_rank_weighs_the_quality_that_is_missing(signals, request_, edge, cloud, weights, order):
    states = {name: replace(signals.backends[name], quality=q) for name, q in (("edge", edge), ("cloud", cloud))}
    policy = parse_policy(HEAD + f"rules: [{{rank: {{{weights}}}}}]\n")
    assert policy.decide(request_, replace(signals, backends=states)).order == order


def test_rules_read_quality_as_a_share_that_may_be_absent(signals, request_):
    text = HEAD + "rules:\n  - prefer: [cloud, edge]\n    when: has(edge.quality) && edge.quality < 80%\n"
    for quality, first in ((None, "edge"), (0.79, "cloud"), (0.8, "edge"), (float("nan"), "edge")):
        states = {**signals.backends, "edge": replace(signals.backends["edge"], quality=quality)}
        assert parse_policy(text).decide(request_, replace(signals, backends=states)).order[0] == first
    with pytest.raises(PolicyError, match=r"has\(edge\.quality\)"):
        parse_policy(text.replace("has(edge.quality) && ", ""))


def test_ties_of_rank_keep_the_declared_order_and_the_unknown_goes_last(request_):
    states = {name: BackendState(name=name, location=place) for name, place in NODES.items()}
    policy = parse_policy(HEAD + "rules: [{rank: {latency: 1}}]\n", backends=NODES)
    assert policy.decide(request_, Signals(backends=states)).order == ("near", "edge", "far")
    odd = {**states, "near": replace(states["near"], predicted_ttft_ms=float("nan"))}
    assert policy.decide(request_, Signals(backends=odd)).order == ("edge", "far", "near")


def test_the_trace_tells_values_and_the_sub_conditions_that_held(signals, request_):
    text = HEAD + (
        "rules:\n"
        "  - exclude: edge\n    when: has(device.cpu_pressure) && device.cpu_pressure > 50%\n"
        "  - prefer: [edge, cloud]\n    when: request.prompt_tokens < 5 || edge.predicted_ttft_ms < 400ms\n"
        "    because: quick\n"
        "  - rank: {latency: 1}\n"
    )
    decision = parse_policy(text, path="c.yaml").decide(request_, signals)
    assert (decision.rule, decision.because) == ("rules[1]", "quick")
    first, second = decision.trace
    assert (first.place, first.matched) == ("c.yaml:8:5", False)
    assert dict(first.values) == {"device.cpu_pressure": "absent"}
    assert second.matched
    assert dict(second.values) == {
        "request.prompt_tokens": 10,
        "edge.predicted_ttft_ms": 150.0,
        "edge.predicted_ttft_ms < 400ms": True,
    }
    assert "MARKER" not in decision.explain()


def test_the_trace_of_rank_tells_the_sums(signals, request_):
    decision = parse_policy(HEAD + "rules: [{rank: {latency: 1}}]\n").decide(request_, signals)
    assert dict(decision.trace[0].values) == {"edge": 1950.0, "cloud": 1020.0}


def test_the_same_text_has_the_same_digest_and_another_text_another():
    assert parse_policy(HEAD).digest == parse_policy(HEAD, path="elsewhere").digest
    assert parse_policy(HEAD).digest != parse_policy(HEAD + "# x\n").digest


def test_objectives_and_resilience_are_read_in_their_units():
    policy = parse_policy(
        HEAD + "objectives: {ttft: 400ms, tpot: 0.05s, deadline: 2m, cost: 0.5 EUR}\n"
        "resilience: {retries: 1, retry_budget: 25%, continue_streams: false,\n"
        "  breaker: {failures: 3, open: 1m}}\n"
    )
    aims, tries = policy.objectives, policy.resilience
    assert (aims.ttft_ms, aims.tpot_ms, aims.deadline_s, aims.cost, aims.currency) == (400.0, 50.0, 120.0, 0.5, "EUR")
    assert (tries.retries, tries.retry_budget, tries.hedge_after, tries.continue_streams) == (1, 0.25, None, False)
    assert (tries.breaker.failures, tries.breaker.open_s) == (3, 60.0)
    assert parse_policy(HEAD).resilience.retries == 2

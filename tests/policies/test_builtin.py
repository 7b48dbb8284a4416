"""The policies that come with the package do what their names say."""

from dataclasses import replace

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location
from hybrid_llm.policies import builtin_names, builtin_policy
from hybrid_llm.policies.document import Percentile


def decide(name, signals, request_, *tags, device=None, network=None, edge=None, cloud=None, **request):
    backends = {
        "edge": replace(signals.backends["edge"], **(edge or {})),
        "cloud": replace(signals.backends["cloud"], **(cloud or {})),
    }
    world = replace(
        signals,
        backends=backends,
        device=replace(signals.device, **(device or {})),
        network=replace(signals.network, **(network or {})),
    )
    return builtin_policy(name).decide(replace(request_, privacy=frozenset(tags), **request), world)


def test_the_six_are_there():
    assert set(builtin_names()) == {
        "balanced",
        "battery-saver",
        "cost-cap",
        "latency-first",
        "offline-first",
        "private-first",
    }
    with pytest.raises(ConfigError, match="did you mean `balanced`"):
        builtin_policy("balance")


@pytest.mark.parametrize("name", builtin_names())
def test_each_has_its_name_the_four_tags_and_keeps_private_ones_on_the_device(name, signals, request_):
    policy = builtin_policy(name)
    assert policy.name == name
    assert set(policy.tags) == {"phi", "pii", "secret", "public"}
    for tag in ("phi", "secret"):
        assert decide(name, signals, request_, tag).order == ("edge",)


@pytest.mark.parametrize("name", builtin_names())
def test_personal_data_leaves_under_pseudonyms_or_not_at_all(name):
    policy = builtin_policy(name)
    leaves = Location.CLOUD in policy.allowed({"pii"})
    assert policy.tags["pii"].pseudonymise == leaves == (name != "private-first")
    assert policy.cacheable({"pii"}) == {Location.EDGE}


@pytest.mark.parametrize("name", builtin_names())
def test_an_answer_that_breaks_off_is_continued_where_that_can_help(name):
    assert builtin_policy(name).resilience.continue_streams == (name != "private-first")
    assert isinstance(builtin_policy(name).resilience.hedge_after, Percentile) == (name == "latency-first")


@pytest.mark.parametrize("name", builtin_names())
@pytest.mark.parametrize(
    "backends",
    [
        {"edge": Location.EDGE},
        {"cloud": Location.CLOUD},
        {"phone": Location.EDGE, "node-1": Location.CLOUD, "node-2": Location.CLOUD},
    ],
)
def test_each_loads_for_other_sets_of_backends(name, backends):
    assert builtin_policy(name, backends).backends == backends


@pytest.mark.parametrize("name", builtin_names())
def test_a_prompt_that_does_not_fit_the_device_goes_to_the_cloud_and_offline_nobody_is_left(name, signals, request_):
    free = {"cost_per_1k_tokens": 0.0}
    assert decide(name, signals, request_, "public", prompt_tokens=4090, cloud=free).order == ("cloud",)
    assert decide(name, signals, request_, "public", prompt_tokens=4090, network={"online": False}).order == ()
    assert decide(name, signals, request_, "public", prompt_tokens=40900).order == ()


def test_balanced_spares_a_low_battery_and_a_hot_device(signals, request_):
    assert decide("balanced", signals, request_).order == ("edge", "cloud")
    assert decide("balanced", signals, request_, device={"battery": 0.1, "charging": False}).order == ("cloud", "edge")
    assert decide("balanced", signals, request_, device={"battery": 0.1, "charging": True}).order == ("edge", "cloud")
    assert decide("balanced", signals, request_, device={"temperature_c": 90.0}).order == ("cloud", "edge")
    assert decide("balanced", signals, request_, device={"temperature_c": 99.0}).order == ("cloud",)
    slow = decide("balanced", signals, request_, edge={"predicted_ttft_ms": 900.0})
    assert (slow.order, slow.rule) == (("cloud", "edge"), "rules[7]")


def test_private_first_lets_only_public_requests_leave(signals, request_):
    assert decide("private-first", signals, request_).order == ("edge",)
    assert decide("private-first", signals, request_, "public").order == ("edge", "cloud")
    assert decide("private-first", signals, request_, "public", "pii").order == ("edge",)


def test_latency_first_takes_the_shorter_time(signals, request_):
    assert decide("latency-first", signals, request_).order == ("cloud", "edge")
    assert decide("latency-first", signals, request_, max_tokens=16).order == ("edge", "cloud")
    assert decide("latency-first", signals, request_, cloud={"predicted_ttft_ms": 5000.0}).order == ("edge", "cloud")


def test_cost_cap_refuses_a_dear_request(signals, request_):
    assert decide("cost-cap", signals, request_).excluded == {
        "cloud": "the cloud would cost more than one request may (rules[0])"
    }
    assert decide("cost-cap", signals, request_, cloud={"cost_per_1k_tokens": 0.1}).order == ("edge", "cloud")
    metered = {"metered": True}
    cheap = {"cost_per_1k_tokens": 0.0}
    assert decide(
        "cost-cap", signals, request_, network=metered, cloud=cheap, prompt_tokens=4001, max_tokens=9
    ).order == ("edge",)


def test_offline_first_uses_the_cloud_last(signals, request_):
    assert decide("offline-first", signals, request_).order == ("edge", "cloud")
    assert decide("offline-first", signals, request_, cloud={"rtt_ms": 2500.0}).order == ("edge",)
    assert decide("offline-first", signals, request_, cloud={"rtt_ms": None}).order == ("edge", "cloud")


def test_battery_saver_spares_the_device_off_the_plug(signals, request_):
    assert decide("battery-saver", signals, request_).order == ("edge", "cloud")
    assert decide("battery-saver", signals, request_, device={"charging": False, "battery": 0.2}).order == (
        "cloud",
        "edge",
    )
    assert decide("battery-saver", signals, request_, device={"charging": False}).order == ("cloud", "edge")
    assert decide("battery-saver", signals, request_, device={"battery": None, "charging": None}).order == (
        "edge",
        "cloud",
    )

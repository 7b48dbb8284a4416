"""`hybrid-llm explain`: the decision, under live and given signals, without a call."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.cli.explain import apply_overrides, parse_overrides
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState, Breaker, Signals

PLACES = {"phone": Location.EDGE, "eu": Location.CLOUD}
POLICY = """\
version: 1
name: battery
tags:
  phi: {allow: [edge]}
rules:
  - prefer: [cloud, edge]
    when: has(device.battery) && device.battery < 0.2
    because: the battery is low
  - prefer: [edge, cloud]
"""


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "battery.yaml"
    path.write_text(POLICY, encoding="utf-8")
    return path


def test_it_prints_order_rule_reason_and_values(cli):
    result = cli("explain", "Hello")
    assert result.code == 0
    assert "order: edge   by rules[" in result.out
    assert "request.prompt_tokens=" in result.out


def test_a_policy_is_tried_before_there_is_a_configuration(cli, policy):
    result = cli("explain", "Hello", "--policy", policy)
    assert "order: edge > cloud" in result.out
    assert "assumed backends: edge, cloud" in result.err


def test_a_given_signal_overrides_the_live_one(cli, policy):
    result = cli("explain", "Hello", "--policy", policy, "--signal", "device.battery=0.1")
    assert "order: cloud > edge   by rules[0]: the battery is low" in result.out
    assert "device.battery=0.1" in result.out


def test_a_tag_and_a_state_exclude_with_their_reasons(cli, policy):
    tagged = cli("explain", "Hello", "--policy", policy, "--privacy", "phi")
    assert "excluded: cloud: tag phi allows only edge" in tagged.out
    gone = cli("explain", "Hello", "--policy", policy, "--signal", "cloud.ready=false", "--privacy", "phi", "--json")
    assert json.loads(gone.out)["order"] == ["edge"]
    none = cli("explain", "Hello", "--policy", policy, "--signal", "edge.breaker=open", "--privacy", "phi")
    assert none.code == 0
    assert "no eligible backend" in none.out


def test_json_holds_the_trace(cli, policy):
    decision = json.loads(cli("explain", "Hello", "--policy", policy, "--json").out)
    assert decision["rule"] == "rules[1]"
    assert [entry["matched"] for entry in decision["trace"]] == [False, True]


def test_a_configuration_gives_the_backends_and_nothing_is_called(cli, configure):
    result = cli("explain", "Hello", "--config", configure(1, edge=True))
    assert result.code == 0
    assert "order: edge > cloud" in result.out


def test_other_backends_can_be_assumed(cli, tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text("version: 1\nname: fleet\nrules:\n  - prefer: [eu, phone]\n", encoding="utf-8")
    backends = ("--backend", "phone=edge", "--backend", "eu=cloud")
    assert "order: eu > phone" in cli("explain", "Hello", "--policy", path, *backends).out
    assert cli("explain", "Hello", "--policy", path, "--backend", "eu=moon").code == 2


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        ("device.batery=0.1", "did you mean `battery`?"),
        ("devise.battery=0.1", "did you mean `device`?"),
        ("device.battery=low", "'low' is not a number"),
        ("cloud.ready=maybe", "'maybe' is not true or false"),
        ("edge.queue=1.5", "'1.5' is not a whole number"),
        ("edge.breaker=ajar", "one of closed, half_open, open"),
        ("device.cpu_load=none", "'none' is not a number"),
        ("battery", "is not NAME.FIELD=VALUE"),
        ("edge.name=other", "has no signal `name`"),
    ],
)
def test_an_invalid_signal_is_refused_with_a_suggestion(cli, policy, signal, message):
    result = cli("explain", "Hello", "--policy", policy, "--signal", signal)
    assert result.code == 2
    assert message in result.err


def test_a_broken_policy_is_code_3_with_all_its_errors(cli, policy):
    policy.write_text(POLICY.replace("device.battery <", "device.batery <").replace("name: battery", "nam: battery"))
    result = cli("explain", "Hello", "--policy", policy)
    assert result.code == 3
    assert "batery" in result.err
    assert "nam" in result.err


@given(value=st.floats(allow_nan=False), window=st.integers(0, 10**6), ready=st.booleans())
def test_a_signal_is_read_in_the_type_of_its_field_and_changes_nothing_else(value, window, ready):
    texts = [f"device.cpu_load={value!r}", f"eu.context_window={window}", f"edge.ready={ready}"]
    states = {name: BackendState(name=name, location=place) for name, place in PLACES.items()}
    before = Signals(backends=states)
    after = apply_overrides(before, parse_overrides(texts, PLACES))
    assert after.device.cpu_load == value
    assert after.backends["eu"].context_window == window
    assert after.backends["phone"].ready is ready
    assert after.network == before.network
    assert before.backends["phone"].ready


def test_an_optional_signal_can_be_removed():
    overrides = parse_overrides(["device.battery=none", "phone.breaker=half_open"], PLACES)
    assert [value for _, value in overrides] == [None, Breaker.HALF_OPEN]
    with pytest.raises(InvalidRequest):
        parse_overrides(["cloudy.ready=true"], PLACES)


def test_policy_explain_explains_as_explain_does(cli, policy):
    given = ("Hello", "--signal", "device.battery=0.1", "--privacy", "phi")
    action = cli("policy", "explain", policy, *given)
    command = cli("explain", *given, "--policy", policy)
    assert action.code == 0
    assert action.out.splitlines()[:3] == command.out.splitlines()[:3]
    assert "excluded: cloud: tag phi allows only edge" in action.out
    assert json.loads(cli("policy", "explain", policy, *given, "--json").out)["order"] == ["edge"]

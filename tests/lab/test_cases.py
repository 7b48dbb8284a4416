"""The cases beside a policy: read as strictly as it, decided by the real policy, and counted rule by rule."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import PolicyError
from hybrid_llm.core.request import Location
from hybrid_llm.lab.casefile import default_signals, parse_cases
from hybrid_llm.lab.cases import Report, run_suite
from hybrid_llm.policies import builtin_policy, parse_policy
from hybrid_llm.policies.language.schema import Schema

POLICY = """\
version: 1
name: clinic
tags:
  phi: {allow: [edge], detect: [medical_record]}
  public: {allow: [edge, cloud]}
objectives: {ttft: 400ms, deadline: 10s, budget: 5 USD/day}
rules:
  - exclude: cloud
    when: has(request.tenant) && request.tenant.startsWith("trial-") && request.message_count > 2
    because: trials talk to the device
  - exclude: edge
    when: has(device.temperature_c) && device.temperature_c > 85.0
  - prefer: [cloud, edge]
    when: has(device.battery) && device.battery < 20%
    because: the battery is low
  - prefer: [edge, cloud]
"""
HEAD = "version: 1\ncases:\n"


def suite(text: str, policy: str = POLICY):
    def policy_for(backends: Mapping[str, Location] | None):
        return parse_policy(policy, path="clinic.yaml", backends=backends or {place.value: place for place in Location})

    return parse_cases(text, "clinic.test.yaml", policy_for)


def run(*cases: str, base: str = "") -> Report:
    found = suite("version: 1\n" + base + "cases:\n" + "".join(f"  - {{name: one, {case}}}\n" for case in cases))
    return run_suite(found.policy, found.cases)


def mismatches(case: str, base: str = "") -> list[tuple[str, str, str]]:
    (outcome,) = run(case, base=base).outcomes
    return [(m.what, m.expected, m.actual) for m in outcome.mismatches]


@pytest.mark.parametrize(
    "case",
    [
        "expect: {order: [edge, cloud], first: edge, rule: 3}",
        "expect: {rule: always}",
        "signals: {device.battery: 19%}, expect: {order: [cloud, edge], rule: the battery is low}",
        "signals: {device.battery: 0.19}, expect: {rule: 2}",
        "signals: {device.battery: absent}, expect: {first: edge}",
        "signals: {device.temperature_c: -85.5}, expect: {first: edge}",
        "signals: {device.temperature_c: 90}, expect: {order: [cloud], never: [edge], excluded: [edge]}",
        "signals: {device.temperature_c: nan}, expect: {excluded: {edge: could not be evaluated}}",
        "signals: {cloud.ready: false, edge.breaker: open}, expect: {order: []}",
        "request: {tags: [phi, public]}, expect: {order: [edge], tags: [phi, public], excluded: {cloud: tag phi}}",
        "request: {tenant: trial-7, message_count: 3}, expect: {excluded: {cloud: trials talk}}",
        "request: {tenant: absent, message_count: 3}, expect: {never: [], order: [edge, cloud]}",
        "request: {text: patient id 77-1234}, expect: {tags: [phi], order: [edge]}",
    ],
)
def test_a_case_that_tells_the_truth_passes(case):
    assert mismatches(case) == []


@pytest.mark.parametrize(
    ("case", "mismatch"),
    [
        ("expect: {order: [cloud, edge]}", ("order", "cloud > edge", "edge > cloud")),
        ("expect: {order: []}", ("order", "no backend", "edge > cloud")),
        ("expect: {first: cloud}", ("first", "cloud", "edge > cloud")),
        ("expect: {never: [cloud]}", ("never", "not cloud", "edge > cloud")),
        ("expect: {rule: 2}", ("rule", "rules[2]", "rules[3]: always")),
        ("expect: {rule: default}", ("rule", "default", "rules[3]: always")),
        ("expect: {tags: [phi]}", ("tags", "phi", "none")),
        ("expect: {excluded: [cloud]}", ("excluded", "cloud is excluded", "cloud is eligible")),
        (
            "request: {tags: [phi]}, expect: {excluded: {cloud: trials}}",
            ("excluded", "cloud: ...trials...", "cloud: tag phi allows only edge"),
        ),
    ],
)
def test_a_case_that_does_not_reports_what_was_expected_and_what_came(case, mismatch):
    assert mismatches(case) == [mismatch]


def test_a_case_starts_from_the_base_and_may_say_otherwise():
    base = "base: {request: {tags: [phi]}, signals: {device.battery: 5%}}\n"
    assert mismatches("expect: {order: [edge], rule: 2}", base) == []
    assert mismatches("request: {tags: []}, signals: {device.battery: 50%}, expect: {rule: 3}", base) == []


def test_rules_and_tags_that_no_case_tried_are_named():
    report = run("expect: {first: edge}", "signals: {device.battery: 5%}, expect: {first: edge}")
    assert [rule.index for rule in report.unmatched] == [0, 1]
    assert report.untried == ("phi", "public")
    assert (report.passed, report.covered) == (False, False)


def test_the_file_may_name_its_backends_and_a_location_stands_for_those_there():
    policy = "version: 1\nname: fleet\nrules:\n  - prefer: [cloud, edge]\n"
    text = (
        "version: 1\nbackends: {phone: edge, eu: cloud, us: cloud}\ncases:\n"
        "  - {name: all, expect: {order: [cloud, phone], first: cloud}}\n"
        "  - {name: one is gone, signals: {eu.ready: false}, expect: {order: [us, phone], never: [eu]}}\n"
    )
    found = suite(text, policy)
    assert run_suite(found.policy, found.cases).passed


CASES = [
    ("", "empty"),
    ("version: 2\ncases: []\n", "only version 1 can be read"),
    ("version: 1\n", "`cases` is missing"),
    ("version: 1\ncases: {}\n", "`cases` must be a list"),
    ("version: 1\ncasse: []\ncases: []\n", "did you mean `cases`?"),
    ("version: 1\nbackends: {edge: moon}\ncases: []\n", "`moon` is not a location"),
    (HEAD + "  - {expect: {order: [edge]}}\n", "`name` is missing"),
    (HEAD + "  - {name: a}\n", "`expect` is missing"),
    (HEAD + "  - {name: a, expect: {}}\n", "a case needs an expectation"),
    (HEAD + "  - {name: a, expect: {ordre: [edge]}}\n", "did you mean `order`?"),
    (HEAD + "  - {name: a, expect: {order: [egde]}}\n", "did you mean `edge`?"),
    (HEAD + "  - {name: a, expect: {order: edge}}\n", "write it in brackets"),
    (HEAD + "  - {name: a, expect: {rule: 0}}\n", "no `prefer` or `rank` rule is `0`"),
    (HEAD + "  - {name: a, expect: {rule: the batery is low}}\n", "did you mean `the battery is low`?"),
    (HEAD + "  - {name: a, expect: {tags: [phy]}}\n", "did you mean `phi`?"),
    (HEAD + "  - {name: a, request: {tags: [phy]}, expect: {first: edge}}\n", "did you mean `phi`?"),
    (HEAD + "  - {name: a, request: {prompt_token: 1}, expect: {first: edge}}\n", "did you mean `prompt_tokens`?"),
    (HEAD + "  - {name: a, request: {prompt_tokens: many}, expect: {first: edge}}\n", "a whole number"),
    (HEAD + "  - {name: a, request: {has_tools: yes}, expect: {first: edge}}\n", "write true"),
    (HEAD + "  - {name: a, signals: {device.batery: 5%}, expect: {first: edge}}\n", "did you mean `device.battery`?"),
    (HEAD + "  - {name: a, signals: {devise.battery: 5%}, expect: {first: edge}}\n", "did you mean `device.battery`?"),
    (HEAD + "  - {name: a, signals: {battery: 5%}, expect: {first: edge}}\n", "signals has no key `battery`"),
    (
        HEAD + "  - {name: a, signals: {device.battery: low}, expect: {first: edge}}\n",
        "is not a number, a percentage such as 10%, `nan` or `absent`",
    ),
    (HEAD + "  - {name: a, signals: {device.cpu_load: absent}, expect: {first: edge}}\n", "is not a number"),
    (HEAD + "  - {name: a, signals: {cloud.rtt_ms: 5%}, expect: {first: edge}}\n", "a duration such as 400ms"),
    (
        HEAD + "  - {name: a, signals: {edge.breaker: ajar}, expect: {first: edge}}\n",
        "`half_open` or `open`",
    ),
    (HEAD + "  - {name: a, signals: {edge.location: cloud}, expect: {first: edge}}\n", "has no key `edge.location`"),
    (HEAD + "  - {name: a, signals: [1], expect: {first: edge}}\n", "`signals` must be a mapping"),
    (HEAD + "  - {name: &x a, expect: {first: edge}}\n", "anchors"),
]


@pytest.mark.parametrize(("text", "message"), CASES, ids=lambda value: str(value)[-40:])
def test_what_is_wrong_in_the_file_is_reported_with_its_position(text, message):
    with pytest.raises(PolicyError) as caught:
        suite(text)
    error = next(error for error in caught.value.errors if message in str(error))
    assert str(error).startswith(f"clinic.test.yaml:{error.line}:{error.column}: ")


def test_all_faults_are_reported_at_once():
    with pytest.raises(PolicyError) as caught:
        suite(HEAD + "  - {name: a, expect: {order: [egde]}}\n  - {name: b, signals: {x.y: 1}, expect: {rule: 9}}\n")
    assert len(caught.value.errors) == 3
    assert "the file of cases is rejected" in str(caught.value)


POLICY_OF_ALL = builtin_policy("balanced")
FIELDS = sorted(
    (root, name)
    for root in ("device", "network", "budget", "edge", "cloud")
    for name in Schema(POLICY_OF_ALL.backends, POLICY_OF_ALL.objectives).fields(root)
    if name not in {"name", "location"}
)


@settings(deadline=None)
@given(field=st.sampled_from(FIELDS), number=st.integers(0, 10**6))
def test_every_signal_that_a_condition_can_read_can_be_given(field, number):
    root, name = field
    spec = Schema(POLICY_OF_ALL.backends, POLICY_OF_ALL.objectives).fields(root)[name]
    value = {"bool": "true", "int": number, "double": number, "string": "open"}[spec.type.kind]
    text = f"version: 1\ncases:\n  - {{name: a, signals: {{{root}.{name}: {value}}}, expect: {{rule: default}}}}\n"
    (case,) = parse_cases(text, "x", lambda _: POLICY_OF_ALL).cases
    owner = getattr(case.signals, root, None) or case.signals.backends[root]
    assert getattr(owner, name) == {"true": True}.get(value, value)
    before = default_signals(POLICY_OF_ALL)
    assert sum(getattr(case.signals, part) != getattr(before, part) for part in ("device", "network", "budget")) <= 1

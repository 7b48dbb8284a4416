"""`hybrid-llm policy test`: cases of a policy, what failed and why, and what no case covers."""

import json
from pathlib import Path

import pytest

from hybrid_llm.policies import builtin_names

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "clinic" / "policy.yaml"
POLICY = """\
version: 1
name: clinic
tags:
  phi: {allow: [edge], detect: [medical_record]}
rules:
  - prefer: [cloud, edge]
    when: has(device.battery) && device.battery < 20%
    because: the battery is low
  - prefer: [edge, cloud]
"""
CASES = """\
version: 1
cases:
  - name: notes stay
    request: {text: "patient number 77-1234 MARKER"}
    expect: {order: [edge], tags: [phi]}
  - name: a low battery is spared
    signals: {device.battery: 10%}
    expect: {order: [cloud, edge]}
"""


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "clinic.yaml"
    path.write_text(POLICY, encoding="utf-8")
    (tmp_path / "clinic.test.yaml").write_text(CASES, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_policy_passes_its_own_cases_and_they_cover_every_rule(cli, name):
    result = cli("policy", "test", name, "--strict")
    assert result.code == 0, result.out
    assert "0 failed" in result.out


def test_the_policy_of_the_example_passes_its_cases(cli):
    result = cli("policy", "test", EXAMPLE, "--strict")
    assert result.code == 0, result.out


def test_the_cases_beside_a_policy_are_found_and_its_detectors_read_their_texts(cli, policy):
    result = cli("policy", "test", policy, "--strict")
    assert result.code == 0, result.out
    assert "2 passed, 0 failed" in result.out
    assert "MARKER" not in result.out


def test_a_failure_shows_the_expected_and_the_actual_decision_and_why(cli, policy):
    policy.write_text(POLICY.replace("20%", "5%"), encoding="utf-8")
    result = cli("policy", "test", policy)
    assert result.code == 1
    assert "FAIL  a low battery is spared" in result.out
    assert "expected cloud > edge" in result.out
    assert "but was  edge > cloud" in result.out
    assert "device.battery=0.1" in result.out


def test_what_no_case_covers_is_reported_and_fails_with_strict(cli, policy, tmp_path):
    few = tmp_path / "few.yaml"
    few.write_text("version: 1\ncases:\n  - {name: one, expect: {first: edge}}\n", encoding="utf-8")
    result = cli("policy", "test", policy, few)
    assert result.code == 0
    assert "not covered: rules[0] prefer" in result.out
    assert "tags without a case: phi" in result.out
    assert cli("policy", "test", policy, few, "--strict").code == 1
    assert cli("policy", "test", policy, few, policy.with_suffix(".test.yaml"), "--strict").code == 0


def test_json_has_every_case_its_mismatches_and_its_decision(cli, policy):
    policy.write_text(POLICY.replace("20%", "5%"), encoding="utf-8")
    shown = json.loads(cli("policy", "test", policy, "--json").out)
    assert [case["passed"] for case in shown["cases"]] == [True, False]
    assert shown["cases"][1]["mismatches"] == [{"what": "order", "expected": "cloud > edge", "actual": "edge > cloud"}]
    assert shown["cases"][1]["decision"]["rule"] == "rules[1]"
    assert shown["rules_not_covered"] == ["rules[0]"]


def test_missing_and_invalid_cases_are_errors_that_say_what_to_do(cli, policy):
    cases = policy.with_suffix(".test.yaml")
    cases.write_text(CASES.replace("battery: 10", "batery: 10"), encoding="utf-8")
    wrong = cli("policy", "test", policy)
    assert (wrong.code, "did you mean `device.battery`?" in wrong.err) == (3, True)
    cases.unlink()
    absent = cli("policy", "test", policy)
    assert (absent.code, "clinic.test.yaml does not exist" in absent.err) == (3, True)
    policy.write_text("version: 1\n", encoding="utf-8")
    cases.write_text(CASES, encoding="utf-8")
    assert cli("policy", "test", policy).code == 3


def test_backends_of_the_command_line_are_those_of_the_cases(cli, tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text("version: 1\nname: fleet\nrules:\n  - prefer: [eu, phone]\n", encoding="utf-8")
    cases = tmp_path / "fleet.test.yaml"
    cases.write_text("version: 1\ncases:\n  - {name: a, expect: {order: [eu, phone]}}\n", encoding="utf-8")
    assert cli("policy", "test", path, "--backend", "phone=edge", "--backend", "eu=cloud").code == 0
    assert cli("policy", "test", path).code == 3

"""`hybrid-llm policy verify`: what each tag allows, claims, and the steps of a violation."""

import json
from pathlib import Path

import pytest

POLICY = """\
version: 1
name: small
tags:
  phi:    {allow: [edge], detect: [medical_record]}
  public: {allow: [edge, cloud]}
rules:
  - prefer: [cloud, edge]
    when: network.online
resilience: {retries: 0}
"""


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(POLICY, encoding="utf-8")
    return path


def test_each_tag_is_verified_and_the_scope_comes_first(cli, policy):
    result = cli("policy", "verify", policy)
    assert result.code == 0
    assert "holds     phi     never leaves the device" in result.out
    assert "holds     public  reaches edge and cloud as it is" in result.out
    assert result.out.index("not searched:") < result.out.index("holds")
    assert "all 4 sets of the 2 declared tags" in result.out
    assert "note: a request without a tag" in result.out
    assert result.err == ""


def test_a_claim_that_is_violated_is_code_7_with_the_steps_of_the_violation(cli, policy):
    result = cli("policy", "verify", policy, "--claim", "phi=edge", "--claim", "none=edge")
    assert result.code == 7
    assert "holds     claim: phi reaches only edge" in result.out
    assert "VIOLATED  claim: no tag reaches only edge" in result.out
    assert "1. the app declares no tag" in result.out
    assert "cloud is called with the request as it is" in result.out


def test_the_violated_claim_of_the_documentation_is_the_real_one(cli):
    page = (Path(__file__).resolve().parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
    command, *shown = page.split("```text\n$ hybrid-llm ")[1].split("```")[0].splitlines()
    assert "\n".join(shown) in cli(*command.split()).out


def test_json_has_statements_claims_and_scope(cli, policy):
    shown = json.loads(cli("policy", "verify", policy, "--claim", "public=edge", "--json").out)
    assert (shown["holds"], [tag["violation"] for tag in shown["tags"]]) == (False, [None] * 3)
    assert shown["tags"][0] == {
        "tag": "phi",
        "as_it_is": ["edge"],
        "with_pseudonyms": [],
        "answers_cached": ["edge"],
        "violation": None,
    }
    assert shown["claims"][0]["violation"]["steps"][0] == "the app declares public"
    assert shown["scope"]["decisions"] > 100
    assert shown["scope"]["not_searched"]


def test_the_default_tags_of_the_configuration_are_part_of_the_search(cli, policy, configure):
    config = configure(1, edge=True)
    config.write_text(config.read_text() + "defaults: {privacy: [phi]}\n")
    assert "note: the configuration tags every request phi" in cli("policy", "verify", policy, "--config", config).out


@pytest.mark.parametrize("claim", ["phy=edge", "phi=moon", "phi"])
def test_a_wrong_claim_is_code_2(cli, policy, claim):
    assert cli("policy", "verify", policy, "--claim", claim).code == 2

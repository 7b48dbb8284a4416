"""`hybrid-llm policy prove`: the proof of each tag, claims of one's own, and what breaks them in steps."""

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


def test_each_tag_has_its_proof_and_the_bound_is_told(cli, policy):
    result = cli("policy", "prove", policy)
    assert result.code == 0
    assert "proved  phi     never leaves the device" in result.out
    assert "proved  public  reaches edge and cloud as it is" in result.out
    assert "all 4 sets of the 2 declared tags" in result.out
    assert "note: a request without a tag" in result.out
    assert "not searched:" in result.out
    assert result.err == ""


def test_a_claim_that_does_not_hold_is_code_7_with_the_steps_that_break_it(cli, policy):
    result = cli("policy", "prove", policy, "--claim", "phi=edge", "--claim", "none=edge")
    assert result.code == 7
    assert "proved  claim: phi reaches only edge" in result.out
    assert "BROKEN  claim: no tag reaches only edge" in result.out
    assert "1. the app declares no tag" in result.out
    assert "cloud is called with the request as it is" in result.out


def test_the_broken_claim_of_the_documentation_is_the_real_one(cli):
    page = (Path(__file__).resolve().parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
    command, *shown = page.split("```text\n$ hybrid-llm ")[1].split("```")[0].splitlines()
    assert "\n".join(shown) in cli(*command.split()).out


def test_json_has_statements_claims_and_bound(cli, policy):
    shown = json.loads(cli("policy", "prove", policy, "--claim", "public=edge", "--json").out)
    assert (shown["proved"], [tag["proved"] for tag in shown["tags"]]) == (False, [True] * 3)
    assert shown["tags"][0] | {"broken": None} == {
        "tag": "phi",
        "proved": True,
        "as_it_is": ["edge"],
        "with_pseudonyms": [],
        "answers_kept": ["edge"],
        "broken": None,
    }
    assert shown["claims"][0]["broken"]["steps"][0] == "the app declares public"
    assert shown["scope"]["decisions"] > 100
    assert shown["scope"]["not_searched"]


def test_the_tags_that_the_configuration_gives_are_part_of_it(cli, policy, configure):
    config = configure(1, edge=True)
    config.write_text(config.read_text() + "defaults: {privacy: [phi]}\n")
    assert "note: the configuration tags every request phi" in cli("policy", "prove", policy, "--config", config).out


@pytest.mark.parametrize("claim", ["phy=edge", "phi=moon", "phi"])
def test_a_wrong_claim_is_code_2(cli, policy, claim):
    assert cli("policy", "prove", policy, "--claim", claim).code == 2

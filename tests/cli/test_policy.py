"""`hybrid-llm policy`: all errors of all files at once, a summary where there is none, and the built-in policies."""

import json

import pytest

WRONG = """\
version: 1
nam: wrong
rules:
  - prefer: [edge, claud]
    when: device.batery < 0.2
"""


@pytest.fixture
def wrong(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG, encoding="utf-8")
    return path


def test_every_built_in_policy_is_listed_right_and_can_be_shown(cli, tmp_path):
    names = json.loads(cli("policy", "list", "--json").out)
    assert names == cli("policy", "list").out.split()
    assert cli("policy", "check", *names).code == 0
    copy = tmp_path / "copy.yaml"
    copy.write_text(cli("policy", "show", "balanced").out, encoding="utf-8")
    assert "policy balanced" in cli("policy", "check", copy).out


def test_three_errors_are_told_at_once_with_their_places(cli, wrong):
    result = cli("policy", "check", wrong)
    assert result.code == 3
    for place in (":2:1:", ":4:20:", ":5:18:"):
        assert f"{wrong}{place}" in result.err
    assert "did you mean `battery`?" in result.err


def test_a_wrong_file_does_not_hide_the_others(cli, wrong):
    result = cli("policy", "check", wrong, "balanced")
    assert result.code == 3
    assert "balanced: right" in result.out


def test_json_has_every_error_with_line_column_and_hint(cli, wrong):
    checked = json.loads(cli("policy", "check", wrong, "balanced", "--json").out)
    assert [item["right"] for item in checked] == [False, True]
    assert {error["line"] for error in checked[0]["errors"]} >= {2, 4, 5}
    assert all(error["column"] and error["message"] for error in checked[0]["errors"])
    assert checked[1]["tags"]["phi"]["allow"] == ["edge"]


def test_a_policy_is_checked_against_the_backends_that_there_are(cli, tmp_path, configure):
    path = tmp_path / "fleet.yaml"
    path.write_text("version: 1\nname: fleet\nrules:\n  - prefer: [eu, phone]\n", encoding="utf-8")
    assert cli("policy", "check", path).code == 3
    assert cli("policy", "check", path, "--backend", "phone=edge", "--backend", "eu=cloud").code == 0
    assert cli("policy", "check", path, "--config", configure(1, edge=True)).code == 3


def test_a_name_that_is_none_is_code_3_and_says_what_is_near(cli):
    result = cli("policy", "show", "balancd")
    assert result.code == 3
    assert "did you mean `balanced`?" in result.err
    assert cli("policy", "check", "absent.yaml").code == 3


def test_every_rule_is_counted_also_those_behind_one_that_would_match_now(cli, tmp_path):
    path = tmp_path / "four.yaml"
    rules = "  - prefer: [edge, cloud]\n    when: request.max_tokens > 0\n" * 3 + "  - rank: {latency: 1.0}\n"
    path.write_text(f"version: 1\nname: four\nrules:\n{rules}", encoding="utf-8")
    assert "rules       4" in cli("policy", "check", path).out
    assert json.loads(cli("policy", "check", path, "--json").out)[0]["rules"] == 4

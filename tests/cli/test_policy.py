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


def test_every_built_in_policy_is_listed_valid_and_can_be_shown(cli, tmp_path):
    names = json.loads(cli("policy", "list", "--json").out)
    assert names == cli("policy", "list").out.split()
    assert cli("policy", "check", *names).code == 0
    copy = tmp_path / "copy.yaml"
    copy.write_text(cli("policy", "show", "balanced").out, encoding="utf-8")
    assert "policy balanced" in cli("policy", "check", copy).out


def test_three_errors_are_reported_at_once_with_their_positions(cli, wrong):
    result = cli("policy", "check", wrong)
    assert result.code == 3
    for place in (":2:1:", ":4:20:", ":5:18:"):
        assert f"{wrong}{place}" in result.err
    assert "did you mean `battery`?" in result.err


def test_a_wrong_file_does_not_hide_the_others(cli, wrong):
    result = cli("policy", "check", wrong, "balanced")
    assert result.code == 3
    assert "balanced: valid" in result.out


def test_json_has_every_error_with_line_column_and_hint(cli, wrong):
    checked = json.loads(cli("policy", "check", wrong, "balanced", "--json").out)
    assert [item["valid"] for item in checked] == [False, True]
    assert {error["line"] for error in checked[0]["errors"]} >= {2, 4, 5}
    assert all(error["column"] and error["message"] for error in checked[0]["errors"])
    assert checked[1]["tags"]["phi"]["allow"] == ["edge"]


def test_a_policy_is_checked_against_the_given_backends(cli, tmp_path, configure):
    path = tmp_path / "fleet.yaml"
    path.write_text("version: 1\nname: fleet\nrules:\n  - prefer: [eu, phone]\n", encoding="utf-8")
    assert cli("policy", "check", path).code == 3
    assert cli("policy", "check", path, "--backend", "phone=edge", "--backend", "eu=cloud").code == 0
    assert cli("policy", "check", path, "--config", configure(1, edge=True)).code == 3


def test_an_unknown_name_is_code_3_and_suggests_the_nearest(cli):
    result = cli("policy", "show", "balancd")
    assert result.code == 3
    assert "did you mean `balanced`?" in result.err
    assert cli("policy", "check", "absent.yaml").code == 3


def test_every_rule_is_counted_also_those_after_one_that_matches(cli, tmp_path):
    path = tmp_path / "four.yaml"
    rules = "".join(f"  - prefer: [edge, cloud]\n    when: request.max_tokens > {least}\n" for least in (30, 20, 0))
    rules += "  - rank: {latency: 1.0}\n"
    path.write_text(f"version: 1\nname: four\nrules:\n{rules}", encoding="utf-8")
    assert "rules       4" in cli("policy", "check", path).out
    assert json.loads(cli("policy", "check", path, "--json").out)[0]["rules"] == 4


ODD = """\
version: 1
name: odd
tags: {ghost: {allow: [edge]}}
rules:
  - exclude: edge
    when: device.memory_available_mb >= 0.0
"""


def test_warnings_are_shown_and_fail_only_with_strict(cli, tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text(ODD, encoding="utf-8")
    result = cli("policy", "check", path)
    assert result.code == 0
    assert "odd.yaml: valid. policy odd" in result.out
    assert f"{path}:3:8: warning: no detector sets the tag `ghost`" in result.err
    assert f"{path}:6:11: warning: this condition always holds, unless a signal cannot be read" in result.err
    assert result.err.count("warning:") == 2
    assert cli("policy", "check", path, "--strict").code == 3
    assert cli("policy", "check", "balanced", "--strict").code == 0


def test_json_has_the_warnings_too(cli, tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text(ODD, encoding="utf-8")
    result = cli("policy", "check", path, "--json", "--strict")
    checked = json.loads(result.out)[0]
    assert (result.code, result.err) == (3, "")
    assert (checked["valid"], checked["errors"]) == (True, [])
    assert [(one["line"], one["column"]) for one in checked["warnings"]] == [(3, 8), (6, 11)]
    assert checked["warnings"][0]["hint"].startswith("name its detectors")

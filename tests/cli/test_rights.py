"""`hybrid-llm rights`: files are checked with positions, and decisions are explained entry by entry."""

from __future__ import annotations

import json

import pytest

from hybrid_llm.core.rights.counters import DatabaseCounters
from hybrid_llm.core.rights.grants import Limits
from hybrid_llm.core.rights.quotas import Quotas

FILE = """version: 1
rights:
  - {name: nurses, who: "jwt:*", claims: {role: nurse}, models: small-*, tokens_per_minute: 1000}
  - {name: app, who: spiffe://hybrid-llm/client/app, models: "*", tasks: [chat], tenants: [acme], account: tenant}
tokens: {keys: "https://id.example/jwks", algorithm: ES256, issuer: "https://id.example", audience: hybrid-llm}
"""
APP = ("--identity", "spiffe://hybrid-llm/client/app")
NURSE = ("--identity", "jwt:ann", "--claim", "role=nurse")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rights.yaml"
    path.write_text(FILE)
    return path


def test_a_valid_file_is_summarised(cli, path):
    shown = cli("rights", "check", path)
    assert shown.code == 0
    assert "nurses, app; tokens of https://id.example (ES256)" in shown.out
    assert json.loads(cli("rights", "check", path, "--json").out)[0]["entries"] == ["nurses", "app"]


def test_a_broken_file_is_refused_with_line_column_and_hint(cli, path):
    path.write_text(FILE.replace("claims:", "clams:"))
    shown = cli("rights", "check", path)
    assert shown.code == 3
    assert f"{path}:3:34" in shown.err
    assert "did you mean `claims`?" in shown.err
    (found,) = json.loads(cli("rights", "check", path, "--json").out)
    assert (found["valid"], found["errors"][0]["line"]) == (False, 3)


def test_a_file_of_keys_that_is_missing_is_found_at_the_check(cli, path):
    path.write_text(FILE.replace('"https://id.example/jwks"', "absent.pem"))
    assert "absent.pem" in cli("rights", "check", path).err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((*NURSE, "--model", "small-1"), 0, "allowed by entry `nurses`, on the account identity:jwt:ann"),
        ((*NURSE, "--model", "large"), 1, "entry `nurses` does not allow the model"),
        (("--identity", "jwt:bob", "--model", "small-1"), 1, "no entry is about this identity"),
        ((*APP, "--model", "x", "--tenant", "acme"), 0, "on the account tenant:acme"),
        ((*APP, "--model", "x"), 1, "no entry about this identity is for this tenant"),
        ((*APP, "--model", "x", "--tenant", "acme", "--task", "spy"), 1, "does not allow the task"),
        ((*APP, "--operation", "health"), 0, "allowed by entry `app`"),
        ((*APP, "--operation", "reflection"), 1, "does not allow the operation"),
        ((*APP, "--model", "x", "--tenant", "acme", "--priority", 1), 1, "does not allow the priority"),
    ],
)
def test_a_decision_is_explained(cli, path, arguments, code, says):
    shown = cli("rights", "explain", path, *arguments)
    assert (shown.code, says in shown.out) == (code, True), shown.out
    assert json.loads(cli("rights", "explain", path, *arguments, "--json").out)["allowed"] is (code == 0)


def test_what_is_used_of_a_quota_is_shown(cli, path, tmp_path):
    quotas = Quotas(DatabaseCounters(tmp_path / "q.db"))
    limits = Limits(tokens_per_minute=1000)
    quotas.settle(quotas.reserve("identity:jwt:ann", limits, 300, expires_s=60), 250)
    quotas.reserve("identity:jwt:ann", limits, 70, expires_s=60)
    quotas.close()
    shown = cli("rights", "explain", path, *NURSE, "--model", "small-1", "--quotas", tmp_path / "q.db")
    assert "of 1,000 tokens used, 70 reserved" in shown.out
    assert cli("rights", "explain", path, *NURSE, "--model", "small-1", "--quotas", tmp_path / "absent.db").code == 3


def test_the_schema_is_json(cli):
    assert "rights" in json.loads(cli("rights", "schema").out)["properties"]


@pytest.mark.parametrize("arguments", [("--claim", "role"), ("--operation", "fly"), ()])
def test_a_wrong_command_line_is_refused(cli, path, arguments):
    assert cli("rights", "explain", path, *arguments).code == 2


def test_serve_refuses_a_broken_rights_file_and_quotas_without_one(cli, path, tmp_path):
    common = ("serve", "--model", tmp_path, "--tls", tmp_path)
    path.write_text("version: 1")
    assert "`rights` is missing" in cli(*common, "--rights", path).err
    assert "--rights" in cli(*common, "--quotas", tmp_path / "q.db").err

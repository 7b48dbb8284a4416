"""`hybrid-llm audit`: from a key to a verdict, and clear errors for what is not there."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.keys import AuditKey
from hybrid_llm.backends.audit.log import AuditLog
from tests.postgres import forget


@pytest.fixture
def log(cli, tmp_path):
    assert cli("audit", "init", tmp_path / "audit.key").code == 0
    key = AuditKey.load(tmp_path / "audit.key")
    with closing(AuditLog(tmp_path / "audit.db", "node", key)) as log:
        for number in range(4):
            at_ms = 1_795_608_000_000 + number * 86_400_000
            log.append([AuditEntry(event="end", at_ms=at_ms, call=str(number), identity=f"id-{number}", outcome="ok")])
    return tmp_path / "audit.db"


def test_a_whole_log_is_verified_with_the_public_key_and_a_head(cli, log, tmp_path):
    head = cli("audit", "head", log).out
    (tmp_path / "head.json").write_text(head)
    plain = cli("audit", "verify", log, "--key", tmp_path / "audit.key.pub")
    assert plain.code == 0
    assert "4 records, as they were written" in plain.out
    assert "only a --head from elsewhere" in plain.out
    anchored = cli(
        "audit", "verify", log, "--key", tmp_path / "audit.key.pub", "--head", tmp_path / "head.json", "--json"
    )
    (found,) = json.loads(anchored.out)
    assert (found["records"], found["findings"], found["head"]) == (4, [], json.loads(head))


def test_the_url_of_a_log_comes_from_a_file_or_a_variable(cli, log, tmp_path, postgres_server, monkeypatch):
    forget(postgres_server.url, "audit_records", "audit_logs")
    with closing(AuditLog(postgres_server.url, "node", AuditKey.load(tmp_path / "audit.key"))) as there:
        there.append([AuditEntry(event="end", at_ms=1, call="1", identity="i", outcome="ok")])
    (tmp_path / "url").write_text(postgres_server.url)
    monkeypatch.setenv("AUDIT_URL", postgres_server.url)
    for where in (f"file:{tmp_path / 'url'}", "env:AUDIT_URL"):
        assert (
            "node: 1 records, as they were written"
            in cli("audit", "verify", where, "--key", tmp_path / "audit.key.pub").out
        )
    (tmp_path / "url").write_text("mysql://u:hunter2@h/d")
    refused = cli("audit", "verify", f"file:{tmp_path / 'url'}", "--key", tmp_path / "audit.key.pub")
    assert (refused.code, "holds no postgresql://" in refused.err, "hunter2" in refused.err) == (3, True, False)
    assert cli("audit", "head", "env:").code == 2


def test_a_changed_record_is_named_and_the_status_is_1(cli, log, tmp_path):
    with sqlite3.connect(log) as db:
        db.execute("UPDATE audit_records SET entry = x'7b7d' WHERE number = 2")
    db.close()
    found = cli("audit", "verify", log, "--key", tmp_path / "audit.key.pub")
    assert found.code == 1
    assert "node: record 2: changed: its hash is another one" in found.out


def test_records_are_shown_and_narrowed_down(cli, log):
    rows = json.loads(cli("audit", "show", log, "--since", "2026-11-27", "--json").out)
    assert [row["number"] for row in rows] == [2, 3]
    assert [row["number"] for row in json.loads(cli("audit", "show", log, "--identity", "id-1", "--json").out)] == [1]
    table = cli("audit", "show", log).out
    assert "2026-11-25 12:00:00" in table
    assert "no such records" in cli("audit", "show", log, "--tenant", "acme").err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", "{log}", "--key", "none.pub"), "cannot be read"),
        (("verify", "{log}", "--key", "{log}"), "has no Ed25519 key"),
        (("verify", "none.db", "--key", "{key}"), "does not exist"),
        (("verify", "{log}", "--key", "{key}", "--name", "other"), "there is no log other; there are: node"),
        (("verify", "{log}", "--key", "{key}", "--head", "{key}"), "a line is no head"),
        (("show", "mysql://host/base"), "not mysql:"),
        (("show", "{key}"), "is not a database"),
        (("show", "{log}", "--since", "yesterday"), "is not a time"),
        (("init", "{key}"), "exists"),
    ],
)
def test_what_cannot_be_used_is_said_with_what_to_do(cli, log, tmp_path, words, message):
    values = {"log": log, "key": tmp_path / "audit.key.pub"}
    found = cli("audit", *(word.format(**values) for word in words))
    assert found.code > 0
    assert message in found.err
    assert "Traceback" not in found.err

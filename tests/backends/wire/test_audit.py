"""A node records each call before it works for it, and how it ended; where it must and cannot, it does not answer."""

from __future__ import annotations

import sqlite3

import pytest

from hybrid_llm.backends.audit.keys import AuditKey, make_audit_key
from hybrid_llm.backends.audit.log import AuditLogs
from hybrid_llm.backends.audit.spec import AuditSpec
from hybrid_llm.backends.audit.verify import entries, verify
from hybrid_llm.core.errors import AuthenticationFailed, ConfigError, HybridLLMError, PermissionDenied
from hybrid_llm.core.request import Location
from hybrid_llm.core.secret import Secret
from hybrid_llm.policies import parse_policy
from hybrid_llm.policies.rights import RightsFile
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.issuers import AUDIENCE, ISSUER, Issuer

SECRET, ANSWER = "what Zw3f wrote", "Kq8v answered"
POLICY = """\
version: 1
name: audited
tags: {phi: {allow: [edge, cloud], share_name: true}}
rules: [{prefer: cloud, because: there is nothing else}]
resilience: {retries: 0}
"""


@pytest.fixture
def spec(tmp_path):
    make_audit_key(tmp_path / "audit.key")
    return AuditSpec(file=tmp_path / "audit.db", key=tmp_path / "audit.key", name="node-1", required=True)


def client(node, pki, tools):
    policy = parse_policy(POLICY, backends={"cloud": Location.CLOUD})
    return HybridLLM([tools.backend(node.target, pki.app)], policy, sensors=FixedSensors())


def recorded(spec):
    logs = AuditLogs(spec.file)
    try:
        assert verify(logs, spec.name, [AuditKey.load(spec.key).public]).findings == ()
        return [entry for _, entry in entries(logs, spec.name)]
    finally:
        logs.close()


def test_a_call_has_a_record_before_and_after_without_any_text(pki, tools, spec):
    with tools.Node(pki.node, tools.FakeEngine(ANSWER), audit=spec) as node, client(node, pki, tools) as llm:
        llm.generate(SECRET, privacy=["phi"], tenant="acme", request_id="r-1", task="chat")
    began, ended = recorded(spec)
    assert (began.event, began.identity, began.tenant, began.request_id, began.task, began.tags, began.model) == (
        "begin", "spiffe://hybrid-llm/client/app", "acme", "r-1", "chat", ("phi",), "fake-model",
    )  # fmt: skip
    assert (ended.event, ended.call, ended.outcome, ended.finish_reason) == ("end", began.call, "ok", "stop")
    assert (ended.prompt_tokens > 0, ended.completion_tokens) == (True, len(ANSWER))
    stored = b"".join(path.read_bytes() for path in spec.file.parent.glob("audit.db*"))
    assert SECRET.encode() not in stored
    assert ANSWER.encode() not in stored


def test_a_call_that_fails_has_its_error(pki, tools, spec):
    engine = tools.FakeEngine(ANSWER, die_after=3)
    with (
        tools.Node(pki.node, engine, audit=spec) as node,
        client(node, pki, tools) as llm,
        pytest.raises(HybridLLMError),
    ):
        llm.generate(SECRET)
    assert [entry.event for entry in recorded(spec)] == ["begin", "end"]
    assert recorded(spec)[1].outcome == "BackendUnavailable"


def test_a_node_that_must_record_and_cannot_answers_nobody_until_it_can(pki, tools, spec):
    with tools.Node(pki.node, tools.FakeEngine(ANSWER), audit=spec) as node, client(node, pki, tools) as llm:
        assert llm.generate(SECRET).text == ANSWER
        database = node.server._observers.audit.writer._log._database._db
        database.execute("PRAGMA max_page_count = 1")  # SQLite's own simulation of a full disk
        with pytest.raises(HybridLLMError) as caught:  # noqa: PT012  # which one is too many is SQLite's business
            for _ in range(50):
                llm.generate(SECRET, tenant="t" * 100)
        assert "audit log cannot be written" in str(caught.value)
        database.execute("PRAGMA max_page_count = 100000")
        llm.generate(SECRET, deadline=10)
    assert recorded(spec)[-1].outcome == "ok"
    assert sum(entry.lost for entry in recorded(spec)) > 0


def test_a_node_does_not_start_over_a_log_that_was_altered(pki, tools, spec):
    with tools.Node(pki.node, audit=spec) as node, client(node, pki, tools) as llm:
        llm.generate(SECRET)
    with sqlite3.connect(spec.file) as db:
        db.execute("DELETE FROM audit_records WHERE number = 1")
    db.close()
    with pytest.raises(ConfigError, match="is not what was written"), tools.Node(pki.node, audit=spec):
        pass


def test_a_call_that_is_refused_before_it_is_read_is_recorded_with_who_made_it(pki, tools, spec, tmp_path):
    """By the certificate, by the token where that is valid, and by the certificate that carries a token that is not."""
    issuer, rights = Issuer(), tmp_path / "rights.yaml"
    (tmp_path / "issuer.pem").write_bytes(issuer.pem)
    tokens = f"tokens: {{keys: issuer.pem, algorithm: ES256, issuer: {ISSUER}, audience: {AUDIENCE}, tenant: org}}\n"
    rights.write_text(f"version: 1\n{tokens}rights: [{{name: other, who: nobody, models: '*'}}]\n")
    sent = [None, issuer.token("ann", org="acme"), "Zq9k.not.valid"]
    with tools.Node(pki.node, audit=spec, rights=RightsFile(rights)) as node:
        for token in sent:
            (tmp_path / "token").write_text(token or "")
            backend = tools.backend(node.target, pki.app, token=Secret(file=tmp_path / "token") if token else None)
            with pytest.raises((PermissionDenied, AuthenticationFailed)):
                tools.answer(backend.stream(tools.cleared(SECRET)))
            backend.close()
    assert [(entry.event, entry.identity, entry.tenant, entry.outcome) for entry in recorded(spec)] == [
        ("refused", "spiffe://hybrid-llm/client/app", "", "PermissionDenied"),
        ("refused", "jwt:ann", "acme", "PermissionDenied"),
        ("refused", "spiffe://hybrid-llm/client/app", "", "AuthenticationFailed"),
    ]
    assert {entry.address for entry in recorded(spec)} == {"127.0.0.1"}
    stored = b"".join(path.read_bytes() for path in spec.file.parent.glob("audit.db*"))
    assert b"Zq9k" not in stored

"""What a gateway refuses is in its audit log: who, when and why, never what was asked; a flood takes little."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.keys import AuditKey, make_audit_key
from hybrid_llm.backends.audit.log import AuditLogs
from hybrid_llm.backends.audit.spec import AuditSpec
from hybrid_llm.backends.audit.verify import entries, verify
from hybrid_llm.backends.wire.sealing.keys import write_key
from hybrid_llm.backends.wire.sealing.suites import X25519
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.observability.audit import AuditHook
from hybrid_llm.router.observability.prometheus import PrometheusMetrics
from tests.gateway.conftest import POLICY, fakes, served

CHAT, KEY, SECRET = "/v1/chat/completions", "hl-secret", "Zq9kPATIENT"
ASK = {"model": "auto", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 8}
RIGHTS = """
version: 1
rights:
  - {name: edge, who: "key:acme", models: edge, tokens_per_day: 1, use: [generate]}
"""

Refuse = Callable[..., list[AuditEntry]]


@pytest.fixture
def refused(tmp_path: Path) -> Refuse:
    """Does *ask* with a client of a gateway that records; returns what is in the log."""
    make_audit_key(tmp_path / "audit.key")
    spec = AuditSpec(file=tmp_path / "audit.db", key=tmp_path / "audit.key")
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps([{"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "tenant": "acme"}]))

    def run(ask: Callable[[httpx.Client], object], **options: object) -> list[AuditEntry]:
        metrics = PrometheusMetrics.alone()
        hook = AuditHook(spec.open())
        llm = HybridLLM(list(fakes("hello")), parse_policy(POLICY), hooks=[hook, metrics])
        with llm, served(llm, keys=keys, **options) as url, httpx.Client(base_url=url, timeout=20) as client:
            ask(client)
            counts = metrics.scrape()[0].decode()
        hook.close()
        stored = b"".join(path.read_bytes() for path in tmp_path.glob("audit.db*"))
        assert SECRET.encode() not in stored
        assert KEY.encode() not in stored
        with closing(AuditLogs(spec.file)) as logs:
            assert verify(logs, "app", [AuditKey.load(spec.key).public]).findings == ()
            found = [entry for _, entry in entries(logs, "app")]
        for code in {entry.outcome for entry in found if entry.event == "refused"}:
            assert f'hybrid_llm_refused_total{{code="{code}"}}' in counts
        return found

    return run


def authorised(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("request_", "status", "identity", "code"),
    [
        ({"headers": authorised(SECRET)}, 401, "", "invalid_api_key"),
        ({"headers": authorised(KEY), "json": ASK | {"text": SECRET}}, 400, "key:acme", "unknown_parameter"),
        ({"headers": authorised(KEY), "content": SECRET.encode()}, 415, "key:acme", "unsupported_media_type"),
        ({"headers": authorised(KEY) | {"x-hybrid-tenant": "other"}}, 403, "key:acme", "other_tenant"),
        ({"headers": authorised(KEY) | {"x-hybrid-privacy": "nonsense"}}, 400, "key:acme", "invalid_value"),
        ({"headers": authorised(KEY), "url": f"/v1/{SECRET}"}, 404, "", "unknown_url"),
        ({"headers": {}, "url": "/console/data/overview", "method": "GET", "json": None}, 401, "", "invalid_api_key"),
        ({"headers": {}, "url": "/v1/models", "method": "GET", "json": None}, 401, "", "invalid_api_key"),
    ],
)
def test_a_request_that_the_client_never_had_is_recorded(refused, request_, status, identity, code):
    body = {} if "content" in request_ else {"json": ASK}
    call = {"method": "POST", "url": CHAT} | body | request_

    def ask(client):
        assert client.request(**call).status_code == status

    (one,) = refused(ask)
    assert (one.event, one.identity, one.outcome, one.address) == ("refused", identity, code, "127.0.0.1")
    assert one.tenant == identity.removeprefix("key:")
    assert one.count == 0


def test_rights_and_quotas_that_refuse_are_recorded_with_who_asked(refused, tmp_path):
    (tmp_path / "rights.yaml").write_text(RIGHTS)

    def ask(client):
        headers = authorised(KEY)
        assert client.post(CHAT, json=ASK, headers=headers).status_code == 429
        assert client.post(CHAT, json=ASK | {"model": "cloud"}, headers=headers).status_code == 403
        assert client.get("/v1/models", headers=headers).status_code == 403

    found = refused(ask, rights=tmp_path / "rights.yaml")
    codes = ["insufficient_quota", "permission_denied", "permission_denied"]
    assert [(entry.identity, entry.outcome) for entry in found] == [("key:acme", code) for code in codes]


def test_what_is_not_sealed_where_it_must_be_is_recorded(refused, tmp_path):
    write_key(tmp_path / "sealing", "gateway", suite=X25519, days=2)

    def ask(client):
        assert client.post(CHAT, json=ASK, headers=authorised(KEY)).status_code == 400
        headers = authorised(KEY) | {"ehbp-encapsulated-key": "00" * 32}
        assert client.post(CHAT, content=b"x" * 40, headers=headers).status_code >= 400

    found = refused(ask, sealed=tmp_path / "sealing", only_sealed=True)
    assert [entry.event for entry in found] == ["refused"] * 2


def test_a_request_that_the_client_had_has_its_own_records_alone(refused):
    def ask(client):
        headers = authorised(KEY)
        assert client.post(CHAT, json=ASK, headers=headers).status_code == 200
        assert client.post(CHAT, json=ASK, headers=headers | {"x-hybrid-deadline": "0.001"}).status_code in (200, 504)

    assert "refused" not in {entry.event for entry in refused(ask)}


def test_a_flood_of_refusals_takes_a_few_records_which_count_it(refused):
    def ask(client):
        for _ in range(60):
            client.post(CHAT, json=ASK, headers=authorised("wrong"))

    found = refused(ask)
    assert len(found) == 6
    assert sum(entry.count or 1 for entry in found) == 60


def test_what_a_gateway_must_not_lose_sight_of_is_in_its_metrics(tmp_path):
    """Quotas whose database is gone, an audit log that cannot be written, and a sealing key that expires."""
    write_key(tmp_path / "sealing", "gateway", suite=X25519, days=2)
    make_audit_key(tmp_path / "audit.key")
    (tmp_path / "rights.yaml").write_text(RIGHTS.replace('"key:acme"', "local").replace("day: 1", "day: 5000"))
    hook = AuditHook(AuditSpec(file=tmp_path / "audit.db", key=tmp_path / "audit.key").open())
    metrics = PrometheusMetrics.alone()
    llm = HybridLLM(list(fakes("hello")), parse_policy(POLICY), hooks=[hook, metrics])
    files = {"rights": tmp_path / "rights.yaml", "quotas": tmp_path / "quotas.db", "sealed": tmp_path / "sealing"}
    with llm, served(llm, metrics=metrics, **files) as url:
        assert httpx.post(url + CHAT, json=ASK, timeout=20).status_code == 200
        for name, table in (("quotas.db", "counters"), ("audit.db", "audit_records")):
            with closing(sqlite3.connect(tmp_path / name)) as db:
                db.execute(f"DROP TABLE {table}")
        assert httpx.post(url + CHAT, json=ASK, timeout=20).status_code == 503
        hook.close()
        found = metrics.scrape()[0].decode()
    assert "hybrid_llm_quota_failures 1.0" in found
    assert re.search(r"hybrid_llm_audit_lost [1-9]", found)
    (until,) = re.findall(r'hybrid_llm_expiry_timestamp_seconds{backend="",what="sealing_key"} (\S+)', found)
    assert 1.9 < (float(until) - time.time()) / 86_400 < 2.1

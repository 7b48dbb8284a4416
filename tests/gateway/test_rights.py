"""The rights of the clients of a gateway: every route is covered, refusals are typed, quotas are kept."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.audit.keys import make_audit_key
from hybrid_llm.backends.audit.log import AuditLogs
from hybrid_llm.backends.audit.spec import AuditSpec
from hybrid_llm.backends.audit.verify import entries
from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.rights.grants import Operation
from hybrid_llm.gateway import GatewayConfig, gateway_app
from hybrid_llm.gateway.guarded import Guarded
from hybrid_llm.gateway.managed import managed_by
from hybrid_llm.gateway.openapi import OPERATIONS
from hybrid_llm.gateway.rights import OF_ENDPOINTS
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.config import parse_config
from hybrid_llm.router.observability.audit import AuditHook
from hybrid_llm.router.observability.prometheus import PrometheusMetrics
from tests.gateway.conftest import POLICY, Serve, fakes, served
from tests.issuers import AUDIENCE, ISSUER, Issuer

BODIES = {
    "/v1/chat/completions": {"model": "auto", "messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"model": "auto", "prompt": "hello"},
    "/v1/responses": {"model": "auto", "input": "hello"},
    "/v1/messages": {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8},
}
CHAT = "/v1/chat/completions"
KEY = "hl-secret"


@pytest.fixture
def rights(tmp_path: Path) -> Path:
    path = tmp_path / "rights.yaml"
    path.write_text("version: 1\nrights: []\n")
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps([{"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "tenant": "acme"}]))
    return path


def write(path: Path, *lines: str, tokens: str = "") -> Path:
    path.write_text("version: 1\n" + tokens + "rights: [" + ", ".join(f"{{{line}}}" for line in lines) + "]\n")
    return path


def ask(url: str, path: str = CHAT, *, key: str = "", **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{url}{path}", json=BODIES[path] | fields, headers=headers, timeout=20)


def every_route(rights: Path | None):
    """The routes of an application with everything that one can have."""
    client = HybridLLM(list(fakes()), parse_policy(POLICY))
    return gateway_app(client, GatewayConfig(rights=rights), metrics=PrometheusMetrics.alone()).routes


def test_every_route_is_behind_the_rights_and_says_what_it_is(rights):
    """Walks the routes of the application; a new one fails here until its operation is known."""
    routes = every_route(rights)
    assert len(routes) > 15
    for route in routes:
        assert isinstance(route.app, Guarded), route.path
        assert isinstance(route.app.operation, Operation), route.path
    assert OF_ENDPOINTS.keys() == OPERATIONS.keys(), "those of a platform among them"


def test_without_a_rights_file_no_route_is_wrapped():
    assert not any(isinstance(route.app, Guarded) for route in every_route(None))


@pytest.mark.parametrize("platform", [None, "sagemaker", "vertex"])
def test_every_route_is_refused_where_no_entry_allows_it(rights, platform):
    client = HybridLLM(list(fakes()), parse_policy(POLICY))
    managed = managed_by(platform, {}) if platform else None
    with served(client, rights=rights, managed=managed) as url:
        for route in every_route(rights):
            path = route.path.replace("{id:path}", "x").replace("{id}", "x").replace("{name}", "x.js")
            for method in route.methods:
                if path == "/metrics":
                    continue
                answer = httpx.request(method, f"{url}{path}", json={}, timeout=20)
                assert answer.status_code in (401, 403), f"{method} {path}"
        for path in () if managed is None else (managed.health, managed.predict):
            assert (
                httpx.request("POST" if path == managed.predict else "GET", f"{url}{path}", json={}).status_code == 403
            )


def test_a_local_program_may_do_what_its_entry_says(serve: Serve, rights):
    write(rights, "name: local, who: local, models: '*', use: [generate]")
    url = serve(*fakes("hello"), rights=rights)
    for path in BODIES:
        assert ask(url, path).status_code == 200, path
    for path in ("/v1/models", "/health", "/openapi.json"):
        refused = httpx.get(f"{url}{path}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied"), path


def test_health_can_be_open_to_load_balancers_alone(serve: Serve, rights, keys):
    write(rights, "name: probes, who: anonymous, use: [health]", "name: keys, who: 'key:*', models: '*'")
    url = serve(*fakes("hello"), rights=rights, keys=keys)
    assert httpx.get(f"{url}/health").status_code == 200
    assert ask(url).status_code == 401
    assert ask(url, key="wrong").status_code == 401
    assert ask(url, key=KEY).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_audit_log_and_the_log_name_the_callers_of_a_gateway_and_whom_it_refused(
    rights, keys, tmp_path, caplog, stream
):
    write(rights, "name: keys, who: 'key:*', models: '*'")
    make_audit_key(tmp_path / "audit.key")
    spec = AuditSpec(file=tmp_path / "audit.db", key=tmp_path / "audit.key", required=True)
    hook = AuditHook(spec.open())
    client = HybridLLM(list(fakes("hello")), parse_policy(POLICY), hooks=[hook])
    with client, served(client, rights=rights, keys=keys) as url:
        assert ask(url, key=KEY, stream=stream).status_code == 200
        assert ask(url, key="Zw3f").status_code == 401
    hook.close()
    with closing(AuditLogs(spec.file)) as logs:
        found = [(entry.event, entry.identity, entry.outcome) for _, entry in entries(logs, "app")]
    assert found == [("begin", "key:acme", ""), ("end", "key:acme", "ok"), ("refused", "", "invalid_api_key")]
    assert "refused a request of 127.0.0.1: 401 invalid_api_key" in caplog.text
    assert "Zw3f" not in caplog.text


def test_only_backends_and_models_of_the_entry_answer(serve: Serve, rights):
    write(rights, "name: local, who: local, models: cloud, use: [generate]")
    edge, cloud = fakes("hello")
    url = serve(edge, cloud, rights=rights)
    assert ask(url).headers["x-hybrid-backend"] == "cloud"
    assert ask(url, model="edge").status_code == 403
    assert ask(url, model="cloud").status_code == 200
    private = ask(url, hybrid={"privacy": ["phi"]})
    assert private.status_code == 503, "what may not leave the device has no backend, and leaves it all the same not"


def test_tasks_and_tenants(serve: Serve, rights, keys):
    write(rights, "name: a, who: 'key:acme', models: '*', tasks: [chat], tenants: [acme]")
    url = serve(*fakes("hello"), rights=rights, keys=keys)
    assert ask(url, key=KEY).status_code == 200
    refused = ask(url, "/v1/messages", key=KEY, hybrid={"task": "hard"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert ask(url, key=KEY, hybrid={"tenant": "rival"}).status_code == 403


@pytest.mark.parametrize("stream", [False, True])
def test_a_quota_is_charged_by_what_was_used(serve: Serve, rights, tmp_path, stream):
    write(rights, "name: local, who: local, models: '*', tokens_per_minute: 200")
    url = serve(*fakes(*["one", " two"] * 50), rights=rights, quotas=tmp_path / "q.db")
    codes = []
    for _ in range(60):
        answer = ask(url, max_tokens=40, stream=stream)
        codes.append(answer.status_code)
        if answer.status_code != 200:
            break
    assert 4 < len(codes) < 60, "more than reserved tokens alone would allow, and not for ever"
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "insufficient_quota"
    assert 0 < int(answer.headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    ("named", "read"),
    [("quotas.db", Path("/etc/hybrid-llm/quotas.db")), ("postgresql://u@h/quotas", "postgresql://u@h/quotas")],
)
def test_quotas_are_in_a_file_beside_the_configuration_or_in_a_database(named, read):
    backends = "version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n"
    text = f"{backends}gateway: {{rights: r.yaml, quotas: '{named}'}}\n"
    config = parse_config(text, Path("/etc/hybrid-llm/hybrid.yaml"))
    assert config.gateway is not None
    assert config.gateway.quotas == read


def test_a_changed_file_takes_effect_and_a_broken_one_does_not(serve: Serve, rights):
    write(rights, "name: local, who: local, models: '*'")
    url = serve(*fakes("hello"), rights=rights)
    assert ask(url).status_code == 200
    rights.write_text("version: 1\nrights: [{nam: x}]\n")
    time.sleep(0.8)
    assert ask(url).status_code == 200
    write(rights)
    end = time.monotonic() + 10
    while ask(url).status_code != 403:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_token_takes_the_place_of_a_key(serve: Serve, rights, tmp_path):
    issuer = Issuer()
    (tmp_path / "keys.pem").write_bytes(issuer.pem)
    tokens = f"tokens: {{keys: keys.pem, algorithm: ES256, issuer: {ISSUER}, audience: {AUDIENCE}, tenant: org}}\n"
    write(rights, "name: users, who: 'jwt:*', claims: {role: nurse}, tenants: [acme], models: '*'", tokens=tokens)
    url = serve(*fakes("hello"), rights=rights, listen="127.0.0.1:0")
    assert ask(url, key=issuer.token(role="nurse", org="acme")).status_code == 200
    assert ask(url, key=issuer.token(role="nurse", org="rival")).status_code == 403
    assert ask(url, key=issuer.token(role="clerk", org="acme")).status_code == 403
    expired = ask(url, key=issuer.token(role="nurse", org="acme", exp=time.time() - 60))
    assert (expired.status_code, expired.json()["error"]["code"]) == (401, "invalid_token")
    assert ask(url).status_code == 403, "a local program has no entry"


def test_who_names_a_tenant_reads_and_deletes_only_for_those_of_its_entry(serve: Serve, rights):
    own = "tenants: [acme, globex], use: [generate, stored, count]"
    write(rights, f"name: front, who: local, models: '*', {own}")
    url = serve(*fakes("hello"), rights=rights)
    found = ask(url, "/v1/responses", hybrid={"tenant": "acme"})
    path = f"/v1/responses/{found.json()['id']}"

    def answers(tenant: str) -> list[int]:
        headers, body = {"x-hybrid-tenant": tenant}, {"model": "auto", "input": "x"}
        counted = httpx.post(f"{url}/v1/responses/input_tokens", json=body, headers=headers, timeout=20)
        sent = (httpx.request(method, url + path, headers=headers, timeout=20) for method in ("GET", "DELETE"))
        return [counted.status_code, *(each.status_code for each in sent)]

    assert answers("rival") == [403, 403, 403]
    assert answers("globex") == [200, 404, 404]
    assert answers("acme") == [200, 200, 200]


def test_files_that_cannot_be_used_are_refused_at_the_start(rights, tmp_path):
    client = HybridLLM(list(fakes()), parse_policy(POLICY))
    rights.write_text("version: 1\nrights: [{name: a, who: b}]\n")
    with pytest.raises(PolicyError, match="`models` is missing"):
        gateway_app(client, GatewayConfig(rights=rights))
    with pytest.raises(ConfigError, match="rights"):
        GatewayConfig(quotas=tmp_path / "q.db")
    with pytest.raises(ConfigError, match="keys"):
        gateway_app(client, GatewayConfig(listen="0.0.0.0:8080"))
    client.close()

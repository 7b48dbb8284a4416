"""Managed endpoints: the contracts of SageMaker, Vertex AI and Azure ML, over HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm import HybridLLM
from hybrid_llm.cli.main import main
from hybrid_llm.core.errors import BackendOverloaded, ConfigError
from hybrid_llm.gateway import GatewayConfig
from hybrid_llm.gateway.managed import PLATFORMS, managed_by
from hybrid_llm.gateway.server import GatewayServer
from hybrid_llm.policies import parse_policy
from tests.fakes import FakeBackend
from tests.gateway.conftest import POLICY, ask, fakes, served
from tests.gateway.test_http import ALONE, Slow, send

SAID = {"messages": ask("hello")}
ROUTES = {"AIP_HTTP_PORT": "9090", "AIP_HEALTH_ROUTE": "/v1/ready", "AIP_PREDICT_ROUTE": "/v1/endpoints/7:predict"}


@contextmanager
def endpoint(platform: str, *backends: FakeBackend, policy: str = POLICY, **environ: str) -> Iterator[str]:
    """The URL of a container of *platform*, which its other machines could reach."""
    found = backends or fakes()
    client = HybridLLM(list(found), parse_policy(policy, backends={each.name: each.location for each in found}))
    with served(client, listen="0.0.0.0:0", managed=managed_by(platform, environ)) as url:
        yield url


@pytest.mark.parametrize("platform", PLATFORMS)
class TestEveryPlatform:
    def test_health_and_requests_have_the_routes_that_it_expects(self, platform: str) -> None:
        managed = PLATFORMS[platform]
        with endpoint(platform) as url:
            assert send(url, managed.health, method="GET").document == {"status": "ok"}
            reply = send(url, managed.predict, SAID)
            assert reply.status == 200
            assert reply.document["choices"][0]["message"]["role"] == "assistant"

    def test_a_stream_is_server_sent_events(self, platform: str) -> None:
        with endpoint(platform) as url:
            reply = send(url, PLATFORMS[platform].predict, SAID | {"stream": True, "hybrid": {"details": True}})
            assert reply.headers["content-type"].startswith("text/event-stream")
            assert reply.events[-1] == "[DONE]"

    def test_the_platform_calls_it_by_any_name_and_a_page_of_a_browser_does_not(self, platform: str) -> None:
        with endpoint(platform) as url:
            path = PLATFORMS[platform].predict
            assert send(url, path, SAID, host="model.internal:8080").status == 200
            for origin in ("https://evil.example", url):
                assert send(url, path, SAID, origin=origin).status == 403

    def test_tags_ride_in_the_body_and_keep_a_request_on_the_edge(self, platform: str) -> None:
        edge, cloud = fakes()
        with endpoint(platform, edge, cloud) as url:
            private = {"hybrid": {"privacy": ["phi"], "task": "hard"}}
            assert send(url, PLATFORMS[platform].predict, SAID | private).headers["x-hybrid-backend"] == "edge"
        assert cloud.requests == []

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({}, "missing_required_parameter"),
            ({"prompt": 1}, "invalid_type"),
            ({"messages": []}, "invalid_value"),
            (SAID | {"unheard": 1}, "unknown_parameter"),
            (b"[]", "invalid_json"),
            (b"{", "invalid_json"),
        ],
    )
    def test_what_is_no_request_is_refused_by_name(self, platform: str, body: Any, code: str) -> None:
        with endpoint(platform) as url:
            reply = send(url, PLATFORMS[platform].predict, body)
            assert (reply.status, reply.document["error"]["code"]) == (400, code)
            assert send(url, PLATFORMS[platform].predict, SAID, content_type="text/csv").status == 415
            assert send(url, PLATFORMS[platform].predict, method="GET").status == 405

    def test_no_console_is_served_by_the_command(self, platform: str, capfd: Any, tmp_path: Path) -> None:
        (tmp_path / "keys.json").write_text("[]")
        assert main(["gateway", "--managed", platform, "--keys", str(tmp_path / "keys.json")]) == 3
        assert "authenticates its callers" in capfd.readouterr().err


class TestPrompts:
    def test_a_prompt_is_one_message_of_the_user(self) -> None:
        edge, cloud = fakes()
        with endpoint("sagemaker", edge, cloud) as url:
            assert send(url, "/invocations", {"prompt": "hello there"}).status == 200
        assert [(one.role, one.content) for one in edge.requests[0].messages] == [("user", "hello there")]

    def test_models_are_named_as_ever(self) -> None:
        with endpoint("sagemaker") as url:
            assert send(url, "/invocations", SAID | {"model": "cloud"}).headers["x-hybrid-backend"] == "cloud"

    def test_health_says_when_it_drains_and_requests_are_still_answered(self) -> None:
        edge, _ = fakes()
        config = GatewayConfig(listen="127.0.0.1:0", drain_s=2.0)
        client = HybridLLM([edge], parse_policy(ALONE, backends={"edge": edge.location}))
        server = GatewayServer(client, config, managed=managed_by("sagemaker", {}))
        ready = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(ready.set)))
        thread.start()
        assert ready.wait(20)
        url = f"http://127.0.0.1:{server.port}"
        assert send(url, "/ping", method="GET").status == 200
        server.stop()
        while (status := send(url, "/ping", method="GET").status) == 200:
            time.sleep(0.02)
        assert status == 503
        assert send(url, "/invocations", SAID).status == 200
        thread.join(20)


class TestVertex:
    def test_the_variables_set_port_and_routes(self) -> None:
        managed = managed_by("vertex", ROUTES)
        assert (managed.port, managed.health, managed.predict) == (9090, "/v1/ready", "/v1/endpoints/7:predict")
        with endpoint("vertex", **ROUTES) as url:
            assert send(url, "/v1/ready", method="GET").status == 200
            assert send(url, "/v1/endpoints/7:predict", {"instances": [SAID]}).status == 200
            assert send(url, "/predict", SAID).status == 404

    def test_a_route_of_ours_may_be_that_of_requests(self) -> None:
        path = "/v1/chat/completions"
        with endpoint("vertex", AIP_PREDICT_ROUTE=path, AIP_HEALTH_ROUTE="/health") as url:
            assert len(send(url, path, {"instances": [SAID, SAID]}).document["predictions"]) == 2
            assert send(url, path, SAID | {"model": "auto"}).document["object"] == "chat.completion"

    def test_predictions_are_in_the_order_of_the_instances_and_share_parameters(self) -> None:
        edge, cloud = fakes()
        with endpoint("vertex", edge, cloud) as url:
            instances = [{"prompt": f"number {at}"} for at in range(9)] + [{"prompt": "last", "max_tokens": 2}]
            reply = send(url, "/predict", {"instances": instances, "parameters": {"max_tokens": 5}})
        predictions = reply.document["predictions"]
        assert [each["object"] for each in predictions] == ["chat.completion"] * 10
        asked = {one.messages[0].content: (one.request_id, one.max_tokens) for one in edge.requests}
        assert [each["id"] for each in predictions] == [
            f"chatcmpl-{asked[instance['prompt']][0]}" for instance in instances
        ]
        assert [asked[instance["prompt"]][1] for instance in instances] == [5] * 9 + [2]

    def test_the_first_failure_is_that_of_all(self) -> None:
        full = BackendOverloaded("full", backend="edge", retry_after=3.0)
        with endpoint("vertex", *fakes([full]), policy=POLICY + "resilience: {retries: 0}\n") as url:
            reply = send(url, "/predict", {"instances": [SAID]})
        assert (reply.status, reply.headers["retry-after"]) == (503, "3")
        assert reply.document["error"]["message"].startswith("instances[0]: ")

    @pytest.mark.parametrize(
        "body",
        [
            {"instances": []},
            {"instances": [1]},
            {"instances": {}},
            {"instances": [SAID] * 129},
            {"instances": [SAID], "parameters": []},
            {"instances": [SAID], "other": 1},
            {"instances": [SAID | {"stream": True}]},
            {"instances": [SAID], "parameters": {"stream": True}},
            {"instances": [SAID, {}]},
        ],
    )
    def test_what_are_no_instances_is_refused(self, body: Any) -> None:
        with endpoint("vertex") as url:
            reply = send(url, "/predict", body)
            assert reply.status == 400
            assert reply.document["error"]["code"]

    def test_a_platform_that_leaves_ends_the_work_of_all_instances(self) -> None:
        backend = Slow()
        with endpoint("vertex", backend, policy=ALONE) as url:
            address = urlsplit(url)
            body = json.dumps({"instances": [SAID, SAID]}).encode()
            head = f"POST /predict HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\n"
            with socket.create_connection((address.hostname, address.port)) as connection:
                connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                assert backend.begun.wait(5)
            assert backend.left.wait(5)

    def test_the_document_says_what_it_takes_and_answers(self) -> None:
        with endpoint("vertex") as url:
            described = send(url, "/openapi.json", method="GET").document["paths"]["/predict"]["post"]
            reply = send(url, "/predict", {"instances": [SAID]})
        schema = described["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(reply.document, schema)
        asked = described["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.validate({"instances": [SAID]}, asked)
        jsonschema.validate(SAID, asked)


@pytest.mark.parametrize(
    "environ",
    [
        {"AIP_HTTP_PORT": "0"},
        {"AIP_HTTP_PORT": "65536"},
        {"AIP_HTTP_PORT": "http"},
        {"AIP_HTTP_PORT": "\u0661"},
        {"AIP_HEALTH_ROUTE": "health"},
        {"AIP_PREDICT_ROUTE": "/{model}"},
        {"AIP_PREDICT_ROUTE": "/a b"},
        {"AIP_PREDICT_ROUTE": "/x", "AIP_HEALTH_ROUTE": "/x"},
    ],
)
def test_what_a_platform_cannot_mean_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"AIP_|/x"):
        managed_by("vertex", environ)


def test_rights_hold_for_callers_whom_only_the_platform_knows(tmp_path: Path) -> None:
    """Whatever a caller sends as a key, or as the name of a host, it is not a program of this machine."""
    rights = tmp_path / "rights.yaml"
    entry = "version: 1\nrights: [{name: all, who: WHO, models: ['*']}]\n"
    sent: list[dict[str, str]] = [{}, {"authorization": "Bearer x"}, {"x_api_key": "x", "host": "localhost"}]
    edge, _ = fakes()
    for who, allowed in (("anonymous", True), ("local", False)):
        rights.write_text(entry.replace("WHO", who), encoding="utf-8")
        for managed in (managed_by("sagemaker", {}), None):
            client = HybridLLM([edge], parse_policy(ALONE, backends={"edge": edge.location}))
            with served(client, listen="0.0.0.0:0", rights=rights, managed=managed) as url:
                path = "/invocations" if managed else "/v1/chat/completions"
                found = {send(url, path, SAID | {"model": "auto"}, **headers).status for headers in sent}
                assert found == ({200} if allowed else {401})


def test_variables_of_other_platforms_are_not_read_and_empty_ones_are_not_set() -> None:
    assert managed_by("sagemaker", ROUTES) == PLATFORMS["sagemaker"]
    assert managed_by("vertex", dict.fromkeys(ROUTES, "")) == PLATFORMS["vertex"]
    assert managed_by("sagemaker", {"SAGEMAKER_BIND_TO_PORT": "8091"}).port == 8091


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just("hello"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["prompt", "messages", "stream", "role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def vertex() -> Iterator[str]:
    with endpoint("vertex") as url:
        yield url


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.fixed_dictionaries({}, optional={"instances": VALUES, "parameters": VALUES, "prompt": VALUES}))
def test_no_body_fails_the_server(vertex: str, body: dict[str, Any]) -> None:
    reply = send(vertex, "/predict", body)
    assert reply.status in (200, 400)
    assert ("error" in reply.document) == (reply.status == 400)


def test_the_command_answers_a_platform_with_its_default_model(tmp_path: Path) -> None:
    config, ready = tmp_path / "hybrid.yaml", tmp_path / "port"
    config.write_text("version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n", encoding="utf-8")
    words = [sys.executable, "-m", "hybrid_llm.cli.main", "gateway", "--config", str(config), "--managed", "sagemaker"]
    words += ["--listen", "127.0.0.1:0", "--ready-file", str(ready)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 60
            while not ready.exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            url = f"http://127.0.0.1:{ready.read_text().strip()}"
            assert send(url, "/ping", method="GET").status == 200
            assert send(url, "/invocations", SAID | {"max_tokens": 4}).document["usage"]["completion_tokens"] > 0
            assert send(url, "/", method="GET").status == 404
            assert send(url, "/metrics", method="GET").status == 404
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert out == f"ready on {url}/invocations\n"

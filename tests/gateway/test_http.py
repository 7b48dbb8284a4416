"""The gateway over plain HTTP: who is answered, what is refused, what a client that leaves does."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import hypothesis.strategies as st
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from hybrid_llm import HybridLLM
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import BackendOverloaded, ConfigError, RequestRejected, StreamInterrupted
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.request import Location
from hybrid_llm.gateway import GatewayConfig, gateway_app
from hybrid_llm.gateway.config import open_keys
from hybrid_llm.gateway.tables.chat import CHAT as CHAT_TABLE
from hybrid_llm.gateway.tables.completions import COMPLETIONS
from hybrid_llm.gateway.tables.messages import MESSAGES
from hybrid_llm.gateway.tables.responses import RESPONSES
from hybrid_llm.policies import parse_policy
from tests.fakes import FakeBackend
from tests.gateway.conftest import POLICY, Serve, fakes, served
from tests.gateway.official import TYPES, mutated, sample

CHAT = "/v1/chat/completions"
ASKED = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
ALONE = "{version: 1, name: p, rules: [{prefer: [edge]}]}"
PATHS = {
    CHAT: ASKED,
    "/v1/completions": {"model": "auto", "prompt": "hello"},
    "/v1/responses": {"model": "auto", "input": "hello"},
    "/v1/messages": ASKED | {"max_tokens": 8},
}


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.raw = response.read()

    @property
    def document(self) -> Any:
        return json.loads(self.raw)

    @property
    def events(self) -> list[Any]:
        lines = [line[6:] for line in self.raw.decode().splitlines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


def send(url: str, path: str, body: Any = None, method: str = "POST", **headers: str) -> Reply:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, data, {"content-type": "application/json"} | named)
    try:
        return Reply(connection.getresponse())
    finally:
        connection.close()


class Slow(FakeBackend):
    """Answers a word every 20 ms, by default for ten seconds, and says when it was left."""

    def __init__(self, tokens: int = 500) -> None:
        super().__init__("edge", Location.EDGE)
        self.tokens = tokens
        self.begun, self.left = threading.Event(), threading.Event()

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        import asyncio

        try:
            self.begun.set()
            for _ in range(self.tokens):
                await asyncio.sleep(0.02)
                yield Chunk(text="word " * self.words)
            yield Chunk(
                tokens=0, finish_reason=FinishReason.STOP, usage=Usage(prompt_tokens=1, completion_tokens=self.tokens)
            )
        finally:
            self.left.set()

    words = 1


@pytest.mark.parametrize("path", PATHS)
class TestEveryRoute:
    def test_the_answer_says_which_backend_and_rule(self, serve: Serve, path: str) -> None:
        reply = send(serve(*fakes()), path, PATHS[path])
        assert reply.status == 200
        assert (reply.headers["x-hybrid-backend"], reply.headers["x-hybrid-rule"]) == ("edge", "rules[1]")
        assert len(reply.headers["x-request-id"]) == 32

    def test_tags_task_and_details_ride_on_it(self, serve: Serve, path: str) -> None:
        url = serve(*fakes())
        hard = send(url, path, PATHS[path], x_hybrid_task="hard", x_hybrid_details="true")
        assert hard.headers["x-hybrid-backend"] == "cloud"
        assert hard.document["hybrid"]["decision"]["order"] == ["cloud", "edge"]
        private = send(url, path, PATHS[path] | {"hybrid": {"privacy": ["phi"], "task": "hard"}})
        assert (private.headers["x-hybrid-backend"], private.headers["x-hybrid-tags"]) == ("edge", "phi")

    def test_a_stream_with_details_ends_with_them(self, serve: Serve, path: str) -> None:
        reply = send(serve(*fakes()), path, PATHS[path] | {"stream": True, "hybrid": {"details": True}})
        found = [event for event in reply.events if isinstance(event, dict)]
        assert any("hybrid" in event or "hybrid" in event.get("response", {}) for event in found)

    def test_a_failure_before_the_first_token_has_its_status(self, serve: Serve, path: str) -> None:
        full = BackendOverloaded("full", backend="edge", retry_after=7.2)
        url = serve(*fakes([full]), policy=POLICY + "resilience: {retries: 0}\n")
        reply = send(url, path, PATHS[path] | {"stream": True})
        assert reply.status == 503
        assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("8", "true")

    def test_a_failure_in_mid_stream_is_an_event(self, serve: Serve, path: str) -> None:
        url = serve(*fakes(["one ", StreamInterrupted("it broke off", backend="edge")]))
        reply = send(url, path, PATHS[path] | {"stream": True})
        last = reply.events[-1]
        assert reply.status == 200
        assert "error" in last or last["response"]["status"] == "failed"
        assert "[DONE]" not in reply.events

    def test_a_context_that_is_too_long_is_the_clients_fault(self, serve: Serve, path: str) -> None:
        rejected = RequestRejected("too long", backend="edge", reason="context_overflow")
        reply = send(serve(*fakes([rejected])), path, PATHS[path])
        assert reply.status == 400
        assert "error" in reply.document

    @pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": NaN}', b"\xff", b"[" * 100_000, b"1" * 5000])
    def test_what_is_no_json_object_is_refused(self, serve: Serve, path: str, body: bytes) -> None:
        assert send(serve(*fakes()), path, body).status == 400

    def test_a_large_body_is_refused(self, serve: Serve, path: str) -> None:
        assert send(serve(*fakes(), body_bytes=100), path, b" " * 101).status == 413

    def test_what_is_not_declared_to_be_json_is_refused(self, serve: Serve, path: str) -> None:
        assert send(serve(*fakes()), path, PATHS[path], content_type="text/plain").status == 415

    def test_a_page_of_another_site_is_not_answered(self, serve: Serve, path: str) -> None:
        url = serve(*fakes())
        assert send(url, path, PATHS[path], origin="https://evil.example").status == 403
        assert send(url, path, PATHS[path], host="evil.example").status == 403
        assert send(url, path, PATHS[path], origin=url).status == 200

    def test_a_missing_model_is_named(self, serve: Serve, path: str) -> None:
        body = {name: value for name, value in PATHS[path].items() if name != "model"}
        reply = send(serve(*fakes()), path, body)
        assert reply.status == 400
        assert "model" in reply.document["error"]["message"]


class TestModels:
    def test_a_named_backend_answers_and_no_other(self, serve: Serve) -> None:
        url = serve(*fakes())
        assert send(url, CHAT, ASKED | {"model": "cloud"}).headers["x-hybrid-backend"] == "cloud"

    def test_the_guard_comes_before_the_wish(self, serve: Serve) -> None:
        reply = send(serve(*fakes()), CHAT, ASKED | {"model": "cloud"}, x_hybrid_privacy="phi")
        assert (reply.status, reply.document["error"]["code"]) == (503, "no_eligible_backend")
        assert reply.headers["x-should-retry"] == "false"

    def test_an_unknown_model_is_routed_or_refused(self, serve: Serve) -> None:
        assert send(serve(*fakes()), CHAT, ASKED | {"model": "gpt-9"}).document["model"] == "fake"
        refused = send(serve(*fakes(), unknown_models="refuse"), CHAT, ASKED | {"model": "gpt-9"})
        assert (refused.status, refused.document["error"]["code"]) == (404, "model_not_found")


class TestKeys:
    @pytest.fixture
    def keys(self, tmp_path: Path) -> Path:
        path = tmp_path / "keys.json"
        entries = [
            {"sha256": hashlib.sha256(b"key-a").hexdigest(), "tenant": "a", "privacy": ["phi"]},
            {"sha256": hashlib.sha256(b"key-b").hexdigest(), "tenant": "b"},
        ]
        path.write_text(json.dumps(entries))
        return path

    def test_only_who_has_a_key_is_answered(self, serve: Serve, keys: Path) -> None:
        url = serve(*fakes(), keys=keys)
        for path, body in PATHS.items():
            assert send(url, path, body).status == 401
            assert send(url, path, body, authorization="Bearer wrong").status == 401
            assert send(url, path, body, authorization="Bearer key-b").status == 200
            assert send(url, path, body, x_api_key="key-b").status == 200
        assert send(url, "/v1/models", method="GET").status == 401
        assert send(url, "/health", method="GET").status == 200

    def test_a_key_brings_its_tags_and_its_tenant(self, serve: Serve, keys: Path) -> None:
        edge, cloud = fakes()
        url = serve(edge, cloud, keys=keys)
        reply = send(url, CHAT, ASKED, authorization="Bearer key-a", x_hybrid_task="hard")
        assert reply.headers["x-hybrid-tags"] == "phi"
        assert (edge.requests[0].tenant, cloud.requests) == ("a", [])
        other = send(url, CHAT, ASKED, authorization="Bearer key-a", x_hybrid_tenant="b")
        assert (other.status, other.document["error"]["code"]) == (403, "other_tenant")

    def test_a_response_belongs_to_its_tenant(self, serve: Serve, keys: Path) -> None:
        url = serve(*fakes(), keys=keys)
        first = send(url, "/v1/responses", PATHS["/v1/responses"], authorization="Bearer key-a").document
        following = PATHS["/v1/responses"] | {"previous_response_id": first["id"]}
        assert send(url, "/v1/responses", following, authorization="Bearer key-b").status == 404
        assert send(url, "/v1/responses", following, authorization="Bearer key-a").status == 200

    def test_without_keys_a_response_belongs_to_the_tenant_that_its_request_names(self, serve: Serve) -> None:
        url = serve(*fakes())
        asked = PATHS["/v1/responses"]
        first = send(url, "/v1/responses", asked | {"hybrid": {"tenant": "a"}}).document["id"]
        for tenant, status in ({"x_hybrid_tenant": "b"}, 404), ({}, 404), ({"x_hybrid_tenant": "a"}, 200):
            following = asked | {"previous_response_id": first}
            assert send(url, "/v1/responses", following, **tenant).status == status
            assert send(url, "/v1/responses/input_tokens", following, **tenant).status == status
            assert send(url, f"/v1/responses/{first}", method="GET", **tenant).status == status
            assert send(url, f"/v1/responses/{first}", method="DELETE", **tenant).status == status

    def test_without_keys_it_does_not_listen_to_other_machines(self) -> None:
        edge, _ = fakes()
        client = HybridLLM([edge], parse_policy("{version: 1, name: p, rules: [{prefer: [edge]}]}"))
        with client, pytest.raises(ConfigError, match="keys"):
            gateway_app(client, GatewayConfig(listen="0.0.0.0:8080"))

    def test_a_key_that_is_removed_opens_nothing_more_and_a_broken_file_changes_nothing(
        self, serve: Serve, keys: Path
    ) -> None:
        def status(key: str) -> int:
            return send(url, CHAT, ASKED, authorization=f"Bearer {key}").status

        url, both = serve(*fakes(), keys=keys), json.loads(keys.read_text())
        assert (status("key-a"), status("key-b")) == (200, 200)
        for text, wanted in ((json.dumps(both[:1]), (200, 401)), ("[", (200, 401)), ("[]", (401, 401))):
            keys.write_text(text)
            until = time.monotonic() + 10
            while (found := (status("key-a"), status("key-b"))) != wanted and time.monotonic() < until:
                time.sleep(0.05)
            assert found == wanted
            if text == "[":
                time.sleep(1.2)  # long enough for two looks at it
                assert (status("key-a"), status("key-b")) == wanted

    @pytest.mark.parametrize(
        "text", ["", "{}", "[]", "[1]", '[{"sha256": "ab", "tenant": "a"}]', '[{"tenant": "a"}]', '[{"sha256": 1}]']
    )
    def test_a_file_that_is_none_is_said(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "keys.json"
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"keys\.json"):
            open_keys(GatewayConfig(keys=path))


class TestLeaving:
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_client_that_leaves_ends_the_work(self, serve: Serve, *, stream: bool) -> None:
        backend = Slow()
        address = urlsplit(serve(backend, policy=ALONE))
        body = json.dumps(ASKED | {"stream": stream}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\n"
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            assert backend.begun.wait(5)
            if stream:
                assert connection.recv(100)
        assert backend.left.wait(2)

    def test_a_client_that_does_not_read_is_left(self, serve: Serve) -> None:
        backend = Slow()
        backend.words = 20_000
        address = urlsplit(serve(backend, policy=ALONE, write_timeout_s=0.5))
        body = json.dumps(ASKED | {"stream": True}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\n"
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            assert backend.left.wait(10)

    def test_a_client_that_does_not_send_is_left(self, serve: Serve) -> None:
        address = urlsplit(serve(*fakes(), read_timeout_s=0.3))
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\n"
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
            connection.settimeout(10)
            assert b" 408 " in connection.recv(1000)

    def test_a_running_answer_is_finished_when_the_gateway_stops(self) -> None:
        edge, cloud = fakes(["a", "b"])
        client = HybridLLM(
            [edge, cloud], parse_policy(POLICY, backends={"edge": edge.location, "cloud": cloud.location})
        )
        with served(client) as url:
            assert send(url, CHAT, ASKED).status == 200
        assert edge.closed == 1

    def test_many_connections_that_are_kept_alive(self, serve: Serve) -> None:
        address = urlsplit(serve(*fakes()))
        connections = [http.client.HTTPConnection(address.netloc, timeout=20) for _ in range(200)]
        for _ in range(2):
            for connection in connections:
                connection.request("POST", CHAT, json.dumps(ASKED), {"content-type": "application/json"})
                assert connection.getresponse().read()
        for connection in connections:
            connection.close()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    *("model", "messages", "input", "prompt", "system", "max_tokens", "max_completion_tokens", "temperature", "stop"),
    *("tools", "tool_choice", "response_format", "text", "stream", "stream_options", "metadata", "hybrid", "logprobs"),
    *("top_logprobs", "previous_response_id", "store", "instructions", "output_config", "stop_sequences", "seed", "n"),
)
SHAPES = st.sampled_from(
    [
        [{"role": "user", "content": "x"}],
        [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}],
        [{"role": "assistant", "content": None, "tool_calls": [{}]}],
        [{"role": "user", "content": [{"type": "tool_result"}]}],
        {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
        {"type": "allowed_tools", "tools": [1]},
        {"format": {"type": "json_schema", "schema": {}}},
        "auto",
    ]
)


ANSWERED = (200, 400, 404, 502, 503)
"""What a request may end with: 502 since the fake's answer follows no output schema."""


@pytest.fixture(scope="module")
def fuzzed() -> Any:
    edge, cloud = fakes()
    policy = parse_policy(POLICY, backends={"edge": edge.location, "cloud": cloud.location})
    with served(HybridLLM([edge, cloud], policy)) as url:
        yield url


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(sorted(PATHS)), st.dictionaries(st.sampled_from(FIELDS), VALUES | SHAPES, max_size=4))
def test_no_body_is_an_internal_error(fuzzed: str, path: str, changes: dict[str, Any]) -> None:
    reply = send(fuzzed, path, PATHS[path] | changes)
    assert reply.status in ANSWERED, (reply.status, reply.raw)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(sorted(PATHS)), st.integers(0, 2**32), st.integers(0, 2))
def test_no_body_of_the_official_types_is_an_internal_error(fuzzed: str, path: str, seed: int, faults: int) -> None:
    random = Random(seed)
    body = deepcopy(PATHS[path]) | sample(random.choice(TYPES[path]), random)
    for _ in range(faults):
        body = mutated(body, random) if body else body
    for added in ("stream", "stream_options"):
        body.pop(added, None)
    reply = send(fuzzed, path, body)
    assert reply.status in ANSWERED, (reply.status, reply.raw)


@pytest.mark.parametrize("tools", [7, "x", {}, None, [7], [{"type": "function"}], [{"type": "function", "name": "y"}]])
def test_allowed_tools_of_any_shape_are_refused_and_no_failure_of_ours(serve: Serve, tools: Any) -> None:
    url = serve(*fakes())
    function = {"name": "x", "parameters": {}}
    allowed = {"mode": "auto", "tools": tools}
    chat = ASKED | {"tools": [{"type": "function", "function": function}]}
    chat["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
    responses = PATHS["/v1/responses"] | {"tools": [{"type": "function", **function}]}
    responses["tool_choice"] = {"type": "allowed_tools", **allowed}
    for path, body in ((CHAT, chat), ("/v1/responses", responses)):
        reply = send(url, path, body)
        assert (reply.status, reply.document["error"]["param"]) == (400, "tool_choice"), reply.raw


@pytest.mark.parametrize("depth", [50, 200, 450, 480, 490])
def test_what_is_nested_deeply_is_answered_or_refused(serve: Serve, depth: int) -> None:
    url = serve(*fakes())
    inner = '{"properties":{"a":' * depth + '{"not":{}}' + "}}" * depth
    schema = f'{{"type":"object","properties":{{"a":{inner}}}}}'
    said = '"model":"auto","messages":[{"role":"user","content":"x"}]'
    chat = f'{{{said},"tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]}}'
    count = f'{{{said},"tools":[{{"name":"f","input_schema":{schema}}}]}}'
    for path, body in ((CHAT, chat), ("/v1/messages/count_tokens", count)):
        reply = send(url, path, body.encode())
        assert reply.status in (200, 400), reply.raw


@pytest.mark.parametrize(
    ("headers", "more"),
    [
        ({"x_hybrid_privcy": "phi"}, {}),
        ({}, {"hybrid": {"privcy": ["phi"]}}),
        ({}, {"metadata": {"hybrid_privcy": "phi"}}),
    ],
)
def test_an_extension_that_is_misspelt_may_be_a_tag_and_is_refused(serve: Serve, headers: Any, more: Any) -> None:
    backends = fakes()
    url = serve(*backends)
    for path, body in PATHS.items():
        if "metadata" in more and path == "/v1/completions":
            continue
        assert send(url, path, body | more, **headers).status == 400
    assert [each.requests for each in backends] == [[], []]


@pytest.mark.parametrize("value", [10**400, -(10**400), [5], {"a": 1}, True, "x" * 5000, "\ud800"])
@pytest.mark.parametrize("name", ["privacy", "task", "deadline", "session", "tenant", "details"])
def test_no_value_of_an_extension_is_an_internal_error(fuzzed: str, name: str, value: Any) -> None:
    asked = PATHS["/v1/responses"] | {"previous_response_id": "none"}
    for path, body in (CHAT, ASKED), ("/v1/responses", asked):
        assert send(fuzzed, path, body | {"hybrid": {name: value}}).status in (200, 400, 404)


def test_what_is_kept_is_bounded_with_all_that_its_document_has(serve: Serve) -> None:
    url = serve(*fakes(), response_characters=20_000)
    asked = PATHS["/v1/responses"] | {"instructions": "x" * 9_000}
    ids = [send(url, "/v1/responses", asked).document["id"] for _ in range(3)]
    assert [send(url, f"/v1/responses/{each}", method="GET").status for each in ids] == [404, 200, 200]


def test_an_adapter_is_listed_with_its_parent_and_answers_by_its_name(serve: Serve) -> None:
    edge, cloud = fakes(["of the adapter"])
    cloud.capabilities = replace(cloud.capabilities, model="support-bot", parent="smollm2")
    url = serve(edge, cloud)
    listed = {each["id"]: each for each in send(url, "/v1/models", method="GET").document["data"]}
    assert (listed["support-bot"]["parent"], listed["support-bot"]["object"]) == ("smollm2", "model")
    assert [name for name, each in listed.items() if "parent" in each] == ["support-bot"]
    assert send(url, CHAT, ASKED | {"model": "support-bot"}).headers["x-hybrid-backend"] == "cloud"


def test_a_host_of_the_configuration_is_answered(serve: Serve) -> None:
    url = serve(*fakes(), hosts=("gateway.test",))
    assert send(url, "/v1/models", method="GET", host="gateway.test:8080").status == 200
    assert send(url, "/v1/models", method="GET", host="other.test").status == 403


def test_what_is_not_followed_is_a_warning_in_a_header_and_in_the_details(serve: Serve) -> None:
    url = serve(*fakes())
    body = PATHS["/v1/responses"] | {"tools": [{"type": "web_search"}], "hybrid": {"details": True}}
    reply = send(url, "/v1/responses", body)
    assert reply.headers["x-hybrid-warnings"] == "tools[0]: no backend has the tool web_search"
    assert reply.document["hybrid"]["request_warnings"] == ["tools[0]: no backend has the tool web_search"]
    assert "x-hybrid-warnings" not in send(url, "/v1/responses", PATHS["/v1/responses"]).headers


def test_the_document_has_the_routes_that_there_are(serve: Serve) -> None:
    url = serve(*fakes())
    document = send(url, "/openapi.json", method="GET").document
    assert "/metrics" not in document["paths"]
    for path, methods in document["paths"].items():
        for method in methods:
            reply = send(url, path.replace("{id}", "none"), {}, method=method.upper())
            known = reply.document.get("error", {}).get("code") not in ("unknown_url", "method_not_allowed")
            assert known, (method, path)
    for table in (CHAT_TABLE, COMPLETIONS, MESSAGES, RESPONSES):
        jsonschema.Draft202012Validator.check_schema(table.schema())


def test_what_is_there_no_route_for(serve: Serve) -> None:
    url = serve(*fakes())
    assert send(url, "/v1/audio", ASKED).document["error"]["code"] == "unknown_url"
    assert send(url, CHAT, method="GET").document["error"]["code"] == "method_not_allowed"
    for path, said in (
        ("/chat/completions", "end the base URL of the client with /v1"),
        ("/v1/v1/messages", "/v1/messages is there; leave /v1 out of the base URL"),
        ("/v1/audio", "GET /v1/models"),
    ):
        assert said in send(url, path, ASKED).document["error"]["message"]


def test_logs_hold_no_text(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    url = serve(*fakes(["the-answer"]))
    body = {"model": "auto", "messages": [{"role": "user", "content": "the-prompt"}]}
    send(url, CHAT, body, authorization="Bearer the-secret")
    send(url, CHAT, body | {"the-prompt": 1})
    time.sleep(0.1)
    assert caplog.records
    assert not any(word in caplog.text for word in ("the-answer", "the-prompt", "the-secret"))

"""What servers report of themselves, in the words of each: read beside the requests, cached, compared with the file."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from hybrid_llm.backends.http.api import Reply
from hybrid_llm.backends.openai.describe import describe
from hybrid_llm.backends.openai.spec import OpenAISpec
from hybrid_llm.core import errors
from hybrid_llm.core.tools import Tool
from tests.backends.http.server import WHOLE, events, eventually, head, scripted
from tests.backends.openai.test_backend import answer, cleared, opened

VLLM = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 8192}]}
LLAMA = {
    "models": [],
    "object": "list",
    "data": [{"id": "x.gguf", "owned_by": "llamacpp", "aliases": [], "meta": {"n_ctx": 4096, "n_ctx_train": 32768}}],
}
PROPS = {
    "default_generation_settings": {"n_ctx": 4096},
    "chat_template_caps": {"supports_tools": False, "supports_tool_calls": False},
}
ROUTER = {"data": [{"id": "n", "aliases": ["m"], "owned_by": "llamacpp", "status": {"value": "unloaded"}}]}
SGLANG = {"data": [{"id": "m", "owned_by": "sglang", "max_model_len": 4096}]}
OLLAMA = {"object": "list", "data": [{"id": "m:latest", "object": "model", "owned_by": "library"}]}
TAGS = {"models": [{"name": "m:latest", "model": "m:latest", "capabilities": ["completion", "tools"]}]}
LOADED = {"models": [{"name": "m:latest", "model": "m:latest", "context_length": 4096}]}
STUDIO = {
    "data": [{"id": "m", "type": "llm", "state": "loaded", "loaded_context_length": 2048, "max_context_length": 9}]
}
TOOLS = (Tool(name="f"),)


class TestWhatEachServerReports:
    @pytest.mark.parametrize(
        ("described", "found"),
        [
            ({"/v1/models": VLLM}, ("vllm", 8192, True, True)),
            ({"/v1/models": LLAMA, "/props": PROPS}, ("llama.cpp", 4096, False, True)),
            ({"/v1/models": LLAMA}, ("llama.cpp", 4096, True, True)),
            ({"/v1/models": SGLANG}, ("sglang", 4096, True, True)),
            (
                {"/v1/models": OLLAMA, "/api/version": {"version": "0.12"}, "/api/tags": TAGS, "/api/ps": LOADED},
                ("ollama", 4096, True, True),
            ),
            ({"/v1/models": OLLAMA, "/api/version": {"version": "0.12"}}, ("ollama", 0, True, True)),
            ({"/v1/models": {"data": [{"id": "m"}]}, "/api/v0/models": STUDIO}, ("lmstudio", 2048, True, True)),
            ({"/v1/models": {"data": [{"id": "m", "context_length": 99}]}}, ("", 99, True, True)),
            ({"/v1/models": []}, ("", 0, True, True)),
            ({"/v1/models": {"data": [1, {"id": 2, "owned_by": []}], "x": None}}, ("", 0, True, True)),
            ({}, ("", 0, True, True)),
        ],
        ids=[
            "vllm",
            "llama.cpp",
            "no_props",
            "sglang",
            "ollama",
            "not_loaded",
            "lmstudio",
            "other",
            "list",
            "odd",
            "no_list",
        ],
    )
    def test_server_window_and_tools(self, described: dict[str, Any], found: tuple[Any, ...]) -> None:
        with scripted([head(), events(*WHOLE)]) as server:
            server.described = described
            backend = opened(server.url)
            known, can = backend.probe(), backend.capabilities
            backend.close()
            assert (known.server, can.context_window, can.tools, can.output_schema) == found
            assert server.bodies == []

    @pytest.mark.parametrize(("model", "lacks"), [("n", False), ("m", False), ("x", True)])
    def test_a_router_of_llama_cpp_has_the_models_that_it_lists(self, model: str, lacks: object) -> None:
        spec = OpenAISpec(name="cloud", base_url="http://127.0.0.1:9/v1", model=model)
        known = describe(Reply(status=200, headers={}, document=ROUTER), lambda _: Reply(status=0, headers={}), spec)
        assert (known.server, known.lacks_model) == ("llama.cpp", lacks)

    def test_what_is_known_stays_while_the_server_says_nothing(self) -> None:
        with scripted([head(), events(*WHOLE)]) as server:
            backend = opened(server.url)
            for reported in (VLLM, 500, 429, 302):
                server.described = {"/v1/models": reported}
                assert backend.probe().context_window == 8192
            backend.close()

    @pytest.mark.parametrize(
        ("url", "server", "listed"),
        [("https://api.openai.com/v1", "openai", False), ("https://x.openai.azure.com/openai/v1", "openai", None)],
    )
    def test_hosted_servers_are_known_by_their_hosts(self, url: str, server: str, listed: Any) -> None:
        spec = OpenAISpec(name="cloud", base_url=url, model="m")
        reply = Reply(status=200, headers={}, document={"data": [{"id": "gpt", "owned_by": "system"}]})
        known = describe(reply, lambda path: pytest.fail(path), spec)
        assert (known.server, known.lists_model, known.lacks_model) == (server, listed, False)

    def test_the_first_call_asks_beside_it_and_the_next_ones_do_not(self) -> None:
        with scripted([head(), events(*WHOLE)]) as server:
            server.described = {"/v1/models": VLLM}
            backend = opened(server.url)
            assert server.asked == []
            list(backend.stream(cleared(answer_prefix="One")))
            eventually(lambda: backend.capabilities.context_window == 8192)
            list(backend.stream(cleared(answer_prefix="One")))
            backend.close()
            assert server.asked == ["/v1/models"]
            assert "continue_final_message" not in server.bodies[0]
            assert server.bodies[1]["continue_final_message"] is True
            assert "content-length" not in server.asked_headers[0]


class TestWhatTheFileSays:
    def test_the_file_counts_and_each_contradiction_is_one_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        with scripted([head(), events(*WHOLE)]) as server, caplog.at_level(logging.WARNING, "hybrid_llm"):
            server.described = {"/v1/models": LLAMA, "/props": PROPS}
            backend = opened(server.url, context_window=9999, tools=True, dialect="vllm")
            for _ in range(3):
                backend.probe()
            can = backend.capabilities
            backend.close()
        assert (can.context_window, can.tools) == (9999, True)
        texts = [record.getMessage() for record in caplog.records]
        assert sorted(text.split(": ")[1].removeprefix("the file says ") for text in texts) == [
            "context_window",
            "dialect",
            "tools",
        ]

    def test_less_than_the_server_has_is_no_contradiction(self, caplog: pytest.LogCaptureFixture) -> None:
        with scripted([head(), events(*WHOLE)]) as server, caplog.at_level(logging.WARNING, "hybrid_llm"):
            server.described = {"/v1/models": VLLM}
            backend = opened(server.url, context_window=100, tools=False, dialect="vllm")
            backend.probe()
            backend.close()
        assert caplog.records == []

    @pytest.mark.parametrize("fields", [{"tools": TOOLS}, {"output_schema": "{}"}, {"logprobs": 1}])
    def test_what_the_server_cannot_do_is_refused_before_bytes_leave(self, fields: dict[str, Any]) -> None:
        with scripted([head(), events(*WHOLE)]) as server:
            with pytest.raises(errors.RequestRejected) as caught:
                answer(server.url, cleared(**fields), tools=False, output_schema=False)
            assert caught.value.reason == "unsupported"
            assert server.bodies == []

    def test_a_model_that_is_not_listed_is_logged_once_and_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        with scripted([head(), events(*WHOLE)]) as server, caplog.at_level(logging.WARNING, "hybrid_llm"):
            server.described = {"/v1/models": {"data": [{"id": "n", "owned_by": "vllm"}]}}
            backend = opened(server.url)
            backend.probe()
            backend.probe()
            with pytest.raises(errors.RequestRejected, match="does not have the model m"):
                list(backend.stream(cleared()))
            assert server.bodies == []
            server.described = {"/v1/models": VLLM}
            backend.probe()
            assert len(list(backend.stream(cleared()))) > 0
            backend.close()
        assert len(caplog.records) == 1
        assert "does not list the model m" in caplog.text

    def test_where_the_list_is_not_all_that_is_served_the_server_decides(self) -> None:
        with scripted([head(), events(*WHOLE)]) as server:
            server.described = {"/v1/models": {"data": [{"id": "n"}]}}
            backend = opened(server.url)
            assert backend.probe().lists_model is False
            assert len(list(backend.stream(cleared()))) > 0
            backend.close()

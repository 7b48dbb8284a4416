"""The backend of kind `openai` against scripted servers, and against our own gateway with a model that runs."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.backends.http.backend import HttpBackend
from hybrid_llm.backends.http.events import EventReader, EventTooLarge
from hybrid_llm.backends.http.failures import retry_after
from hybrid_llm.backends.openai.decode import ChatAnswer
from hybrid_llm.backends.openai.encode import payload
from hybrid_llm.backends.openai.spec import OpenAISpec
from hybrid_llm.core import errors
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.generation import AnswerParts, Chunk, FinishReason, Timings
from hybrid_llm.core.request import Location, Message, Request, Sampling
from hybrid_llm.core.secret import Secret
from hybrid_llm.core.tools import Tool, ToolCall
from hybrid_llm.policies import builtin_policy, parse_policy
from hybrid_llm.router.config import load_config
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from tests.backends.http.server import CUT, HANG, USAGE, WHOLE, delta, events, failed, head, scripted
from tests.fakes import A_DAY, FakeBackend
from tests.gateway.conftest import served


def cleared(location: Location = Location.CLOUD, **fields: Any) -> Cleared:
    fields = {"messages": (Message(role="user", content="secret-prompt"),), "deadline": 10.0, **fields}
    return PrivacyGuard().clear(Assessment(request=Request(**fields), allowed=frozenset({location})), location)


def spec(url: str = "http://127.0.0.1:9/v1", **fields: Any) -> OpenAISpec:
    return OpenAISpec(name="cloud", base_url=url, model="m", **fields)


def opened(url: str, **fields: Any) -> HttpBackend:
    return spec(url, **fields).open()


def answer(url: str, request: Cleared | None = None, **fields: Any) -> list[Chunk]:
    backend = opened(url, **fields)
    try:
        return list(backend.stream(request or cleared()))
    finally:
        backend.close()


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


class TestAnswers:
    @pytest.mark.parametrize(
        "body",
        [
            events(*WHOLE, "[DONE]"),
            events(*WHOLE),
            events(*WHOLE, "[DONE]", newline="\r\n"),
            events(*WHOLE, "[DONE]", newline="\r"),
            events(*WHOLE, "[DONE]", space=""),
            b": keep-alive\n\n" + events(*WHOLE[:2]) + b": ping\nevent: x\nid: 1\nretry: 5\n\n" + events(*WHOLE[2:]),
            events(*WHOLE[:3], delta("stop"), delta("stop"), delta("length"), USAGE, "[DONE]"),
            events(*WHOLE[:3], USAGE, delta("stop"), "[DONE]"),
            b"\xef\xbb\xbf" + events(*WHOLE),
            events(*WHOLE).rstrip(),
        ],
        ids=["done", "no_done", "crlf", "cr", "no_space", "comments", "two_ends", "usage_first", "bom", "no_last_line"],
    )
    def test_every_form_of_the_same_answer(self, body: bytes) -> None:
        with scripted([head(), body]) as server:
            chunks = answer(server.url)
        assert text_of(chunks) == "one two"
        assert chunks[-1].finish_reason is FinishReason.STOP
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (7, 2)

    def test_without_usage_the_pieces_are_counted_and_the_prompt_is_estimated(self) -> None:
        with scripted([head(), events(*WHOLE[:4], "[DONE]")]) as server:
            usage = answer(server.url, cleared(prompt_tokens=9))[-1].usage
            assert (usage.prompt_tokens, usage.completion_tokens) == (9, 2)

    def test_a_compressed_answer(self) -> None:
        with scripted([head(content_encoding="gzip"), gzip.compress(events(*WHOLE))]) as server:
            assert text_of(answer(server.url)) == "one two"

    def test_reasoning_under_either_name_is_apart(self) -> None:
        script = [
            head(),
            events(delta(reasoning_content="hm"), delta(reasoning="m"), delta(content="x"), delta("stop")),
        ]
        with scripted(script) as server:
            chunks = answer(server.url)
        assert ("".join(chunk.reasoning for chunk in chunks), text_of(chunks)) == ("hmm", "x")

    @pytest.mark.parametrize(
        "deltas",
        [
            [
                [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}],
                [{"index": 0, "function": {"arguments": '{"x":'}}],
                [{"index": 0, "function": {"arguments": "1}"}}],
                [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}],
            ],
            [
                [{"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}],
                [{"id": "b", "function": {"name": "g", "arguments": "{}"}}],
            ],
            [
                [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}}],
                [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ":1}"}}],
                [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}],
            ],
        ],
        ids=["pieces", "whole_without_index", "repeated_name"],
    )
    @pytest.mark.parametrize("reason", ["tool_calls", "stop", "function_call"])
    def test_tool_calls_as_servers_send_them(self, deltas: list[Any], reason: str) -> None:
        body = events(*[delta(tool_calls=each) for each in deltas], delta(reason))
        with scripted([head(), body]) as server:
            chunks = answer(server.url)
        parts = AnswerParts()
        for chunk in chunks:
            parts.add(chunk)
        calls = [(call.id, call.name, call.arguments) for call in parts.tool_calls]
        assert calls == [("a", "f", '{"x":1}'), ("b", "g", "{}")]
        assert chunks[-1].finish_reason is FinishReason.TOOL_CALLS

    def test_log_probabilities(self) -> None:
        entry = {
            "token": "one",
            "logprob": -0.5,
            "bytes": [111, 110, 101],
            "top_logprobs": [{"token": "x", "logprob": -1}],
        }
        choice = {"index": 0, "delta": {"content": "one"}, "logprobs": {"content": [entry]}, "finish_reason": "stop"}
        with scripted([head(), events({"choices": [choice]})]) as server:
            found = answer(server.url, cleared(logprobs=1), logprobs=True)[0].logprobs[0]
            assert server.bodies[0]["top_logprobs"] == 1
        assert (found.token, found.logprob, found.bytes, found.top[0].token) == ("one", -0.5, b"one", "x")


class TestFailures:
    @pytest.mark.parametrize(
        ("script", "error", "reason"),
        [
            (failed(401, {"error": {"message": "secret-prompt"}}), errors.AuthenticationFailed, ""),
            (failed(403, {}), errors.PermissionDenied, ""),
            (failed(404, {"error": {"code": "model_not_found"}}), errors.RequestRejected, "unsupported"),
            (failed(400, {"error": {"code": "context_length_exceeded"}}), errors.RequestRejected, "context_overflow"),
            (failed(400, {"error": {"type": "exceed_context_size_error"}}), errors.RequestRejected, "context_overflow"),
            (failed(400, {"error": "secret-prompt"}), errors.RequestRejected, "unsupported"),
            (failed(413, {}), errors.RequestRejected, "message_too_large"),
            (failed(429, {"error": {"code": "insufficient_quota"}}), errors.QuotaExceeded, ""),
            (failed(429, {}), errors.BackendOverloaded, ""),
            (failed(529, {}), errors.BackendOverloaded, ""),
            (failed(500, {}), errors.BackendUnavailable, "failed"),
            (failed(302, {}, location="http://evil.example/"), errors.BackendUnavailable, "failed"),
            (failed(200, {"error": {"message": "secret-prompt"}}), errors.BackendUnavailable, "failed"),
            (failed(200, {"choices": []}), errors.BackendUnavailable, "failed"),
            ([head(502, "text/html"), b"<html>" * 100_000], errors.BackendUnavailable, "failed"),
            ([CUT], errors.BackendUnavailable, "disconnected"),
            ([head(), CUT], errors.BackendUnavailable, "disconnected"),
            ([head()], errors.BackendUnavailable, "disconnected"),
            ([head(), events({"error": {"code": 503}})], errors.BackendOverloaded, ""),
            ([head(), events({"error": "secret-prompt"})], errors.BackendUnavailable, "failed"),
            ([head(), events("{")], errors.BackendUnavailable, "disconnected"),
            ([head(), events("[]")], errors.BackendUnavailable, "disconnected"),
            ([head(), events(delta("content_filter"))], errors.RequestRejected, "content_filter"),
            ([head(), events(delta("secret-prompt"))], errors.BackendUnavailable, "disconnected"),
            ([head(), events(*WHOLE[:2]), CUT], errors.StreamInterrupted, ""),
            ([head(), events(*WHOLE[:3])], errors.StreamInterrupted, ""),
            ([head(), events(*WHOLE[:2], {"error": {"code": 503}})], errors.StreamInterrupted, ""),
            ([head(), events(delta(tool_calls=[{"function": {}}]))], errors.BackendUnavailable, "disconnected"),
            ([head(), b"data: " + b"x" * 9_000_000], errors.BackendUnavailable, "disconnected"),
        ],
    )
    def test_each_has_one_typed_error_that_quotes_nothing(
        self, script: list[Any], error: type[errors.BackendError], reason: str
    ) -> None:
        with scripted(script) as server, pytest.raises(error) as caught:
            answer(server.url)
        assert caught.value.reason == reason
        shown = f"{caught.value}{caught.value.__context__}{caught.value.__cause__}"
        assert "secret-prompt" not in shown
        assert "127.0.0.1" not in shown

    def test_where_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(errors.BackendUnavailable) as caught:
            answer(f"http://127.0.0.1:{port}/v1")
        assert caught.value.reason == "refused"

    @pytest.mark.parametrize("sent", [b"", events(*WHOLE[:2])])
    def test_a_server_that_falls_silent_is_given_up(self, sent: bytes) -> None:
        with scripted([head(), sent, HANG]) as server:
            with pytest.raises(errors.StreamInterrupted if sent else errors.BackendUnavailable):
                answer(server.url, idle_timeout_s=0.3)
            assert server.left.wait(5)

    @pytest.mark.parametrize("sent", [b"", events(*WHOLE[:2])])
    def test_the_deadline_ends_it(self, sent: bytes) -> None:
        with scripted([head(), sent, HANG]) as server:
            began = time.monotonic()
            with pytest.raises(errors.DeadlineExceeded):
                answer(server.url, cleared(deadline=0.5))
            assert time.monotonic() - began < 5
            assert server.left.wait(5)

    def test_a_trickle_does_not_outlive_the_deadline(self) -> None:
        with scripted([head(), *[b": ping\n\n", 0.05] * 200]) as server, pytest.raises(errors.DeadlineExceeded):
            answer(server.url, cleared(deadline=0.5))

    def test_a_server_that_speaks_no_tls(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))

        def refuse() -> None:
            for _ in range(2):  # the call, and the question beside it
                with listener.accept()[0] as connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(errors.BackendUnavailable, match="does not speak TLS; is it http") as raised:
            answer(f"https://127.0.0.1:{listener.getsockname()[1]}/v1")
        assert raised.value.reason == "disconnected"
        thread.join(10)
        listener.close()

    def test_a_path_that_is_not_there(self) -> None:
        with scripted(failed(404, {})) as server, pytest.raises(errors.RequestRejected, match="`base_url`"):
            answer(server.url)

    def test_a_certificate_that_is_not_trusted(self, tmp_path: Path) -> None:
        import ssl

        from hybrid_llm.cli.main import main

        assert main(["certs", "init", str(tmp_path)]) == 0
        assert main(["certs", "issue", str(tmp_path), "--name", "node", "--kind", "node", "--host", "127.0.0.1"]) == 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "node.pem", tmp_path / "node.key")
        listener = socket.create_server(("127.0.0.1", 0))

        def accept() -> None:
            for _ in range(2):  # the call, and the question beside it
                with pytest.raises(OSError), context.wrap_socket(listener.accept()[0], server_side=True):
                    raise AssertionError("the client went on")

        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(errors.UntrustedPeer):
            answer(f"https://127.0.0.1:{listener.getsockname()[1]}/v1")
        thread.join(10)
        listener.close()

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry-after": "7"}, 7.0),
            ({"retry-after-ms": "250"}, 0.25),
            ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
            ({"retry-after": "soon"}, None),
            ({"retry-after": "-3"}, None),
            ({"retry-after": "nan"}, None),
            ({"retry-after": "Mon, 01 Jan 99999999999 00:00:00 GMT"}, None),
            ({"retry-after": "1 Jan 2020 00:00:00 -" + "9" * 30}, None),
            ({"retry-after-ms": "9" * 5000}, 86_400.0),
            ({}, None),
        ],
    )
    def test_when_to_ask_again(self, headers: dict[str, str], seconds: float | None) -> None:
        assert retry_after(headers) == seconds


class TestLeaving:
    def test_leaving_a_stream_closes_the_connection(self) -> None:
        with scripted([head(), events(*WHOLE[:2]), HANG]) as server:
            backend = opened(server.url)
            stream = backend.stream(cleared())
            assert next(stream).text == "one "
            stream.close()
            assert server.left.wait(5)
            backend.close()

    def test_a_cancelled_task_closes_the_connection(self) -> None:
        async def leave(backend: HttpBackend) -> None:
            async with asyncio.timeout(0.3):
                async for _ in backend.astream(cleared()):
                    pass

        with scripted([head(), events(*WHOLE[:2]), HANG]) as server:
            backend = opened(server.url)
            with pytest.raises(TimeoutError):
                asyncio.run(leave(backend))
            assert server.left.wait(5)
            backend.close()

    def test_closing_ends_running_calls(self) -> None:
        with scripted([head(), HANG]) as server:
            backend = opened(server.url)
            threading.Timer(0.3, backend.close).start()
            with pytest.raises(errors.BackendUnavailable) as caught:
                list(backend.stream(cleared()))
            assert caught.value.reason == "closed"
            with pytest.raises(errors.BackendUnavailable):
                list(backend.stream(cleared()))

    def test_abort_ends_the_calls_of_a_request(self) -> None:
        with scripted([head(), HANG]) as server:
            backend = opened(server.url)
            threading.Timer(0.3, backend.abort, ["r"]).start()
            with pytest.raises(errors.BackendUnavailable):
                list(backend.stream(cleared(request_id="r")))
            backend.close()

    def test_many_at_once_from_threads_and_loops(self) -> None:
        async def ask(backend: HttpBackend) -> str:
            return text_of([chunk async for chunk in backend.astream(cleared())])

        async def all_of(backend: HttpBackend) -> list[str]:
            return await asyncio.gather(*[ask(backend) for _ in range(20)])

        with scripted([head(), events(*WHOLE)]) as server:
            backend = opened(server.url)
            for _ in range(2):  # a loop of its own each
                assert asyncio.run(all_of(backend)) == ["one two"] * 20
            assert text_of(list(backend.stream(cleared()))) == "one two"
            backend.close()


TOOL = Tool(name="f", description="does", parameters='{"type": "object", "properties": {"secret": {"type": "string"}}}')


class TestWhatIsSent:
    def test_the_whole_request(self) -> None:
        messages = (
            Message(role="developer", content="Be brief."),
            Message(role="user", content="Hi."),
            Message(role="assistant", tool_calls=(ToolCall(id="call00001", name="f", arguments="{}"),)),
            Message(role="tool", content="done", tool_call_id="call00001"),
        )
        request = cleared(
            messages=messages,
            tools=(TOOL,),
            tool_choice=0,
            parallel_tool_calls=False,
            output_schema='{"type": "object", "properties": {}, "additionalProperties": false}',
            sampling=Sampling(temperature=0.5, seed=3, stop=("END",)),
            max_tokens=9,
        )
        body = json.loads(payload(request, spec()))
        assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
        assert body["messages"][3]["tool_call_id"] == body["messages"][2]["tool_calls"][0]["id"]
        assert body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
        assert body["response_format"]["json_schema"]["strict"] is True
        assert (body["temperature"], body["seed"], body["stop"], body["max_tokens"]) == (0.5, 3, ["END"], 9)
        assert "top_p" not in body

    def test_a_key_from_a_file_or_a_variable_is_sent_and_never_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "key"
        path.write_text("sk-secret\n")
        monkeypatch.setenv("A_KEY", "sk-secret")
        for key, header in ((Secret(file=path), "authorization"), (Secret(env="A_KEY"), "api-key")):
            with scripted([head(), events(*WHOLE)]) as server:
                answer(server.url, api_key=key, key_header=header)
                assert server.headers[0][header].endswith("sk-secret")
        assert "sk-secret" not in repr(opened("http://127.0.0.1:9/v1", api_key=Secret(file=path)))

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            (Secret(env="NO_SUCH_KEY"), "api_key: the environment variable NO_SUCH_KEY is not set"),
            (Secret(env="AN_EMPTY_KEY"), "api_key: the environment variable AN_EMPTY_KEY is empty"),
            (Secret(env="A_CUT_KEY"), "api_key: the environment variable A_CUT_KEY holds a line break"),
            (Secret(file=Path("/no/such")), "api_key: /no/such cannot be read: No such file or directory"),
        ],
    )
    def test_a_key_that_cannot_be_used_is_said(self, key: Secret, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AN_EMPTY_KEY", " ")
        monkeypatch.setenv("A_CUT_KEY", "sk-one\nsk-two")
        with pytest.raises(errors.ConfigError, match=said) as raised:
            opened("http://127.0.0.1:9/v1", api_key=key)
        assert "sk-" not in str(raised.value)

    def test_a_request_that_is_not_cleared_for_the_place_is_not_sent(self) -> None:
        with scripted([head(), events(*WHOLE)]) as server:
            with pytest.raises(errors.PrivacyViolation):
                answer(server.url, cleared(Location.EDGE))
            assert server.bodies == []
            answer(server.url, cleared(Location.EDGE), location=Location.EDGE)

    @settings(max_examples=50, deadline=None)
    @given(st.text(min_size=1), st.text(), st.dictionaries(st.text(), st.text() | st.integers()))
    def test_any_text_passes_the_check_of_the_bytes(self, content: str, result: str, values: dict[str, Any]) -> None:
        messages = (
            Message(role="user", content=content),
            Message(role="assistant", tool_calls=(ToolCall(id="call00001", name="f", arguments=json.dumps(values)),)),
            Message(role="tool", content=result, tool_call_id="call00001"),
        )
        request = cleared(messages=messages, tools=(TOOL,), deadline=A_DAY)
        body = json.loads(payload(request, spec()))
        assert (body["messages"][0]["content"], body["messages"][2]["content"]) == (content, result)

    def test_openai_itself_gets_only_what_it_takes(self) -> None:
        hosted = spec("https://api.openai.com/v1")
        assert "max_completion_tokens" in json.loads(payload(cleared(), hosted))
        with pytest.raises(errors.RequestRejected, match="top_k"):
            payload(cleared(sampling=Sampling(top_k=5)), hosted)
        neutral = Sampling(explicit=("top_k", "repetition_penalty", "temperature"))
        body = json.loads(payload(cleared(sampling=neutral), hosted))
        assert (body["temperature"], "top_k" in body, "repetition_penalty" in body) == (0.0, False, False)

    @pytest.mark.parametrize("base", ["https://api.openai.com/v1", "http://127.0.0.1:9/v1"])
    def test_presence_and_frequency_penalties_are_of_every_server(self, base: str) -> None:
        sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.0, explicit=("frequency_penalty",))
        body = json.loads(payload(cleared(sampling=sampling), spec(base)))
        assert (body["presence_penalty"], body["frequency_penalty"]) == (0.5, 0.0)
        assert opened("http://127.0.0.1:9/v1").capabilities.penalties is True

    @pytest.mark.parametrize("dialect", ["vllm", "sglang", "llama.cpp", "ollama", "other", "openai"])
    def test_a_partial_answer_is_gone_on_with(self, dialect: str) -> None:
        request = cleared(answer_prefix="One, tw")
        messages = json.loads(payload(request, spec(dialect=dialect)))["messages"]
        prefill = dialect in ("vllm", "sglang", "llama.cpp")
        assert messages[-1 if prefill else -2] == {"role": "assistant", "content": "One, tw"}
        assert (messages[-1]["role"] == "user") is not prefill

    @pytest.mark.parametrize(
        ("said", "kept"), [("One, two, three", ", three"), (", three", ", three"), ("two or so", "two or so")]
    )
    def test_a_repetition_at_the_seam_is_cut(self, said: str, kept: str) -> None:
        with scripted([head(), events(delta(content=said), delta("stop"))]) as server:
            assert text_of(answer(server.url, cleared(answer_prefix="I count: One, two"))) == kept

    @pytest.mark.parametrize("dialect", ["vllm", "sglang", "llama.cpp", "ollama", "other", "openai"])
    def test_a_cut_document_is_gone_on_with_where_the_grammar_goes_on_too(self, dialect: str) -> None:
        request = cleared(answer_prefix='{"a', output_schema='{"type": "object"}')
        if dialect == "llama.cpp":
            assert json.loads(payload(request, spec(dialect=dialect)))["messages"][-1]["content"] == '{"a'
        else:
            with pytest.raises(errors.RequestRejected):
                payload(request, spec(dialect=dialect))

    def test_a_cut_call_is_not_gone_on_with(self) -> None:
        with pytest.raises(errors.RequestRejected):
            payload(cleared(tools=(TOOL,), answer_calls=(ToolCall(name="f", arguments='{"a'),)), spec())


class TestSpec:
    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"base_url": "http://api.example.com/v1"}, "in the clear"),
            ({"base_url": "http://localhost:11434/v1"}, "write 127.0.0.1 in place of localhost"),
            ({"base_url": "https://api.example.com/v1", "location": "edge"}, "loopback"),
            ({"base_url": "http://localhost:8000/v1", "location": "edge"}, "loopback"),
            ({"base_url": "http://127.0.0.1:1/v1", "location": "edge", "proxy": "http://127.0.0.1:2"}, "proxy"),
            ({"base_url": "ftp://x/v1"}, "URL"),
            ({"base_url": "http://user:pw@127.0.0.1/v1"}, "URL"),
            ({"base_url": "http://127.0.0.1:99999/v1"}, "base_url"),
            ({"base_url": "http://127.0.0.1/v1/chat/completions"}, "leave out /chat/completions"),
            ({"base_url": "http://127.0.0.1/v1", "dialect": "klingon"}, "dialect"),
            ({"base_url": "http://127.0.0.1/v1", "api_key": {}}, "api_key"),
            ({"base_url": "http://127.0.0.1/v1", "ca": "missing.pem"}, "missing.pem"),
        ],
    )
    def test_what_would_break_a_promise_is_refused(self, tmp_path: Path, fields: dict[str, Any], said: str) -> None:
        path = tmp_path / "hybrid.yaml"
        entry = json.dumps({"kind": "openai", "model": "m", **fields})
        name = "local" if "location" in fields else "cloud"
        path.write_text(f"version: 1\nbackends: {{edge: {{kind: onnx, model: embedded}}, {name}: {entry}}}\n")
        with pytest.raises(errors.ConfigError, match=said):
            HybridLLM.from_config(path).close()

    def test_five_lines_of_yaml(self, tmp_path: Path) -> None:
        path = tmp_path / "hybrid.yaml"
        with scripted([head(), events(*WHOLE)]) as server:
            cloud = f'{{kind: openai, base_url: "{server.url}", model: m, insecure: true}}'
            path.write_text(f"version: 1\nbackends:\n  edge: {{kind: onnx, model: embedded}}\n  cloud: {cloud}\n")
            assert load_config(path).locations["cloud"] is Location.CLOUD
            with HybridLLM.from_config(path) as llm:
                assert llm.generate("Hi.", backends=["cloud"]).text == "one two"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    edge = EdgeBackend(EdgeConfig(model=embedded_model()))
    client = HybridLLM([edge], builtin_policy("balanced", backends={edge.name: edge.location}))
    with served(client) as base:
        yield f"{base}/v1"


class TestBehindOurGateway:
    @pytest.fixture
    def llm(self, url: str) -> Iterator[HybridLLM]:
        cloud = OpenAISpec(name="cloud", base_url=url, model="auto", logprobs=True).open()
        policy = parse_policy("{version: 1, name: p, rules: [{prefer: [cloud]}]}", backends={"cloud": Location.CLOUD})
        with HybridLLM([cloud], policy) as client:
            yield client

    def test_an_answer_a_stream_and_log_probabilities(self, llm: HybridLLM) -> None:
        whole = llm.generate("What is 12 + 30?", max_tokens=8, temperature=0.0, logprobs=2)
        assert (
            "".join(chunk.text for chunk in llm.stream("What is 12 + 30?", max_tokens=8, temperature=0.0)) == whole.text
        )
        assert "".join(entry.token for entry in whole.logprobs) == whole.text != ""
        assert whole.usage.prompt_tokens > 0

    def test_a_schema_and_tools(self, llm: HybridLLM) -> None:
        schema = {"type": "object", "properties": {"x": {"enum": ["a", "b"]}}, "required": ["x"]}
        schema["additionalProperties"] = False
        assert llm.generate("Choose.", output_schema=schema, max_tokens=64).parsed["x"] in ("a", "b")
        tool = Tool(name="choose", parameters=json.dumps(schema))
        reply = llm.generate("Choose.", tools=[tool], tool_choice="required", max_tokens=64)
        assert reply.tool_calls[0].values["x"] in ("a", "b")

    def test_when_it_is_gone_the_device_answers(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        cloud = OpenAISpec(name="cloud", base_url=f"http://127.0.0.1:{port}/v1", model="m").open()
        edge = FakeBackend("edge", Location.EDGE, ["here"])
        rules = "{version: 1, name: p, rules: [{prefer: [cloud, edge]}]}"
        policy = parse_policy(rules, backends={"cloud": Location.CLOUD, "edge": Location.EDGE})
        with HybridLLM([cloud, edge], policy) as llm:
            reply = llm.generate("x")
        assert (reply.text, reply.attempts[0].reason) == ("here", "refused")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_events_are_the_same_however_they_are_cut(noise: bytes, cuts: list[int]) -> None:
    data = events({"a": 1}, newline="\r\n") + noise.replace(b"\n", b"\r\n") + events({"b": "ä"}, newline="\r")
    whole = EventReader()
    expected = [*whole.feed(data), *whole.feed(b"", last=True)]
    pieces, at = EventReader(), 0
    found: list[str] = []
    for cut in [*sorted(cuts), len(data)]:
        found += pieces.feed(data[at:cut])
        at = max(at, cut)
    assert [*found, *pieces.feed(b"", last=True)] == expected


def test_an_event_without_an_end_does_not_fill_the_memory() -> None:
    reader = EventReader()
    with pytest.raises(EventTooLarge):  # noqa: PT012
        for _ in range(200):
            list(reader.feed(b"data: " + b"x" * 100_000 + b"\n"))


@pytest.mark.parametrize("piece", [b"data:\n" * 100, b":" + b"x" * 999 + b"\n\n", b'data: {"choices":[]}\n\n'])
def test_an_answer_has_no_more_bytes_than_its_tokens_take(piece: bytes) -> None:
    reader = EventReader(10)
    with pytest.raises(EventTooLarge):  # noqa: PT012
        for _ in range(20):
            list(reader.feed(piece * ((1 << 20) // len(piece))))


def test_an_answer_that_is_inflated_without_an_end_ends_in_an_error() -> None:
    bomb = gzip.compress((b":" + b"x" * 1022 + b"\n") * (64 << 10))  # 64 MiB
    with scripted([head(content_encoding="gzip"), bomb]) as server:
        with pytest.raises(errors.BackendUnavailable, match="it has no end"):
            answer(server.url)
        (headers,) = server.headers
        assert headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("encoding", "body"), [("br", events(*WHOLE)), ("gzip", events(*WHOLE)), ("gzip, gzip", b"x"), ("deflate", b"x")]
)
def test_an_encoding_that_was_not_asked_for_is_one_typed_error(encoding: str, body: bytes) -> None:
    with scripted([head(content_encoding=encoding), body]) as server, pytest.raises(errors.BackendUnavailable):
        answer(server.url)


def test_a_long_line_in_single_bytes_takes_linear_time() -> None:
    reader, line = EventReader(), b"data: " + b"x" * 300_000 + b"\n\n"
    began = time.process_time()
    found = [event for byte in line for event in reader.feed(bytes([byte]))]
    assert list(map(len, found)) == [300_000]
    assert time.process_time() - began < 5.0  # a copy of the line for each piece takes four times that


@pytest.mark.parametrize("number", ["1e308", "NaN", "-3", "9" * 4000, "2147483648", "true", "1.5", '"7"'])
def test_what_cannot_be_a_count_of_tokens_is_not_counted(number: str) -> None:
    usage = f'{{"choices":[],"usage":{{"prompt_tokens":{number},"completion_tokens":{number}}}}}'
    logprobs = f'{{"choices":[{{"delta":{{"content":"x"}},"logprobs":{{"content":[{{"logprob":{number}}}]}}}}]}}'
    found = ChatAnswer(backend="cloud", prompt_tokens=5)
    chunks = [*found.take(logprobs), *found.take(json.dumps(delta("stop"))), *found.take(usage)]
    last = list(found.end(Timings()))[-1].usage
    assert (last.prompt_tokens, last.completion_tokens) == (5, 0)
    assert chunks[0].logprobs[0].logprob <= 1e308


ODD = st.sampled_from(
    [
        None,
        0,
        -1,
        True,
        "",
        [],
        [1],
        {},
        [{}],
        [{"function": {}}],
        [{"index": [], "function": {"name": 1}}],
        [{"text": [{"text": [{"text": "x"}]}]}],
        {"code": []},
    ]
)
"""What no field should hold."""


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*WHOLE, "[DONE]", delta(tool_calls=[{"function": {"name": "f"}}])]), max_size=6),
    st.dictionaries(st.sampled_from(["content", "tool_calls", "reasoning", "role"]), ODD),
    st.dictionaries(st.sampled_from(["choices", "usage", "error"]), ODD),
)
def test_any_order_of_events_is_an_answer_or_one_typed_error(
    order: list[Any], inner: dict[str, Any], outer: dict[str, Any]
) -> None:
    found = ChatAnswer(backend="cloud", prompt_tokens=1)
    try:
        for event in [*order, delta(**inner), outer, *order]:
            list(found.take(event if isinstance(event, str) else json.dumps(event)))
        assert list(found.end(Timings()))[-1].finish_reason is not None
    except errors.BackendError:
        pass

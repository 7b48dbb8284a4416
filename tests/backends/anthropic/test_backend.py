"""The backend of kind `anthropic` against scripted servers, whose answers Anthropic's own client reads too."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any

import anthropic
import hypothesis.strategies as st
import pytest
from anthropic import types
from hypothesis import given, settings
from pydantic import TypeAdapter

from hybrid_llm import HybridLLM
from hybrid_llm.backends.anthropic.api import Messages
from hybrid_llm.backends.anthropic.decode import REASONS, MessageAnswer
from hybrid_llm.backends.anthropic.encode import payload
from hybrid_llm.backends.anthropic.spec import AnthropicSpec
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.backends.http.api import Reply
from hybrid_llm.backends.http.backend import HttpBackend
from hybrid_llm.backends.http.events import EventReader
from hybrid_llm.backends.http.failures import STATUS_OF, retry_after
from hybrid_llm.core import errors
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.generation import AnswerParts, Chunk, Timings
from hybrid_llm.core.request import Location, Message, Sampling
from hybrid_llm.core.secret import Secret
from hybrid_llm.core.tools import Tool, ToolCall
from hybrid_llm.policies import builtin_policy, parse_policy
from tests.backends.http.server import CUT, Scripted, failed, head, scripted
from tests.backends.openai.test_backend import cleared, text_of
from tests.fakes import A_DAY
from tests.gateway.conftest import served

USAGE = {"input_tokens": 3, "output_tokens": 1, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 5}
START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": USAGE,
    },
}
PING = {"type": "ping"}
STOP = {"type": "message_stop"}


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of one block of the answer."""
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(index: int, *pieces: str) -> list[dict[str, Any]]:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def use(index: int, name: str, *pieces: str) -> list[dict[str, Any]]:
    content = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
    return block(index, content, *({"type": "input_json_delta", "partial_json": piece} for piece in pieces))


def end(reason: str | None = "end_turn", **usage: Any) -> dict[str, Any]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7, **usage}}


def events(*documents: Any, newline: str = "\n") -> bytes:
    """Events with their names, as the API sends them; a text stands as it is."""
    lines = [
        each if isinstance(each, str) else f"event: {each['type']}{newline}data: {json.dumps(each)}{newline}{newline}"
        for each in documents
    ]
    return "".join(lines).encode()


WHOLE = (START, PING, *text(0, "one ", "two"), end(), STOP)


def spec(url: str = "http://127.0.0.1:9", **fields: Any) -> AnthropicSpec:
    return AnthropicSpec(**{"name": "cloud", "base_url": url, "model": "m", **fields})


def root(server: Scripted) -> str:
    return server.url.removesuffix("/v1")


def opened(server: Scripted, **fields: Any) -> HttpBackend:
    return spec(root(server), **fields).open()


def answer(server: Scripted, request: Cleared | None = None, **fields: Any) -> list[Chunk]:
    backend = opened(server, **fields)
    try:
        return list(backend.stream(request or cleared()))
    finally:
        backend.close()


def official(server: Scripted) -> types.Message:
    """The same answer, as Anthropic's client reads it."""
    with anthropic.Anthropic(base_url=root(server), api_key="k", max_retries=0) as client:
        asked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
        with client.messages.stream(**asked) as stream:  # type: ignore[arg-type]
            return stream.get_final_message()


ANSWERS: dict[str, tuple[Any, ...]] = {
    "text": WHOLE,
    "no_ping": (START, *text(0, "one ", "two"), end(), STOP),
    "pings": (START, PING, *text(0, "one "), PING, *text(1, "two"), PING, end(), PING, STOP),
    "unknown_event": (START, {"type": "news", "x": 1}, *text(0, "one ", "two"), end(), STOP),
    "comments": (": hello\n\n", START, *text(0, "one ", "two"), ": ping\n\n", end(), STOP),
    "text_at_start": (START, *block(0, {"type": "text", "text": "one two"}), end(), STOP),
    "thinking": (
        START,
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "hm"},
            {"type": "signature_delta", "signature": "c2ln"},
        ),
        *block(1, {"type": "redacted_thinking", "data": "eA=="}),
        *text(2, "one ", "two"),
        end(output_tokens_details={"thinking_tokens": 4}),
        STOP,
    ),
    "calls": (START, *text(0, "one two"), *use(1, "f", "", '{"x"', ":1}"), *use(2, "g"), end("tool_use"), STOP),
    "whole_call": (
        START,
        *text(0, "one two"),
        *block(1, {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}}),
        *use(2, "g", "{}"),
        end("tool_use"),
        STOP,
    ),
    "usage_at_the_end": (START, *text(0, "one two"), end(input_tokens=4, cache_read_input_tokens=6), STOP),
    "limit": (START, *text(0, "one two"), end("max_tokens"), STOP),
    "window": (START, *text(0, "one two"), end("model_context_window_exceeded"), STOP),
    "stop_sequence": (START, *text(0, "one two"), end("stop_sequence"), STOP),
}


ODD = st.sampled_from(
    [
        *(None, 0, -1, True, "", "tool_use", [], [1], {}, {"type": []}, {"type": "tool_use", "name": 1}),
        *({"type": "input_json_delta", "partial_json": 1}, {"stop_reason": 1}, {"output_tokens": "x"}, {"type": 529}),
    ]
)
"""What no field should hold."""


class TestAnswers:
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    @pytest.mark.parametrize("name", ANSWERS)
    def test_it_reads_what_the_official_client_reads(self, name: str, newline: str) -> None:
        with scripted([head(), events(*ANSWERS[name], newline=newline)]) as server:
            chunks, expected = answer(server), official(server)
        parts = AnswerParts()
        for chunk in chunks:
            parts.add(chunk)
        texts = "".join(each.text for each in expected.content if each.type == "text")
        thoughts = "".join(each.thinking for each in expected.content if each.type == "thinking")
        calls = [(each.id, each.name, each.input) for each in expected.content if each.type == "tool_use"]
        assert (parts.text, parts.reasoning) == (texts, thoughts) == ("one two", thoughts)
        assert [(call.id, call.name, call.values) for call in parts.tool_calls] == calls
        assert expected.stop_reason is not None
        assert chunks[-1].finish_reason is REASONS[expected.stop_reason]
        usage, counted = chunks[-1].usage, expected.usage
        assert usage is not None
        cached = counted.cache_read_input_tokens or 0
        assert usage.prompt_tokens == counted.input_tokens + (counted.cache_creation_input_tokens or 0) + cached
        assert (usage.cached_prompt_tokens, usage.completion_tokens) == (cached, counted.output_tokens)
        details = counted.output_tokens_details
        assert usage.reasoning_tokens == (details.thinking_tokens if details else 0)

    def test_the_table_of_stop_reasons_is_total(self) -> None:
        assert set(REASONS) == set(typing.get_args(types.StopReason))

    def test_the_table_of_errors_is_total(self) -> None:
        assert set(typing.get_args(types.shared.ErrorType)) <= set(STATUS_OF)

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 5000), max_size=12))
    def test_it_is_the_same_however_it_is_cut(self, name: str, cuts: list[int]) -> None:
        data = events(*ANSWERS[name])
        assert read(data, cuts) == read(data, [])

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(st.sampled_from([*WHOLE, *use(1, "f", "{"), end("tool_use"), end("refusal")]), max_size=8),
        st.fixed_dictionaries(
            {"type": st.sampled_from(sorted({each["type"] for each in [*WHOLE, {"type": "error"}]}))}
        ),
        st.dictionaries(st.sampled_from(["index", "delta", "content_block", "usage", "message", "error"]), ODD),
    )
    def test_any_order_of_events_is_an_answer_or_one_typed_error(
        self, order: list[Any], kind: dict[str, str], fields: dict[str, Any]
    ) -> None:
        try:
            chunks = read(events(*order, {**fields, **kind}, *order), [])
        except errors.BackendError:
            return
        assert chunks[-1].finish_reason is not None


def read(data: bytes, cuts: list[int]) -> list[Chunk]:
    reader, found = EventReader(), MessageAnswer(backend="cloud", prompt_tokens=1)
    chunks: list[Chunk] = []
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        for event in reader.feed(data[at:cut], last=cut >= len(data)):
            chunks += found.take(event)
        at = max(at, cut)
    return [*chunks, *found.end(Timings())]


def error(kind: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": "secret-prompt"}, "request_id": "req_1"}


class TestFailures:
    @pytest.mark.parametrize(
        ("script", "expected", "reason"),
        [
            (failed(400, error("invalid_request_error")), errors.RequestRejected, "unsupported"),
            (failed(401, error("authentication_error")), errors.AuthenticationFailed, ""),
            (failed(402, error("billing_error")), errors.QuotaExceeded, ""),
            (failed(403, error("permission_error")), errors.PermissionDenied, ""),
            (failed(404, error("not_found_error")), errors.RequestRejected, "unsupported"),
            (failed(413, error("request_too_large")), errors.RequestRejected, "message_too_large"),
            (failed(429, error("rate_limit_error")), errors.BackendOverloaded, ""),
            (failed(500, error("api_error")), errors.BackendUnavailable, "failed"),
            (failed(504, error("timeout_error")), errors.BackendUnavailable, "failed"),
            (failed(529, error("overloaded_error")), errors.BackendOverloaded, ""),
            (failed(302, {}, location="http://evil.example/"), errors.BackendUnavailable, "failed"),
            ([head(), events(error("overloaded_error"))], errors.BackendOverloaded, ""),
            ([head(), events(START, error("rate_limit_error"))], errors.BackendOverloaded, ""),
            ([head(), events(START, error("news"))], errors.BackendUnavailable, "failed"),
            ([head(), events(START, *text(0, "one "), error("overloaded_error"))], errors.StreamInterrupted, ""),
            ([head(), events(START, *text(0, "one "), end("refusal"), STOP)], errors.RequestRejected, "content_filter"),
            ([head(), events(START, *text(0, "one "), end("pause_turn"), STOP)], errors.StreamInterrupted, ""),
            ([head(), events(START, *text(0, "one "), end("secret-prompt"))], errors.StreamInterrupted, ""),
            ([head(), events(START, *text(0, "one "), end(None), STOP)], errors.StreamInterrupted, ""),
            ([head(), events(START, *text(0, "one "))], errors.StreamInterrupted, ""),
            ([head(), events(START, *text(0, "one ")), CUT], errors.StreamInterrupted, ""),
            ([head(), events(START, STOP)], errors.BackendUnavailable, "disconnected"),
            ([head(), events(START, *use(0, ""))], errors.BackendUnavailable, "disconnected"),
            ([head(), events("data: secret-prompt\n\n")], errors.BackendUnavailable, "disconnected"),
        ],
    )
    def test_each_has_one_typed_error_that_quotes_nothing(
        self, script: list[Any], expected: type[errors.BackendError], reason: str
    ) -> None:
        with scripted(script) as server, pytest.raises(expected) as caught:
            answer(server)
        assert caught.value.reason == reason
        assert "secret-prompt" not in f"{caught.value}{caught.value.__context__}{caught.value.__cause__}"

    def test_the_official_client_sees_the_same_errors(self) -> None:
        kinds = [
            (401, "authentication_error", anthropic.AuthenticationError),
            (529, "overloaded_error", anthropic.APIStatusError),
        ]
        for status, kind, expected in kinds:
            with scripted(failed(status, error(kind))) as server, pytest.raises(expected):
                official(server)

    @pytest.mark.parametrize(
        ("headers", "low", "high"),
        [
            ({"retry-after": "7", "anthropic-ratelimit-requests-remaining": "0"}, 7.0, 7.0),
            (
                {
                    "anthropic-ratelimit-tokens-remaining": "0",
                    "anthropic-ratelimit-tokens-reset": "2999-01-01T00:00:00Z",
                    "anthropic-ratelimit-requests-remaining": "5",
                },
                86_400.0,
                86_400.0,
            ),
            ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m30.5s"}, 90.5, 90.5),
            ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"}, 0.12, 0.12),
        ],
    )
    def test_when_to_ask_again(self, headers: dict[str, str], low: float, high: float) -> None:
        found = retry_after(headers)
        assert found is not None
        assert low <= found <= high

    @pytest.mark.parametrize("reset", ["", "soon", "1x"])
    def test_a_limit_without_a_time_says_nothing(self, reset: str) -> None:
        for header in ("x-ratelimit-{}-tokens", "anthropic-ratelimit-tokens-{}"):
            assert retry_after({header.format("remaining"): "0", header.format("reset"): reset}) is None


def test_two_calls_in_blocks_of_one_number_are_two() -> None:
    parts = AnswerParts()
    for chunk in read(events(START, *use(1, "f", "{}"), *use(1, "g", '{"x":1}'), end("tool_use"), STOP), []):
        parts.add(chunk)
    assert [(call.name, call.arguments) for call in parts.tool_calls] == [("f", "{}"), ("g", '{"x":1}')]


TOOL = Tool(name="f", description="does", parameters='{"properties": {"secret": {"type": "string"}}}')
TURNS = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="Hi."),
    Message(
        role="assistant",
        reasoning="thought",
        tool_calls=(ToolCall(id="a", name="f", arguments='{"k": ["v", 1.5]}'), ToolCall(id="b", name="f")),
    ),
    Message(role="tool", content="done", tool_call_id="a"),
    Message(role="tool", content="", tool_call_id="b"),
    Message(role="developer", content="Be kind."),
    Message(role="user", content="And?"),
)


def body_of(request: Cleared, **fields: Any) -> Any:
    return json.loads(payload(request, spec(**fields)))


class TestWhatIsSent:
    def test_the_whole_request_in_the_words_of_the_official_types(self) -> None:
        request = cleared(
            messages=TURNS,
            tools=(TOOL,),
            tool_choice=0,
            parallel_tool_calls=False,
            output_schema='{"type": "object"}',
            sampling=Sampling(stop=("END",)),
            max_tokens=9,
        )
        body = body_of(request)
        assert set(body) <= set(types.message_create_params.MessageCreateParamsStreaming.__annotations__) | set(
            types.message_create_params.MessageCreateParamsBase.__annotations__
        )
        TypeAdapter(list[types.MessageParam]).validate_python(body["messages"])
        TypeAdapter(list[types.ToolParam]).validate_python(body["tools"])
        assert TypeAdapter(types.ToolChoiceParam).validate_python(body["tool_choice"]) == {
            "type": "tool",
            "name": "f",
            "disable_parallel_tool_use": True,
        }
        TypeAdapter(types.OutputConfigParam).validate_python(body["output_config"])
        assert [each["text"] for each in body["system"]] == ["Be brief.", "Be kind."]
        assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
        uses, results = body["messages"][1]["content"], body["messages"][2]["content"]
        assert [each["id"] for each in uses] == [each["tool_use_id"] for each in results[:2]]
        assert (uses[0]["input"], results[2]) == ({"k": ["v", 1.5]}, {"type": "text", "text": "And?"})
        assert "thought" not in json.dumps(body)
        assert (body["stop_sequences"], body["max_tokens"], body["stream"]) == (["END"], 9, True)

    @pytest.mark.parametrize(("choice", "kind"), [("auto", "auto"), ("none", "none"), ("required", "any")])
    @pytest.mark.parametrize("parallel", [True, False])
    def test_the_choice_of_tools(self, choice: Any, kind: str, parallel: Any) -> None:
        body = body_of(cleared(tools=(TOOL,), tool_choice=choice, parallel_tool_calls=parallel))
        expected = {"type": kind} | ({} if parallel or kind == "none" else {"disable_parallel_tool_use": True})
        assert TypeAdapter(types.ToolChoiceParam).validate_python(body["tool_choice"]) == expected
        assert body["tools"][0]["input_schema"]["type"] == "object"

    def test_headers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("A_KEY", "sk-secret")
        for key_header, name in (("x-api-key", "x-api-key"), ("authorization", "authorization")):
            with scripted([head(), events(*WHOLE)]) as server:
                answer(server, api_key=Secret(env="A_KEY"), key_header=key_header)
                assert server.headers[0][name].endswith("sk-secret")
                assert server.headers[0]["anthropic-version"] == "2023-06-01"

    @pytest.mark.parametrize(
        "name",
        [
            *("seed", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
            *("temperature", "top_p", "top_k"),
        ],
    )
    def test_sampling_that_the_model_does_not_take_is_refused_by_its_name(self, name: str) -> None:
        values = {"seed": 1, "min_p": 0.1, "repetition_penalty": 1.1, "temperature": 0.5, "top_p": 0.5, "top_k": 3}
        values |= {"presence_penalty": 0.5, "frequency_penalty": -0.5}
        request = cleared(sampling=Sampling(**{name: values[name]}))
        with scripted([head(), events(*WHOLE)]) as server:
            with pytest.raises(errors.RequestRejected, match=name) as caught:
                answer(server, request, model="claude-opus-5")
            assert (caught.value.reason, server.bodies) == ("unsupported", [])
        if name in ("temperature", "top_p", "top_k"):
            assert body_of(request, model="claude-opus-5", sampling=True)[name] == values[name]
            assert body_of(request, model="claude-sonnet-4-5")[name] == values[name]

    def test_values_that_ask_for_nothing_are_taken_and_not_sent(self) -> None:
        names = ("min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "top_p", "top_k")
        body = body_of(cleared(sampling=Sampling(explicit=names)), model="claude-opus-5")
        assert not set(names) & body.keys()

    def test_a_temperature_of_zero_that_was_named_counts(self) -> None:
        request = cleared(sampling=Sampling(temperature=0.0, explicit=("temperature",)))
        with pytest.raises(errors.RequestRejected, match="temperature"):
            body_of(request, model="claude-opus-5")

    @settings(max_examples=50, deadline=None)
    @given(st.text(min_size=1), st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())))
    def test_any_text_passes_the_check_of_the_bytes(self, content: str, result: str, values: dict[str, Any]) -> None:
        messages = (
            Message(role="user", content=f"x{content}"),
            Message(role="assistant", tool_calls=(ToolCall(id="c", name="f", arguments=json.dumps(values)),)),
            Message(role="tool", content=result, tool_call_id="c"),
        )
        body = body_of(cleared(messages=messages, tools=(TOOL,), deadline=A_DAY))
        assert body["messages"][0]["content"][0]["text"] == f"x{content}"
        assert body["messages"][1]["content"][0]["input"] == values
        assert body["messages"][2]["content"][0]["content"] == result

    def test_a_request_that_is_not_cleared_for_the_place_is_not_sent(self) -> None:
        with scripted([head(), events(*WHOLE)]) as server:
            with pytest.raises(errors.PrivacyViolation):
                answer(server, cleared(Location.EDGE))
            assert server.bodies == []
            assert text_of(answer(server, cleared(Location.EDGE), location=Location.EDGE)) == "one two"

    @pytest.mark.parametrize(
        "fields",
        [
            {"messages": (Message(role="user", content=" "),)},
            {"messages": (Message(role="user", content="x"), Message(role="tool", content="y", tool_call_id="?"))},
            {"answer_calls": (ToolCall(name="f", arguments='{"a'),)},
            {"answer_reasoning": "hm"},
            {"answer_prefix": "{", "output_schema": "{}"},
        ],
    )
    def test_what_the_api_has_no_form_for_is_refused(self, fields: dict[str, Any]) -> None:
        with pytest.raises(errors.RequestRejected) as caught:
            body_of(cleared(**fields))
        assert caught.value.reason == "unsupported"


class TestContinuation:
    @pytest.mark.parametrize(
        ("model", "continues"),
        [
            ("claude-2.1", True),
            ("claude-3-5-sonnet-20241022", True),
            ("claude-opus-4-20250514", True),
            ("claude-haiku-4-5-20251001", True),
            ("anthropic.claude-sonnet-4-5-20250929-v1:0", True),
            ("claude-sonnet-4-6", False),
            ("claude-opus-5", False),
            ("claude-fable-5-2", False),
            ("claude-mythos-preview", False),
            ("qwen3", False),
        ],
    )
    def test_by_prefill_where_the_model_takes_it(self, model: str, continues: object) -> None:
        request = cleared(answer_prefix="One, tw")
        turns = body_of(request, model=model)["messages"]
        assert turns[-1 if continues else -2] == {"role": "assistant", "content": [{"type": "text", "text": "One, tw"}]}
        assert (turns[-1]["role"] == "user") is not continues
        for prefill in (True, False):
            last = body_of(request, model=model, prefill=prefill)["messages"][-1]
            assert (last["role"] == "assistant") is prefill

    def test_a_space_at_the_end_is_no_prefill(self) -> None:
        turns = body_of(cleared(answer_prefix="One, "), prefill=True)["messages"]
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]

    def test_a_partial_answer_of_blanks_is_begun_anew(self) -> None:
        assert [turn["role"] for turn in body_of(cleared(answer_prefix="\n"))["messages"]] == ["user"]

    @pytest.mark.parametrize("pieces", [("One, two, three",), ("One", ", two", ", three"), (", two", ", three")])
    def test_a_repetition_at_the_seam_is_cut(self, pieces: tuple[str, ...]) -> None:
        with scripted([head(), events(START, *text(0, *pieces), end(), STOP)]) as server:
            assert text_of(answer(server, cleared(answer_prefix="I count: One, two"))) == ", three"


class TestWhatTheServerReports:
    MODEL: typing.ClassVar[dict[str, Any]] = {
        "id": "m",
        "type": "model",
        "display_name": "M",
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": 200_000,
        "capabilities": {"structured_outputs": {"supported": False}},
    }

    def test_window_and_schema_of_a_model_in_the_official_form(self) -> None:
        with scripted([head(), events(*WHOLE)]) as server:
            server.described = {"/v1/models/m": self.MODEL}
            with anthropic.Anthropic(base_url=root(server), api_key="k") as client:
                assert client.models.retrieve("m").max_input_tokens == 200_000
            backend = opened(server)
            known, can = backend.probe(), backend.capabilities
            backend.close()
        assert (known.lists_model, can.context_window, can.output_schema, can.tools) == (True, 200_000, False, True)

    def test_a_model_that_the_server_does_not_have(self) -> None:
        missing = Reply(status=404, headers={}, document=error("not_found_error"))
        other = Reply(status=404, headers={}, document={"detail": "Not Found"})
        hosted, local = (Messages(spec(url)) for url in ("https://api.anthropic.com", "http://127.0.0.1:9"))
        assert hosted.describe(missing, pytest.fail).lacks_model
        assert local.describe(missing, pytest.fail).lists_model is False
        assert not local.describe(missing, pytest.fail).lacks_model
        assert hosted.describe(other, pytest.fail).lists_model is None


class TestBehindOurGateway:
    @pytest.fixture(scope="class")
    def url(self) -> Iterator[str]:
        edge = EdgeBackend(EdgeConfig(model=embedded_model()))
        client = HybridLLM([edge], builtin_policy("balanced", backends={edge.name: edge.location}))
        with served(client) as base:
            yield base

    @pytest.fixture
    def llm(self, url: str) -> Iterator[HybridLLM]:
        cloud = spec(url, model="auto").open()
        policy = parse_policy("{version: 1, name: p, rules: [{prefer: [cloud]}]}", backends={"cloud": Location.CLOUD})
        with HybridLLM([cloud], policy) as client:
            yield client

    def test_an_answer_and_a_stream(self, llm: HybridLLM) -> None:
        whole = llm.generate("What is 12 + 30?", max_tokens=8, temperature=0.0)
        streamed = [chunk.text for chunk in llm.stream("What is 12 + 30?", max_tokens=8, temperature=0.0)]
        assert "".join(streamed) == whole.text != ""
        assert whole.usage.prompt_tokens > 0

    def test_a_schema_tools_and_their_results(self, llm: HybridLLM) -> None:
        schema = {"type": "object", "properties": {"x": {"enum": ["a", "b"]}}, "required": ["x"]}
        schema["additionalProperties"] = False
        parsed: Any = llm.generate("Choose.", output_schema=schema, max_tokens=64).parsed
        assert parsed["x"] in ("a", "b")
        tool = Tool(name="choose", parameters=json.dumps(schema))
        asked = Message(role="user", content="Choose.")
        reply = llm.generate([asked], tools=[tool], tool_choice="required", max_tokens=64)
        assert reply.tool_calls[0].values["x"] in ("a", "b")
        result = Message(role="tool", content="done", tool_call_id=reply.tool_calls[0].id)
        assert llm.generate([asked, reply.as_message(), result], tools=[tool], max_tokens=8).usage.prompt_tokens > 0

    def test_a_model_that_it_does_not_have_is_reported(self, url: str) -> None:
        backend = spec(url, model="nope").open()
        assert backend.probe().lists_model is not True
        backend.close()

"""Guardrails judge what requests ask and what answers say; not one character of what they refuse reaches the app."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from hybrid_llm import (
    Chunk,
    ConfigError,
    ContentRefused,
    FinishReason,
    HybridLLM,
    HybridLLMError,
    MemoryCache,
    Verdict,
)
from hybrid_llm.core.errors import DeadlineExceeded, StreamInterrupted
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.protocols import ALLOW, Capabilities, Direction
from hybrid_llm.core.request import Location, Message
from hybrid_llm.core.tools import Tool, ToolCallDelta
from hybrid_llm.guardrails import Denylist, GuardrailRule
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend, FakeGuardrail

POLICY = """
version: 1
name: guardrails
tags:
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
  public: {allow: [edge, cloud]}
rules:
  - prefer: [edge, cloud]
resilience: {retries: 2, continue_streams: true}
"""
LONG = "an answer that is long enough for its beginning to be released before its end is judged, "


@contextmanager
def client(*backends: FakeBackend, policy: str = POLICY, **options: Any) -> Iterator[HybridLLM]:
    """A client of *backends* with guardrails."""
    parsed = parse_policy(policy, backends={backend.name: backend.location for backend in backends})
    with HybridLLM(list(backends), parsed, sensors=FixedSensors(), **options) as llm:
        yield llm


def released(stream: Iterable[Chunk]) -> tuple[list[str], ContentRefused | None]:
    """The texts that *stream* releases, and the refusal that ends it."""
    got: list[str] = []
    try:
        for chunk in stream:
            got.append(chunk.text)  # what was released before a refusal is kept
    except ContentRefused as refusal:
        return got, refusal
    return got, None


def edge(*scripts: Sequence[str | Exception]) -> FakeBackend:
    return FakeBackend("edge", Location.EDGE, *scripts)


class ChunkBackend(FakeBackend):
    """Yields *chunks* as they are."""

    def __init__(self, *chunks: Chunk) -> None:
        super().__init__("edge", Location.EDGE)
        self._chunks = chunks
        self.capabilities = Capabilities(model="fake", context_window=1000, tools=True, logprobs=True)

    def stream(self, cleared):
        self.requests.append(cleared.request)
        yield from self._chunks


class TestRequests:
    """A request is judged before any backend is called."""

    def test_a_refused_request_reaches_no_backend_and_is_one_typed_error_without_its_text(self):
        events: list[Any] = []
        backend = edge(["ok"])
        with client(backend, guardrails=[FakeGuardrail()], hooks=[events.append]) as llm:
            with pytest.raises(ContentRefused) as refused:
                llm.generate("say the forbidden word")
            assert llm.generate("say a word").text == "ok"
        error = refused.value
        assert (error.direction, error.category, error.reason, error.guardrail) == ("input", "word", "said", "fake")
        assert "forbidden" not in str(error)
        assert len(backend.requests) == 1
        assert [event.error for event in events] == ["ContentRefused", ""]

    @pytest.mark.parametrize(
        ("role", "refused"), [("user", True), ("tool", True), ("system", False), ("assistant", False)]
    )
    def test_users_and_tools_are_judged_but_not_instructions_and_earlier_answers(self, role, refused):
        message = Message(role=role, content="forbidden", tool_call_id="1" if role == "tool" else "")
        guardrail = FakeGuardrail()
        prompt = [Message(role="user", content="hi"), message, Message(role="user", content="go on")]
        if role == "tool":
            call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            prompt[1:1] = [{"role": "assistant", "content": "", "tool_calls": [call]}]
        with client(edge(["ok"]), guardrails=[GuardrailRule(guardrail=guardrail, where=frozenset({"input"}))]) as llm:
            if refused:
                with pytest.raises(ContentRefused):
                    llm.generate(prompt)
            else:
                assert llm.generate(prompt).text == "ok"

    def test_a_rule_for_requests_does_not_judge_answers(self):
        rule = GuardrailRule(guardrail=FakeGuardrail(), where=frozenset({Direction.INPUT}))
        with client(edge(["forbidden"]), guardrails=[rule]) as llm:
            assert llm.generate("hi").text == "forbidden"

    def test_a_rule_for_answers_does_not_judge_requests(self):
        rule = GuardrailRule(guardrail=FakeGuardrail(), where=frozenset({Direction.OUTPUT}))
        with client(edge(["ok"]), guardrails=[rule]) as llm:
            assert llm.generate("forbidden").text == "ok"

    def test_texts_are_judged_as_the_app_wrote_them_where_the_cloud_gets_pseudonyms(self):
        guardrail = FakeGuardrail("ann@example.org")
        cloud = FakeBackend("cloud", Location.CLOUD, ["ok"])
        with client(cloud, guardrails=[guardrail]) as llm, pytest.raises(ContentRefused):
            llm.generate("write to ann@example.org")


class TestAnswers:
    """An answer is judged as it arrives."""

    def test_nothing_of_a_refused_passage_is_released_and_the_backend_stops_at_once(self):
        backend = edge([LONG, "a for", "bid", "den word, ", "never read"])
        with client(backend, guardrails=[FakeGuardrail()]) as llm:
            stream = llm.stream("hi")
            got, refusal = released(stream)
            with pytest.raises(HybridLLMError, match="not complete"):
                _ = stream.generation
        assert refusal is not None
        assert (refusal.direction, refusal.category) == ("output", "word")
        assert "".join(got)
        assert (LONG + "a ").startswith("".join(got))
        assert backend.abandoned == 1
        assert len(backend.requests) == 1, "a refusal is not retried"

    def test_no_other_backend_is_asked_and_no_health_is_lost(self):
        first, second = edge(["forbidden"]), FakeBackend("cloud", Location.CLOUD, ["ok"])
        with client(first, second, guardrails=[FakeGuardrail()]) as llm:
            for _ in range(9):
                with pytest.raises(ContentRefused):
                    llm.generate("hi")
            assert (len(first.requests), len(second.requests)) == (9, 0)

    @pytest.mark.parametrize("turned", [False, True])
    def test_the_longest_window_of_several_guardrails_counts(self, turned):
        phrase = "a phrase of many words that one of the two refuses as a whole"
        guardrails = [FakeGuardrail("x!"), FakeGuardrail(phrase)]
        script = [f"{word} " for word in f"{LONG}{phrase} and more".split()]
        with client(edge(script), guardrails=guardrails[::-1] if turned else guardrails) as llm:
            got, refusal = released(llm.stream("hi"))
        assert refusal is not None
        assert LONG.startswith("".join(got))

    def test_an_allowed_answer_is_whole(self):
        words = [f"{word} " for word in (LONG * 5).split()]
        with client(edge(words), guardrails=[FakeGuardrail()]) as llm:
            assert llm.generate("hi").text == "".join(words)
            assert [chunk.finish_reason for chunk in llm.stream("hi")][-1] is FinishReason.STOP

    @pytest.mark.parametrize("script", [["forbidden"], [LONG, "a forbidden"], [LONG, "a for", "bidden"]])
    def test_no_chunk_ends_an_answer_whose_last_words_are_refused(self, script):
        reasons: list[FinishReason | None] = []
        with client(edge(script), guardrails=[FakeGuardrail()]) as llm, suppress(ContentRefused):
            for chunk in llm.stream("hi"):
                reasons.append(chunk.finish_reason)  # what was released before a refusal is kept
        assert set(reasons) <= {None}

    def test_a_word_across_a_continuation_is_refused(self):
        broken = StreamInterrupted("cut", backend="edge", received_tokens=1)
        first, second = edge([LONG, "for", broken]), FakeBackend("cloud", Location.CLOUD, ["bidden, and more"])
        with client(first, second, guardrails=[FakeGuardrail()]) as llm:
            got, refusal = released(llm.stream("hi"))
        assert refusal is not None
        assert len(second.requests) == 1
        assert LONG.startswith("".join(got))

    def test_values_are_judged_as_they_are_restored_on_the_device(self):
        class Echo(FakeBackend):
            def stream(self, cleared):
                words = cleared.request.messages[-1].content.split()
                yield from (Chunk(text=f"{word} ") for word in words)
                yield Chunk(tokens=0, finish_reason=FinishReason.STOP)

        rule = GuardrailRule(guardrail=FakeGuardrail("ann@example.org"), where=frozenset({Direction.OUTPUT}))
        with client(Echo("cloud", Location.CLOUD), guardrails=[rule]) as llm, pytest.raises(ContentRefused):
            llm.generate("write to ann@example.org today")

    @pytest.mark.parametrize("part", ["text", "reasoning", "arguments", "json"])
    def test_every_part_of_an_answer_is_judged(self, part):
        tool = Tool(name="f", parameters='{"type": "object"}')
        escaped = json.dumps({"a": "forbidden"}).replace("forbidden", "\\u0066orbidden")
        chunks = {
            "text": Chunk(text="forbidden"),
            "reasoning": Chunk(reasoning="forbidden"),
            "arguments": Chunk(tool_calls=(ToolCallDelta(index=0, name="f", arguments=escaped),)),
            "json": Chunk(text=escaped),
        }
        last = Chunk(tokens=0, finish_reason=FinishReason.TOOL_CALLS if part == "arguments" else FinishReason.STOP)
        backend = ChunkBackend(chunks[part], last)
        with client(backend, guardrails=[Denylist(["forbidden"])]) as llm, pytest.raises(ContentRefused):
            llm.generate("hi", tools=[tool])

    def test_parts_arrive_in_their_order_and_whole(self):
        arguments = json.dumps({"a": LONG})
        chunks = [
            Chunk(reasoning=LONG),
            Chunk(reasoning="so", text="I call "),
            Chunk(text="two tools"),
            Chunk(tool_calls=(ToolCallDelta(index=0, name="f", arguments=arguments[:9]),)),
            Chunk(tool_calls=(ToolCallDelta(index=0, arguments=arguments[9:]),)),
            Chunk(tool_calls=(ToolCallDelta(index=1, name="f", arguments="{}"),)),
            Chunk(tokens=0, finish_reason=FinishReason.TOOL_CALLS),
        ]
        tool = Tool(name="f", parameters='{"type": "object"}')
        with client(ChunkBackend(*chunks), guardrails=[FakeGuardrail()]) as llm:
            stream, order = llm.stream("hi", tools=[tool]), []
            for chunk in stream:
                parts = ["reasoning"] * bool(chunk.reasoning) + ["text"] * bool(chunk.text)
                for name in [*parts, *(f"call {delta.index}" for delta in chunk.tool_calls)]:
                    order += [name] if order[-1:] != [name] else []
            whole = stream.generation
        assert order == ["reasoning", "text", "call 0", "call 1"]
        assert (whole.reasoning, whole.text) == (f"{LONG}so", "I call two tools")
        assert [call.arguments for call in whole.tool_calls] == [arguments, "{}"]

    def test_what_precedes_another_part_is_read_before_it(self):
        last = Chunk(tokens=0, finish_reason=FinishReason.STOP)
        backend = ChunkBackend(Chunk(text="first, "), Chunk(reasoning=LONG), Chunk(text="last"), last)
        read = ""
        with client(backend, guardrails=[FakeGuardrail()]) as llm:
            for chunk in llm.stream("hi"):
                read += chunk.reasoning + chunk.text
        assert read == f"first, {LONG}last"

    def test_a_word_on_both_sides_of_another_part_is_refused(self):
        last = Chunk(finish_reason=FinishReason.STOP)
        backend = ChunkBackend(Chunk(text="for"), Chunk(reasoning="hm"), Chunk(text="bidden"), last)
        with client(backend, guardrails=[FakeGuardrail()]) as llm:
            got, refusal = released(llm.stream("hi"))
        assert refusal is not None
        assert "".join(got) == "for"

    def test_tokens_are_released_with_their_text(self):
        words = [f"{word} " for word in LONG.split()]
        chunks = [Chunk(text=w, logprobs=(TokenLogprob(token=w, logprob=-1.0, bytes=w.encode()),)) for w in words]
        backend = ChunkBackend(*chunks, Chunk(tokens=0, finish_reason=FinishReason.STOP))
        with client(backend, guardrails=[FakeGuardrail()]) as llm:
            for chunk in llm.stream("hi", logprobs=0):
                assert "".join(each.token for each in chunk.logprobs) == chunk.text
            whole = llm.generate("hi", logprobs=0)
        assert whole.text == "".join(words) == "".join(each.token for each in whole.logprobs)

    def test_no_token_of_a_refused_word_is_released(self):
        pieces = [*(f"{word} " for word in LONG.split()), "for", "bid", "den", " it is"]
        chunks = [Chunk(text=p, logprobs=(TokenLogprob(token=p, logprob=-1.0, bytes=p.encode()),)) for p in pieces]
        tokens = []
        with client(ChunkBackend(*chunks), guardrails=[FakeGuardrail()]) as llm:
            stream = llm.stream("hi", logprobs=0)
            with suppress(ContentRefused):
                for chunk in stream:
                    tokens += [each.token for each in chunk.logprobs]
        assert tokens
        assert "for" not in tokens


class TestCaches:
    """A refused answer is not cached, and a cached one is judged again."""

    def test_a_refused_answer_is_asked_for_again(self):
        backend = edge(["forbidden"])
        rule = GuardrailRule(guardrail=FakeGuardrail(), where=frozenset({Direction.OUTPUT}))
        with client(backend, guardrails=[rule], cache=MemoryCache()) as llm:
            for _ in range(2):
                with pytest.raises(ContentRefused):
                    llm.generate("hi", privacy={"public"})
        assert len(backend.requests) == 2

    def test_a_cached_answer_is_judged_by_the_guardrails_of_today(self):
        cache = MemoryCache()
        policy = parse_policy(POLICY, backends={"edge": Location.EDGE})
        guardrail = Changing()
        with HybridLLM([edge(["a word"])], policy, sensors=FixedSensors(), guardrails=[guardrail], cache=cache) as llm:
            assert llm.generate("hi", privacy={"public"}).text == "a word"
            assert llm.generate("hi", privacy={"public"}).cached
            guardrail.refuses = "a word"
            with pytest.raises(ContentRefused):
                llm.generate("hi", privacy={"public"})


class Changing:
    """Refuses what it is told to."""

    name, window, quick, refuses = "changing", 20, True, "nothing"

    def check(self, text, direction, metadata):
        return Verdict.refuse("word") if self.refuses in text else ALLOW


class Faulty:
    """Raises, or returns what is no verdict."""

    name, window, quick = "faulty", 20, True

    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome

    def check(self, text, direction, metadata):
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome


class TestFaults:
    """What a guardrail fails to judge is refused, unless its rule allows it; its error shows nothing of the text."""

    OUTCOMES = (ValueError("the secret text"), None, True, "refuse", TimeoutError("the secret text"))

    @pytest.mark.parametrize("outcome", OUTCOMES)
    @pytest.mark.parametrize("quick", [True, False])
    def test_it_is_refused(self, outcome, quick, caplog):
        guardrail = Faulty(outcome)
        guardrail.quick = quick
        caplog.set_level(logging.WARNING, "hybrid_llm")
        backend = edge(["ok"])
        with client(backend, guardrails=[guardrail]) as llm, pytest.raises(ContentRefused) as refused:
            llm.generate("hi")
        assert (refused.value.category, refused.value.reason) == ("unjudged", "failed")
        assert not backend.requests
        assert "secret" not in caplog.text + repr(refused.value) + repr(refused.value.__context__)

    @pytest.mark.parametrize("outcome", OUTCOMES)
    def test_it_is_allowed_where_the_rule_says_so(self, outcome):
        with client(edge(["ok"]), guardrails=[GuardrailRule(guardrail=Faulty(outcome), on_error="allow")]) as llm:
            assert llm.generate("hi").text == "ok"

    def test_a_category_is_a_code(self):
        for wrong in ("The secret text", "a b", "é", "x" * 65):
            with pytest.raises(ValueError, match="code"):
                Verdict.refuse(wrong)
        with pytest.raises(ValueError, match="category"):
            Verdict(reason="said")

    @pytest.mark.parametrize(
        ("attributes", "words"),
        [({"window": 0}, "window"), ({"window": "x"}, "window"), ({"name": 3}, "name"), ({"check": None}, "check")],
    )
    def test_what_is_no_guardrail_is_rejected_at_once(self, attributes, words):
        guardrail = FakeGuardrail()
        vars(guardrail).update(attributes)
        with pytest.raises(ConfigError, match=words):
            client(edge(), guardrails=[guardrail]).__enter__()


class Slow:
    """Takes its time, and notes where it runs."""

    name, window = "slow", 20

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.threads: set[int] = set()

    def check(self, text, direction, metadata):
        self.threads.add(threading.get_ident())
        time.sleep(self._seconds)
        return ALLOW


class TestSlow:
    """A guardrail that takes long blocks no event loop, and no request beyond its deadline."""

    @pytest.mark.parametrize("direction", list(Direction))
    def test_the_deadline_holds(self, direction):
        rule = GuardrailRule(guardrail=Slow(3.0), where=frozenset({direction}))
        with client(edge(["ok"]), guardrails=[rule]) as llm:
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                llm.generate("hi", deadline=0.2)
            with pytest.raises(DeadlineExceeded):
                asyncio.run(llm.agenerate("hi", deadline=0.2))
            assert time.monotonic() - began < 2.5

    def test_the_event_loop_runs_on(self):
        slow = Slow(0.1)

        async def ticks() -> int:
            count = 0
            async with client_of(slow) as llm:
                await llm.agenerate("warm up")
                task = asyncio.create_task(llm.agenerate("hi"))
                while not task.done():
                    await asyncio.sleep(0.005)
                    count += 1
                assert (await task).text == "ok"
            return count

        def client_of(guardrail):
            policy = parse_policy(POLICY, backends={"edge": Location.EDGE})
            return HybridLLM([edge(["ok"])], policy, sensors=FixedSensors(), guardrails=[guardrail])

        assert asyncio.run(ticks()) >= 10
        assert threading.get_ident() not in slow.threads


def test_sync_and_async_release_the_same():
    words = [f"{word} " for word in (LONG * 3).split()]

    async def collected(llm: HybridLLM) -> tuple[list[str], bool]:
        got: list[str] = []
        try:
            async for chunk in llm.astream("hi"):
                got.append(chunk.text)  # what was released before a refusal is kept
        except ContentRefused:
            return got, True
        return got, False

    for script in (words, [*words, "forbidden"]):
        for quick in (True, False):
            with client(edge(script), guardrails=[FakeGuardrail(quick=quick)]) as llm:
                got, refusal = released(llm.stream("hi"))
                assert asyncio.run(collected(llm)) == (got, refusal is not None)


@pytest.mark.parametrize(("prompt", "answer"), [("the forbidden prompt", "ok"), ("hi", "the forbidden answer")])
def test_a_refusal_keeps_no_text_in_the_frames_of_its_traceback(prompt, answer):
    with client(edge([answer]), guardrails=[FakeGuardrail()]) as llm, pytest.raises(ContentRefused) as refused:
        llm.generate(prompt)
    frames = [frame for frame, _ in traceback.walk_tb(refused.value.__traceback__)][1:]
    assert [frame.f_code.co_name for frame in frames if "forbidden" in repr(frame.f_locals)] == []

"""Identical requests in flight share one call: threads and tasks together, and nobody waits for one that is gone."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendUnavailable,
    DeadlineExceeded,
    HybridLLMError,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.caching.flights import PATIENCE_S, Overlap
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

POLICY = """\
version: 1
name: test
tags:
  phi:      {allow: [edge]}
  other:    {allow: [edge]}
  fleeting: {allow: [edge], cache: []}
objectives: {deadline: 8s}
rules:
  - prefer: [edge]
    because: there is no other
resilience: {retries: 0}
"""
WORDS = ("one ", "two ", "three")
WHOLE = "".join(WORDS)


class Gated(FakeBackend):
    """Gives a chunk for each permit; a call that is *broken* fails where it stands. Each call has its number."""

    def __init__(self, words: Callable[[int], tuple[str, ...]] = lambda _: WORDS) -> None:
        super().__init__("edge", Location.EDGE)
        self._words = words
        self.permits = threading.Semaphore(0)
        self.broken: set[int] = set()
        self.ended: list[int] = []

    def _begin(self, cleared: Cleared) -> int:
        self.requests.append(require_clearance(cleared, self.location))
        return len(self.requests) - 1

    def _passes(self, call: int, timeout: float = 0.0) -> bool:
        if self.requests[call].remaining() <= 0.0:
            raise self.requests[call].late("edge")
        if call in self.broken:
            raise BackendUnavailable("broken", backend="edge")
        return self.permits.acquire(timeout=timeout) if timeout else self.permits.acquire(blocking=False)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        call = self._begin(cleared)
        try:
            for word in self._words(call):
                while not self._passes(call, 0.005):
                    pass
                yield Chunk(text=word)
            yield _last(self._words(call))
        finally:
            self.ended.append(call)

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        call = self._begin(cleared)
        try:
            for word in self._words(call):
                while not self._passes(call):
                    await asyncio.sleep(0.002)
                yield Chunk(text=word)
            yield _last(self._words(call))
        finally:
            self.ended.append(call)

    def open(self, chunks: int = 100_000) -> None:
        """Let *chunks* pass."""
        self.permits.release(chunks)


def _last(words: tuple[str, ...]) -> Chunk:
    usage = Usage(prompt_tokens=5, completion_tokens=len(words))
    return Chunk(tokens=0, finish_reason=FinishReason.STOP, usage=usage)


@pytest.fixture
def backend() -> Gated:
    return Gated()


@pytest.fixture
def llm(backend):
    with client(backend) as opened:
        yield opened
        backend.open()


def client(backend: FakeBackend, policy: str = POLICY, **options) -> HybridLLM:
    parsed = parse_policy(policy, backends={"edge": Location.EDGE})
    return HybridLLM([backend], parsed, sensors=FixedSensors(), cache=MemoryCache(), **options)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def joined(llm: HybridLLM, backend: Gated, pool: ThreadPoolExecutor, count: int, **options) -> list:
    """*count* threads that ask the same, once the first of them has called the backend."""
    first = pool.submit(llm.generate, "hello", **options)
    eventually(lambda: len(backend.requests) == 1)
    return [first, *(pool.submit(llm.generate, "hello", **options) for _ in range(count - 1))]


def test_threads_that_ask_the_same_call_the_backend_once(llm, backend):
    with ThreadPoolExecutor(8) as pool:
        asked = joined(llm, backend, pool, 8)
        time.sleep(0.05)
        backend.open()
        replies = [each.result(10) for each in asked]
    assert [reply.text for reply in replies] == [WHOLE] * 8
    assert len(backend.requests) == 1
    assert sorted(reply.cached for reply in replies) == [False, *[True] * 7]
    assert {reply.usage.completion_tokens for reply in replies} == {3}
    assert len({reply.request_id for reply in replies}) == 8
    assert [reply.attempts for reply in replies if reply.cached] == [()] * 7
    saved = llm._pipeline.status().cache
    assert (saved.hits, saved.joined, saved.misses) == (0, 7, 8)
    assert (saved.prompt_tokens, saved.completion_tokens) == (35, 21)
    assert saved.hit_ratio == 7 / 8


def test_many_threads_and_tasks_at_once_call_the_backend_once_for_each_question(llm, backend):
    backend.open()

    async def tasks() -> list:
        return await asyncio.gather(*(llm.agenerate(f"question {number % 4}") for number in range(40)))

    with ThreadPoolExecutor(12) as pool:
        threads = [pool.submit(llm.generate, f"question {number % 4}") for number in range(80)]
        loop = pool.submit(lambda: asyncio.run(tasks()))
        replies = [*(each.result(20) for each in threads), *loop.result(20)]
    assert {reply.text for reply in replies} == {WHOLE}
    assert len(backend.requests) == 4
    assert sum(not reply.cached for reply in replies) == 4


@pytest.mark.parametrize("leading", ["thread", "task"])
def test_threads_and_tasks_get_the_chunks_of_each_other_as_they_come(llm, backend, leading):
    seen: dict[str, list[str]] = {"thread": [], "task": []}

    def thread() -> None:
        seen["thread"].extend(chunk.text for chunk in llm.stream("hello"))

    async def task() -> None:
        async for chunk in llm.astream("hello"):
            seen["task"].append(chunk.text)

    work = {"thread": thread, "task": lambda: asyncio.run(task())}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(work.pop(leading))
        eventually(lambda: len(backend.requests) == 1)
        (other,) = work.values()
        second = pool.submit(other)
        for count in (1, 2, 3):
            backend.open(1)
            eventually(lambda count=count: all(len([w for w in each if w]) >= count for each in seen.values()))
        first.result(10), second.result(10)
    assert ["".join(each) for each in seen.values()] == [WHOLE, WHOLE]
    assert len(backend.requests) == 1


def test_one_that_comes_in_the_middle_gets_the_chunks_from_the_beginning(llm, backend):
    seen: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: seen.extend(chunk.text for chunk in llm.stream("hello")))
        backend.open(2)
        eventually(lambda: len(seen) == 2)
        stream = llm.stream("hello")
        assert [next(stream).text, next(stream).text] == list(WORDS[:2])
        backend.open()
        assert stream.collect().text == WHOLE
        first.result(10)
    assert len(backend.requests) == 1


OTHERS = [
    {"tenant": "a"}, {"tenant": "b"}, {"privacy": {"phi"}}, {"privacy": {"phi", "other"}}, {"max_tokens": 7},
    {"stop": "x"}, {"task": "summarise"}, {"temperature": 0.0}, {"output_schema": {"type": "string"}},
]  # fmt: skip


def test_no_request_gets_the_answer_of_another_tenant_tag_or_option():
    backend = Gated(lambda call: (f'"call {call}"',))
    with client(backend) as llm, ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(llm.generate, "hello", **options) for options in [{}, *OTHERS] for _ in range(3)]
        eventually(lambda: len(backend.requests) >= 10)
        time.sleep(0.05)
        backend.open()
        texts = [each.result(10).text for each in asked]
    assert len(backend.requests) == 10
    assert len(set(texts)) == 10
    assert all(len(set(texts[start : start + 3])) == 1 for start in range(0, 30, 3))


@pytest.mark.parametrize(
    "options", [{"privacy": {"fleeting"}}, {"temperature": 0.7}, {"tools": [len]}], ids=["tag", "sampled", "tools"]
)
def test_what_must_not_be_cached_is_not_shared(llm, backend, options):
    if "tools" in options:
        from hybrid_llm.core.tools import Tool

        options = {"tools": [Tool(name="f", description="d", parameters='{"type": "object"}')]}
        backend.capabilities = type(backend.capabilities)(model="fake", context_window=1000, tools=True)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(llm.generate, "hello", **options) for _ in range(3)]
        eventually(lambda: len(backend.requests) == 3)
        backend.open()
        assert [each.result(10).cached for each in asked] == [False] * 3


class Echo(FakeBackend):
    """Answers with every pseudonym that it has ever seen."""

    seen: tuple[str, ...] = ()

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        request = require_clearance(cleared, self.location)
        self.requests.append(request)
        self.seen += tuple(re.findall("EMAIL_[A-Z0-9]+", request.messages[-1].content))
        yield Chunk(text=" ".join(self.seen))
        yield _last(self.seen)


def test_what_a_session_has_restored_is_not_shared_with_another():
    cloud = Echo("cloud", Location.CLOUD)
    text = """
version: 1
name: p
tags: {pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email], cache: [edge]}}
rules: [{prefer: [cloud]}]
"""
    policy = parse_policy(text, backends={"cloud": Location.CLOUD})
    with HybridLLM([cloud], policy, sensors=FixedSensors(), cache=MemoryCache()) as llm:
        llm.generate("write to ada@corp.com", session_id="one")
        first = llm.generate("write to bob@corp.com", session_id="one")
        assert first.text == "ada@corp.com bob@corp.com"
        for session in ("two", None, "one"):
            other = llm.generate("write to bob@corp.com", session_id=session)
            assert not other.cached
            assert ("ada@corp.com" in other.text) == (session == "one")
        assert llm.generate("write to bob@corp.com").cached
        assert not llm.generate("write to bob@corp.com", session_id="one").cached


def test_a_leader_that_is_cancelled_leaves_the_lead_and_followers_get_each_chunk_once(llm, backend):
    async def main() -> tuple[list[str], list[str]]:
        leader = asyncio.create_task(llm.agenerate("hello"))
        while len(backend.requests) < 1:
            await asyncio.sleep(0.002)

        async def follow() -> list[str]:
            return [chunk.text async for chunk in llm.astream("hello")]

        followers = [asyncio.create_task(follow()) for _ in range(3)]
        backend.open(2)
        await asyncio.sleep(0.1)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        backend.open()
        return await asyncio.wait_for(asyncio.gather(*followers), 10)

    for words in asyncio.run(main()):
        assert "".join(words) == WHOLE
    assert len(backend.requests) == 2, "one follower called the backend again, for all"
    assert sorted(backend.ended) == [0, 1]


def test_a_leader_whose_backend_fails_fails_alone(backend):
    with client(backend) as llm, ThreadPoolExecutor(4) as pool:
        asked = joined(llm, backend, pool, 4)
        time.sleep(0.05)
        backend.broken.add(0)
        with pytest.raises(AllBackendsFailed):
            asked[0].result(10)
        eventually(lambda: len(backend.requests) == 2)
        backend.open()
        assert [each.result(10).text for each in asked[1:]] == [WHOLE] * 3
    assert len(backend.requests) == 2


def test_where_every_call_fails_each_request_ends_with_its_own_error(backend):
    backend.broken.update(range(100))
    with client(backend, POLICY + "  \n") as llm, ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(llm.generate, "hello") for _ in range(6)]:
            with pytest.raises(HybridLLMError):
                each.result(10)


def test_a_follower_keeps_its_own_deadline_and_the_leader_its_own(llm, backend):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(llm.generate, "hello", deadline=30)
        eventually(lambda: len(backend.requests) == 1)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            llm.generate("hello", deadline=0.2)
        assert 0.15 < time.monotonic() - began < 2.0
        with pytest.raises(DeadlineExceeded):
            asyncio.run(llm.agenerate("hello", deadline=0.2))
        backend.open()
        assert first.result(10).text == WHOLE
    assert len(backend.requests) == 1


def test_a_leader_whose_deadline_ends_hands_over_to_a_follower_with_more_time(llm, backend):
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(asyncio.run, llm.agenerate("hello", deadline=0.3))]
        eventually(lambda: len(backend.requests) == 1)
        asked.append(pool.submit(llm.generate, "hello", deadline=30))
        with pytest.raises(DeadlineExceeded):
            asked[0].result(10)
        backend.open()
        assert asked[1].result(10).text == WHOLE


def test_a_leader_whose_app_takes_no_chunk_holds_nobody_up_not_even_in_its_own_thread(llm, backend):
    backend.open()
    stream = llm.stream("hello")
    assert next(stream).text == WORDS[0]
    began = time.monotonic()
    assert llm.generate("hello").text == WHOLE
    assert time.monotonic() - began < PATIENCE_S + 1.0
    assert stream.collect().text == WHOLE
    assert len(backend.requests) == 2


def test_a_sync_call_in_the_thread_of_a_loop_does_not_wait_for_that_loop(llm, backend):
    async def main() -> str:
        leader = asyncio.create_task(llm.agenerate("hello"))
        while len(backend.requests) < 1:
            await asyncio.sleep(0.002)
        backend.open()
        text = llm.generate("hello", deadline=5).text  # blocks the loop, in which the leader runs
        assert (await leader).text == WHOLE
        return text

    assert asyncio.run(main()) == WHOLE


def test_a_follower_that_is_closed_by_another_thread_ends_at_once(llm, backend):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(llm.generate, "hello")
        eventually(lambda: len(backend.requests) == 1)
        stream = llm.stream("hello")
        waiting = pool.submit(lambda: list(stream))
        time.sleep(0.1)
        began = time.monotonic()
        stream.close()
        assert waiting.result(5) == []
        assert time.monotonic() - began < 1.0
        backend.open()
        assert first.result(10).text == WHOLE


def test_an_answer_that_turns_out_different_is_never_put_together_of_two():
    backend = Gated(lambda call: WORDS if call == 0 else ("one ", "three ", "two"))
    with client(backend) as llm, ThreadPoolExecutor(2) as pool:
        leader = llm.stream("hello")
        backend.open(2)
        next(leader), next(leader)
        follower = llm.stream("hello")
        assert [next(follower).text, next(follower).text] == ["one ", "two "]
        rest = pool.submit(follower.collect)
        leader.close()
        backend.open()
        with pytest.raises(StreamInterrupted, match="ask again"):
            rest.result(10)
        assert llm.generate("hello").text == "one three two"


def test_nothing_is_left_of_answers_that_are_over(llm, backend):
    backend.open()
    for number in range(5):
        llm.generate(f"question {number}")
        llm.stream(f"stream {number}").close()
        next(llm.stream(f"left {number}"))
    flights = llm._pipeline._cache._flights
    assert flights._flights == {}


@given(st.text(max_size=12), st.text(max_size=12), st.data())
def test_what_is_generated_once_more_goes_on_exactly_where_the_app_is(known, new, data):
    def pieces(text: str) -> list[Chunk]:
        ends = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
        bounds = [0, *ends, len(text)]
        chunks = [Chunk(text=text[a:b]) for a, b in itertools.pairwise(bounds)]
        return [*chunks, Chunk(tokens=0, finish_reason=FinishReason.STOP)]

    overlap, given_text = Overlap(pieces(known)[:-1]), known
    try:
        for chunk in pieces(new):
            rest = overlap.rest(chunk, "edge")
            given_text += rest.text if rest is not None else ""
    except StreamInterrupted:
        assert not new.startswith(known)
    else:
        assert given_text == new

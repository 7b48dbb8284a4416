"""Hedging for synchronous callers: whatever happens in the loop's thread, its caller is told and does not hang."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_llm.core.errors import BackendUnavailable, DeadlineExceeded, HybridLLMError, UnsupportedRuntime
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.loops import LoopThread
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend


class Silent(FakeBackend):
    """Says nothing while it is asked asynchronously, and cannot be closed out of that."""

    left = 0

    async def astream(self, cleared):
        try:
            await asyncio.sleep(60.0)
        finally:
            self.left += 1
        yield Chunk(finish_reason=FinishReason.STOP)


def hedging(*backends: FakeBackend, hedge: str = "20ms", **options) -> HybridLLM:
    text = f"version: 1\nname: p\nresilience: {{retries: 0, hedge_after: {hedge}}}\n"
    policy = parse_policy(text, backends={backend.name: backend.location for backend in backends})
    return HybridLLM(backends, policy, sensors=FixedSensors(), **options)


def loops() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hybrid-llm-loop"]


def test_a_hedged_request_whose_backends_are_all_silent_ends_at_its_deadline():
    backends = Silent("edge", Location.EDGE), Silent("cloud", Location.CLOUD)
    with hedging(*backends) as llm:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            llm.generate("hi", deadline=0.3)
        assert time.monotonic() - began < 3.0
    assert [backend.left for backend in backends] == [1, 1]


def test_closing_the_client_ends_what_waits_in_its_loop_with_a_typed_error():
    backends = Silent("edge", Location.EDGE), Silent("cloud", Location.CLOUD)
    llm = hedging(*backends)
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(llm.generate, "hi", deadline=50.0) for _ in range(2)]
        while not loops():
            time.sleep(0.01)
        time.sleep(0.1)
        llm.close()
        for answer in running:
            with pytest.raises(BackendUnavailable):
                answer.result(5.0)
    assert [backend.left for backend in backends] == [2, 2]


def test_a_stream_that_is_begun_after_the_client_was_closed_is_refused_and_starts_no_thread():
    llm = hedging(FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD))
    stream = llm.stream("hi")
    llm.close()
    before = len(loops())
    with pytest.raises(HybridLLMError):
        next(stream)
    assert len(loops()) == before


def test_a_hook_that_raises_harms_no_hedged_answer():
    def broken(event):
        raise RuntimeError

    with hedging(FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD), hooks=[broken]) as llm:
        assert llm.generate("hi").text == "ok"


def test_the_nodes_behind_one_backend_are_rivals_of_each_other():
    class Nodes(FakeBackend):
        """Two nodes: the first one asked is silent."""

        def state(self) -> BackendState:
            return BackendState(name=self.name, location=self.location, ready=True, context_window=1000, nodes=2)

        async def astream(self, cleared):
            if not self.requests:
                self.requests.append(cleared.request)
                await asyncio.sleep(60.0)
            for chunk in self.stream(cleared):
                yield chunk

    with hedging(Nodes("cloud", Location.CLOUD)) as llm:
        assert llm.generate("hi", deadline=10.0).text == "ok"


def test_an_iterator_that_cannot_be_closed_does_not_keep_its_caller():
    class Broken:
        def __aiter__(self):
            return self

        async def __anext__(self):
            await asyncio.sleep(0.001)
            return 1

        async def aclose(self):
            raise RuntimeError

    loop = LoopThread()
    items = loop.iterate(Broken)
    assert next(items) == 1
    began = time.monotonic()
    items.close()
    assert time.monotonic() - began < 2.0
    loop.close()


class Calm(FakeBackend):
    """Says three words with pauses in which the event loop runs."""

    async def astream(self, cleared):
        for word in ("one ", "two ", "three"):
            await asyncio.sleep(0.01)
            yield Chunk(text=word, tokens=1)
        yield Chunk(finish_reason=FinishReason.STOP)


def calm() -> HybridLLM:
    policy = parse_policy("version: 1\nname: p\n", backends={"edge": Location.EDGE})
    return HybridLLM([Calm("edge", Location.EDGE)], policy, sensors=FixedSensors())


def test_a_stream_taken_to_another_event_loop_says_so_and_the_backend_is_not_blamed():
    async def begin(llm):
        stream = llm.astream("hi")
        await anext(stream)
        return stream

    async def go_on(stream):
        return await anext(stream)

    with calm() as llm:
        for _ in range(8):
            with asyncio.Runner() as first:
                stream = first.run(begin(llm))
                with pytest.raises(UnsupportedRuntime, match="began in another event loop"):
                    asyncio.run(go_on(stream))
                assert first.run(stream.collect()).text == "one two three"
        assert llm.generate("hi").backend == "edge"


def test_of_two_tasks_that_take_chunks_of_one_stream_the_second_gets_a_typed_error():
    async def main(llm):
        async with llm.astream("hi") as stream:
            both = await asyncio.gather(anext(stream), anext(stream), return_exceptions=True)
            assert both[0].text == "one "
            assert isinstance(both[1], HybridLLMError)
            return await stream.collect()

    with calm() as llm:
        assert asyncio.run(main(llm)).text == "one two three"


def test_the_synchronous_calls_work_where_an_event_loop_runs_as_in_a_notebook():
    """The loop waits meanwhile, as for any other work of a cell."""

    async def weather(city: str) -> str:
        """Tell the weather."""
        await asyncio.sleep(0)
        return f"sunny in {city}"

    async def cells() -> list[str]:
        settings = {"version": 1, "backends": {"edge": {"kind": "onnx", "model": "embedded"}}}
        with HybridLLM.from_config(settings) as llm:
            found = [llm.generate("Count from 3 to 9.", max_tokens=8).text]
            with llm.stream("Count from 3 to 9.", max_tokens=8) as stream:
                found.append("".join(chunk.text for chunk in stream))
            found.append((await llm.agenerate("Count from 3 to 9.", max_tokens=8)).text)
            assert llm.decide("x").order == ("edge",)
            run = llm.run_tools("Oslo?", tools=[weather], tool_choice="required", max_steps=2, max_tokens=60)
            assert all(step.error == "" for step in run.steps)
        return found

    assert len(set(asyncio.run(cells()))) == 1


def test_a_hedged_synchronous_call_works_where_an_event_loop_runs():
    async def cell() -> str:
        with hedging(Silent("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)) as llm:
            return llm.generate("x").backend

    assert asyncio.run(cell()) == "cloud"

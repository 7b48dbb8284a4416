"""What blocks runs beside the event loop, within the deadline, whatever the call; what is short runs at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import ConfigError, DeadlineExceeded, HybridLLMError, InvalidRequest
from hybrid_llm.core.protocols import Finding
from hybrid_llm.core.request import Location
from hybrid_llm.core.threads import Workers
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.caching.answers import CachedAnswer
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

OWN = "version: 1\nname: p\ntags: {t: {allow: [edge], detect: [own]}}\n"
BUILT_IN = "version: 1\nname: p\ntags: {t: {allow: [edge], detect: [email]}}\n"


class Own:
    """A detector that does *what* whenever it is asked."""

    name = "own"

    def __init__(self, what) -> None:
        self.what = what

    def find(self, text: str) -> Iterator[Finding]:
        self.what()
        return iter(())


class Counting(FakeBackend):
    """Remembers which thread counts tokens: the one that routes."""

    def __init__(self) -> None:
        super().__init__("edge", Location.EDGE)
        self.threads: list[str] = []

    def count_tokens(self, request):
        self.threads.append(threading.current_thread().name)
        return super().count_tokens(request)


def client(policy: str = OWN, backend: FakeBackend | None = None, **options) -> HybridLLM:
    backend = backend or FakeBackend("edge", Location.EDGE)
    detectors = frozenset(each.name for each in options.get("detectors", ()))
    parsed = parse_policy(policy, backends={"edge": Location.EDGE}, detectors=detectors | {"email"})
    return HybridLLM([backend], parsed, sensors=FixedSensors(), **options)


async def longest_gap(work) -> float:
    """The longest time, seconds, for which the event loop did nothing while *work* was awaited."""
    gaps, over = [0.0], asyncio.Event()

    async def beat() -> None:
        last = time.monotonic()
        while not over.is_set():
            await asyncio.sleep(0.001)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    await work
    over.set()
    await beating
    return max(gaps)


@pytest.mark.parametrize("call", ["agenerate", "adecide", "astream"])
def test_a_scan_that_takes_long_does_not_block_the_loop(call):
    with client(detectors=[Own(lambda: time.sleep(0.6))]) as llm:

        async def work() -> None:
            if call == "astream":
                async with llm.astream("hi") as stream:
                    assert stream.decision.order == ("edge",)
            else:
                await getattr(llm, call)("hi")

        assert asyncio.run(longest_gap(work())) < 0.4


def test_an_async_caller_is_released_at_the_deadline_while_the_scan_goes_on():
    gate, events = threading.Event(), []
    with client(detectors=[Own(lambda: gate.wait(30.0))], hooks=[events.append]) as llm:
        for call in (llm.agenerate, llm.adecide):
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded, match="during the privacy scan") as caught:
                asyncio.run(call("hi", deadline=0.2))
            assert time.monotonic() - began < 10.0
            assert (caught.value.phase, caught.value.backend) == ("the privacy scan", "")
        gate.set()


def test_a_cancelled_caller_ends_at_once_and_what_was_routed_for_it_is_released(caplog):
    gate, asked, events = threading.Event(), threading.Event(), []
    with client(detectors=[Own(lambda: (asked.set(), gate.wait(30.0)))], hooks=[events.append]) as llm:

        async def main() -> None:
            task = asyncio.create_task(llm.agenerate("hi"))
            while not asked.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.set()

        asyncio.run(main(), debug=True)
        assert llm.generate("hi").text == "ok"
    assert llm.backends[0].requests[1:] == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_what_a_cancelled_caller_did_not_wait_for_is_dropped():
    workers, gate, dropped, begun = Workers(), threading.Event(), [], threading.Event()

    def work() -> int:
        begun.set()
        gate.wait(30.0)
        return 7

    async def main() -> None:
        task = asyncio.create_task(workers.run(work, dropped.append))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert dropped == []
        gate.set()
        while not dropped:
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert dropped == [7]
    workers.close()


def test_work_whose_caller_has_left_ends_at_its_next_check():
    gate, asked, scanned = threading.Event(), threading.Event(), []

    def find() -> None:
        scanned.append(1)
        asked.set()
        gate.wait(30.0)

    backend = Counting()
    with client(detectors=[Own(find)], backend=backend) as llm:

        async def main() -> None:
            task = asyncio.create_task(llm.agenerate("hi", deadline=80_000.0))
            while not asked.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(main())
        gate.set()
    assert backend.requests == []


def test_a_synchronous_call_ends_at_its_deadline_before_any_backend_is_called():
    backend = FakeBackend("edge", Location.EDGE)
    with client(detectors=[Own(lambda: time.sleep(0.3))], backend=backend) as llm:
        for call in (llm.generate, llm.stream, llm.decide):
            with pytest.raises(DeadlineExceeded) as caught:
                call("hi", deadline=0.1)
            assert caught.value.phase == "the privacy scan"
    assert backend.requests == []


def test_counting_tokens_and_checks_count_against_the_deadline():
    class Slow(FakeBackend):
        def count_tokens(self, request):
            time.sleep(0.3)
            return 3

    with client(BUILT_IN, Slow("edge", Location.EDGE)) as llm, pytest.raises(DeadlineExceeded):
        llm.generate("hi", deadline=0.1)


def test_the_context_of_the_caller_reaches_its_detectors():
    trace: ContextVar[str] = ContextVar("trace", default="")
    seen = []
    with client(detectors=[Own(lambda: seen.append(trace.get()))]) as llm:

        async def main() -> None:
            trace.set("abc")
            await llm.agenerate("hi")

        asyncio.run(main())
    assert seen == ["abc"]


@pytest.mark.parametrize(
    ("prompt", "options", "inline"),
    [
        ("hi", {}, True),
        ([{"role": "user", "content": "hi"}], {"max_tokens": 3, "output_schema": None, "tools": []}, True),
        ("x" * 100_000, {}, False),
        ([{"role": "user", "content": "x" * 1000}] * 9, {}, False),
        ("hi", {"output_schema": {"type": "object"}}, False),
    ],
)
def test_a_short_request_costs_no_thread_once_everything_is_loaded(prompt, options, inline):
    backend = Counting()
    with client(BUILT_IN, backend) as llm:

        async def main() -> None:
            await llm.agenerate("first")
            await llm.adecide(prompt, **options)

        asyncio.run(main())
    routing = [name for name in backend.threads if name.startswith("hybrid-llm-route")]
    assert len(routing) == (1 if inline else 2) or len(backend.threads) < 2


def test_an_invalid_request_is_refused_wherever_it_is_checked():
    with client(BUILT_IN) as llm:
        for options in ({"max_tokens": 0}, {"deadline": -1.0}, {"deadline": "2"}, {"temperature": "hot"}):
            for _ in range(2):
                with pytest.raises(InvalidRequest):
                    asyncio.run(llm.agenerate("hi", **options))
        with pytest.raises(TypeError, match="did you mean"):
            asyncio.run(llm.agenerate("hi", deadlin=2.0))


def test_a_stream_is_routed_when_it_is_entered():
    with client(BUILT_IN) as llm:

        async def main() -> None:
            stream = llm.astream("hi")
            assert stream.backend == ""
            for name in ("decision", "request_id", "generation"):
                with pytest.raises(HybridLLMError, match="async with"):
                    getattr(stream, name)
            async with stream:
                assert stream.decision.order == ("edge",)
                assert len(stream.request_id) == 32
            closed = llm.astream("hi")
            await closed.aclose()
            assert [chunk async for chunk in closed] == []

        asyncio.run(main())


def test_closing_the_client_ends_its_threads():
    before = set(threading.enumerate())
    llm = client(detectors=[Own(lambda: None)])
    asyncio.run(llm.agenerate("hi"))
    started = set(threading.enumerate()) - before
    assert started
    asyncio.run(llm.aclose())
    for thread in started:
        thread.join(20.0)
        assert not thread.is_alive()


class Gated(EdgeBackend):
    """Loads once the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        super().__init__(EdgeConfig(threads=1))

    def load(self) -> None:
        assert self.gate.wait(60.0)
        super().load()


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_model_that_loads_for_longer_than_the_deadline_ends_the_request_and_serves_the_next(way):
    backend = Gated()
    policy = parse_policy("version: 1\nname: p\nresilience: {retries: 0}\n", backends={"edge": Location.EDGE})
    with HybridLLM([backend], policy, sensors=FixedSensors()) as llm:
        call = llm.generate if way == "sync" else lambda *args, **options: asyncio.run(llm.agenerate(*args, **options))
        with pytest.raises(DeadlineExceeded):
            call("Hi.", deadline=2.0, max_tokens=2)
        backend.gate.set()
        assert llm.generate("Hi.", max_tokens=2).usage.completion_tokens > 0


CONFIG = "version: 1\npolicy: balanced\nbackends: {edge: {kind: onnx, model: embedded}}\n"


def test_a_client_that_is_entered_in_a_loop_reads_its_file_in_a_thread(tmp_path):
    (tmp_path / "hybrid.yaml").write_text(CONFIG)
    events: list[RequestEvent] = []

    async def main() -> None:
        threads = set(threading.enumerate())
        llm = HybridLLM.from_config(tmp_path / "hybrid.yaml", hooks=[events.append])
        assert set(threading.enumerate()) <= threads
        async with llm as entered:
            assert entered is llm
            assert (await llm.agenerate("Hi.", max_tokens=2)).backend == "edge"
        unentered = HybridLLM.from_config(tmp_path / "hybrid.yaml")
        assert (await unentered.adecide("Hi.")).order == ("edge",)
        await unentered.aclose()
        read = HybridLLM.from_config(tmp_path / "hybrid.yaml")
        assert read.policy.name == "balanced"
        await read.aclose()
        await HybridLLM.from_config(tmp_path / "hybrid.yaml").aclose()

    asyncio.run(main())
    assert len(events) == 1


def test_an_invalid_file_is_reported_where_the_client_is_entered_or_first_used(tmp_path):
    path = tmp_path / "hybrid.yaml"
    path.write_text("version: 1\nbackends: {}\n")

    async def main() -> None:
        with pytest.raises(ConfigError):
            async with HybridLLM.from_config(path):
                raise AssertionError
        with pytest.raises(ConfigError):
            await HybridLLM.from_config(path).agenerate("hi")

    asyncio.run(main())
    with pytest.raises(ConfigError):
        HybridLLM.from_config(path)


class AppCache:
    """A cache of the app's own, which notes in which threads it is asked."""

    location = Location.EDGE

    def __init__(self) -> None:
        self.threads: list[str] = []

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        self.threads.append(threading.current_thread().name)
        return None

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        self.threads.append(threading.current_thread().name)

    def close(self) -> None:
        pass


def test_a_cache_of_the_app_is_asked_beside_the_loop():
    cache = AppCache()
    with client(BUILT_IN, cache=cache) as llm:

        async def main() -> None:
            for _ in range(3):
                assert (await llm.agenerate("hi")).text == "ok"

        asyncio.run(main())
        assert [name.partition("_")[0] for name in cache.threads] == ["hybrid-llm-route"] * 6
        cache.threads.clear()
        assert llm.generate("hi").text == "ok"
        assert cache.threads == ["MainThread"] * 2


def test_a_long_answer_is_read_for_the_cache_beside_the_loop_and_a_short_one_in_it():
    threads: list[str] = []
    for size, detector in ((10, "MainThread"), (10_000, "hybrid-llm-route")):
        backend = FakeBackend("edge", Location.EDGE, ["x" * size])
        own = Own(lambda: threads.append(threading.current_thread().name))
        with client(OWN, backend, detectors=[own], cache=MemoryCache()) as llm:
            asyncio.run(llm.agenerate("hi"))
        assert threads[-1].partition("_")[0] == detector


@pytest.mark.parametrize("call", ["generate", "agenerate"])
def test_an_answer_that_is_there_is_returned_although_no_time_is_left_to_cache_it(call):
    texts: list[str] = []

    class Slow(Own):
        """Reads the answer for longer than the request has time."""

        def find(self, text: str) -> Iterator[Finding]:
            texts.append(text)
            time.sleep(1.2 if text == "ok" else 0.0)
            return iter(())

    both = "version: 1\nname: p\ntags: {t: {allow: [edge], detect: [own, email]}}\n"
    with client(both, detectors=[Slow(None)], cache=MemoryCache()) as llm:
        for _ in range(2):
            done = getattr(llm, call)("hi", deadline=1.0)
            answer = asyncio.run(done) if call == "agenerate" else done
            assert (answer.text, answer.cached) == ("ok", False)
    assert texts == ["hi", "hi", "ok"] * 2

"""A batch keeps the order, loses nothing, runs a few at once, and ends when it is told to."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from hybrid_llm import tasks
from hybrid_llm.core.errors import BackendUnavailable, InvalidRequest
from hybrid_llm.core.request import Location
from hybrid_llm.core.taskform import text_of
from tests.tasks.conftest import Writer


class Crowd:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1


def failing(request):
    text = text_of(request)
    return BackendUnavailable("gone", backend="edge") if "7" in text else text.upper()


def test_outcomes_come_in_order_with_errors_in_their_places(make):
    llm = make(Writer("edge", Location.EDGE, failing))
    texts = [f"text {i}" for i in range(20)]
    outcomes = tasks.batch(lambda text: tasks.summarise(text, llm=llm).text, texts)
    assert len(outcomes) == 20
    for text, outcome in zip(texts, outcomes, strict=True):
        if "7" in text:
            assert type(outcome.error).__name__ == "AllBackendsFailed"
            with pytest.raises(type(outcome.error)):
                outcome.unwrap()
        else:
            assert outcome.unwrap() == text.upper()
    assert "TEXT" not in repr(outcomes)


def test_no_more_than_so_many_run_at_once_in_threads_and_in_a_loop(make):
    crowd, gentle = Crowd(), Crowd()

    def work(item: int) -> int:
        with crowd:
            time.sleep(0.002)
        return item * 2

    async def awork(item: int) -> int:
        with gentle:
            await asyncio.sleep(0.002)
        return item * 2

    expected = [i * 2 for i in range(40)]
    assert [each.unwrap() for each in tasks.batch(work, range(40), concurrency=3)] == expected
    assert [each.unwrap() for each in asyncio.run(tasks.abatch(awork, range(40), concurrency=3))] == expected
    assert crowd.most <= 3
    assert gentle.most == 3


def test_async_work_that_raises_is_an_outcome_too():
    async def work(item: int) -> int:
        if item == 1:
            raise BackendUnavailable("gone", backend="edge")
        return item

    outcomes = asyncio.run(tasks.abatch(work, range(3)))
    assert [type(each.error).__name__ for each in outcomes] == ["NoneType", "BackendUnavailable", "NoneType"]


def test_items_may_be_an_iterator_and_progress_a_function():
    seen = []
    tasks.batch(str, iter(range(5)), concurrency=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, None) for i in range(1, 6)]
    tasks.batch(str, [1, 2], concurrency=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2, 2)


def test_a_bar_is_shown_on_standard_error(capsys):
    tasks.batch(str, range(10), progress=True)
    assert "10" in capsys.readouterr().err


def test_nothing_is_an_empty_batch_and_none_at_once_is_refused():
    assert tasks.batch(str, []) == []
    for wrong in (0, 257, True, "4"):
        with pytest.raises(InvalidRequest, match="concurrency"):
            tasks.batch(str, [1], concurrency=wrong)
        with pytest.raises(InvalidRequest, match="concurrency"):
            asyncio.run(tasks.abatch(str, [1], concurrency=wrong))


def test_an_iterator_that_raises_ends_the_batch():
    def items():
        yield 1
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):
        tasks.batch(str, items())

    async def work(item: int) -> int:
        return item

    with pytest.raises(OSError, match="the file is gone"):
        asyncio.run(tasks.abatch(work, items()))


def test_cancelling_an_async_batch_cancels_what_runs():
    ended = []

    async def work(item: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(item)

    async def cancelled() -> None:
        running = asyncio.create_task(tasks.abatch(work, range(10), concurrency=4))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled())
    assert sorted(ended) == [0, 1, 2, 3]


def test_an_interrupt_ends_a_batch_within_a_step():
    """Ctrl-C in a process of its own: the stream that runs is closed after its next chunk."""
    code = """
    import time
    from hybrid_llm import HybridLLM, Location, tasks
    from hybrid_llm.policies import parse_policy
    from hybrid_llm.router.signals import FixedSensors
    from tests.fakes import FakeBackend

    class Slow(FakeBackend):
        def stream(self, cleared):
            print("begun\\n", end="", flush=True)
            for chunk in super().stream(cleared):
                time.sleep(0.05)
                yield chunk

    backend = Slow("edge", Location.EDGE, ["a"] * 2000)
    policy = parse_policy("version: 1\\nname: p\\n", backends={"edge": Location.EDGE})
    with HybridLLM([backend], policy, sensors=FixedSensors()) as llm:
        try:
            tasks.batch(lambda text: tasks.summarise(text, llm=llm), ["text"] * 50, concurrency=2)
        except KeyboardInterrupt:
            until = time.monotonic() + 10
            while backend.abandoned < 2 and time.monotonic() < until:
                time.sleep(0.01)
            print("interrupted", backend.abandoned, len(backend.requests), flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["begun", "begun"]
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert out.strip() == "interrupted 2 2"
    assert time.monotonic() - began < 30

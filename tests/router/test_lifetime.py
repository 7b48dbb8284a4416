"""What nobody closes says so and is released; what is closed leaves no thread and no descriptor behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import warnings
from pathlib import Path

import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.core.clearance import _make_cleared
from hybrid_llm.core.loops import LoopThread
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.policies import PolicyFile
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.recorder import DecisionRecorder
from hybrid_llm.router.signals import SystemSensors

pytestmark = pytest.mark.usefixtures("young_heap")

POLICY = "version: 1\nname: p\ntags: {t: {allow: [edge]}}\n"
CONFIG = """\
version: 1
policy: policy.yaml
backends: {edge: {kind: onnx, model: embedded, threads: 1}}
record: {path: decisions.jsonl}
spend: {file: spend.db}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "hybrid.yaml").write_text(CONFIG)
    return tmp_path


def held() -> tuple[int, int]:
    """Descriptors and threads of this process, the latter as the kernel counts them where it does."""
    if not Path("/proc/self/task").is_dir():
        return 0, threading.active_count()
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def flat(before: tuple[int, int]) -> bool:
    """Whether no more is held than *before*, within some seconds."""
    until = time.monotonic() + 30.0
    while any(now > then for now, then in zip(held(), before, strict=True)):
        if time.monotonic() > until:
            return False
        gc.collect()
        time.sleep(0.01)
    return True


def sync(folder: Path, *, close: bool, use: bool) -> None:
    llm = HybridLLM.from_config(folder / "hybrid.yaml")
    if use:
        llm.generate("Hi.", max_tokens=1)
    else:
        llm.decide("Hi.")
    if close:
        llm.close()


def in_loop(folder: Path, *, close: bool, use: bool) -> None:
    async def main() -> None:
        llm = HybridLLM.from_config(folder / "hybrid.yaml")
        await (llm.agenerate("Hi.", max_tokens=1) if use else llm.adecide("Hi."))
        if close:
            await llm.aclose()

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize(("close", "count"), [(False, 25), (True, 15)], ids=["dropped", "closed"])
@pytest.mark.parametrize("make", [sync, in_loop])
def test_many_clients_leave_no_thread_and_no_descriptor(folder, make, close, count):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(folder, close=close, use=True)
        gc.collect()
        time.sleep(0.2)
        before = held()
        for number in range(count):
            make(folder, close=close, use=number % 10 == 0)
        gc.collect()
        assert flat(before), (before, held(), [thread.name for thread in threading.enumerate()])
    unclosed = [each for each in caught if "unclosed HybridLLM" in str(each.message)]
    assert len(unclosed) == (0 if close else count + 1)


def test_an_unused_client_of_a_loop_holds_nothing_and_says_nothing(folder):
    async def main() -> None:
        HybridLLM.from_config(folder / "hybrid.yaml")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
        gc.collect()


def test_a_stream_keeps_its_client_open(folder):
    stream = HybridLLM.from_config(folder / "hybrid.yaml").stream("Count from 3 to 20.", max_tokens=20)
    gc.collect()
    assert len(list(stream)) > 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del stream
        gc.collect()
    assert [each for each in caught if "unclosed HybridLLM" in str(each.message)]


def edge(_: Path) -> None:
    request = Request(messages=(Message(role="user", content="Hi."),), max_tokens=1)
    list(EdgeBackend(EdgeConfig(threads=1)).stream(_make_cleared(request, Location.EDGE)))


def policy(folder: Path) -> None:
    PolicyFile(folder / "policy.yaml").start()


def sensors(_: Path) -> None:
    SystemSensors().read()


def recorder(folder: Path) -> None:
    DecisionRecorder(folder / "alone.jsonl")._start()


def loop(_: Path) -> None:
    async def one():
        yield 1

    list(LoopThread().iterate(one))


@pytest.mark.parametrize("owner", [edge, policy, sensors, recorder, loop])
def test_whatever_has_a_thread_ends_it_when_it_is_dropped(owner, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        owner(folder)
        gc.collect()
        time.sleep(0.2)
        before = held()
        for _ in range(5):
            owner(folder)
        assert flat(before)


@pytest.mark.parametrize("owner", [edge, policy, sensors, recorder])
def test_whatever_has_a_thread_and_is_dropped_says_so(owner, folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        owner(folder)
        gc.collect()
    assert [each for each in caught if each.category is ResourceWarning and "unclosed" in str(each.message)]

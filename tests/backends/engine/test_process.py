"""The engine as a process: it serves, survives bad requests, and ends with its supervisor.

`test_contract.py` kills it while it computes: there its streams end, and it comes back and answers as before.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hybrid_llm.backends.node.engine import Engine, EngineConfig, EngineDied
from hybrid_llm.backends.node.supervisor import EngineProcess, Worker
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling


async def collect(engine, request):
    return [output async for output in engine.stream(request)]


async def until(condition, seconds=180.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def text_of(outputs):
    return [token for output in outputs for token in output.token_ids]


class Life:
    """What an engine must do in one life, in order; one process for all, since its start takes seconds."""

    def __init__(self, engine, make_request, expected):
        self.engine = engine
        self.request = make_request
        self.expected = expected

    async def play(self):
        await self.serves_many_and_fails_poison_alone()
        await self.frees_the_slot_of_a_closed_stream()
        await self.joins_what_a_slow_reader_has_not_taken()
        await self.keeps_deadlines()

    async def serves_many_and_fails_poison_alone(self):
        good = [self.request(range(i, i + 12), 10, request_id="same id") for i in range(6)]
        bad = [
            self.request([10**9]),
            self.request([object()]),
            self.request(sampling=Sampling(temperature=math.nan)),
            self.request(max_tokens=10**12),
        ]
        answers = await asyncio.gather(*(collect(self.engine, request) for request in (*good, *bad)))
        for request, outputs in zip(good, answers, strict=False):
            assert text_of(outputs) == self.expected(request)
            assert {output.request_id for output in outputs} == {"same id"}
            assert [output.last for output in outputs] == [False] * (len(outputs) - 1) + [True]
        for outputs in answers[len(good) :]:
            assert [output.error.code for output in outputs] == ["rejected"]

    async def frees_the_slot_of_a_closed_stream(self):
        async with contextlib.aclosing(self.engine.stream(self.request(range(5), 250))) as stream:
            await anext(stream)
            await until(lambda: self.engine.load().active == 1)
        await until(lambda: self.engine.load().active == 0)

    async def joins_what_a_slow_reader_has_not_taken(self):
        request = self.request(range(5), 40)
        async with contextlib.aclosing(self.engine.stream(request)) as stream:
            outputs = [await anext(stream)]
            await until(lambda: self.engine.load().active == 0)
            outputs += [output async for output in stream]
        assert len(outputs) < 30
        assert text_of(outputs) == self.expected(request)
        assert outputs[-1].finish_reason is FinishReason.LENGTH

    async def keeps_deadlines(self):
        outputs = await collect(self.engine, self.request(range(5), 10, expires=time.monotonic() - 1))
        assert outputs[-1].error.code == "deadline"


def test_one_life_of_an_engine(model_folder, make_request, expected):
    """Streams, poison, abort, a slow reader, deadlines and close, with the health told each time."""
    folder = model_folder("llama")
    health: list[bool] = []
    phases: list[str] = []

    async def scenario():
        config = EngineConfig(model=folder, max_slots=3, threads=1, max_waiting=16)
        engine = EngineProcess(config, health.append, on_progress=phases.append)
        assert isinstance(engine, Engine)
        with pytest.raises(EngineDied):
            await collect(engine, make_request())
        info = await engine.start()
        assert (info.engine, info.slots, engine.info, engine.healthy) == ("packed", 3, info, True)
        try:
            await Life(engine, make_request, lambda request: expected(folder, request)).play()
        finally:
            pid = engine.pid
            await engine.close()
            await engine.close()
        assert gone(pid)
        with pytest.raises(EngineDied):
            await collect(engine, make_request())

    asyncio.run(scenario())
    assert health == [True, False]
    assert phases[:2] == ["checking the model folder", "importing torch"]


def test_a_killed_engine_ends_its_stream_and_comes_back_with_its_health_told(make_request, tmp_path):
    """The process is one without torch: what is tested is the supervisor."""
    health: list[bool] = []
    worker = Worker(arguments=(str(Path(__file__).with_name("stuck_worker.py")), "begun"))

    async def scenario():
        async with EngineProcess(EngineConfig(model=tmp_path), health.append, worker=worker) as engine:
            async with contextlib.aclosing(engine.stream(make_request(max_tokens=250))) as stream:
                await anext(stream)
                os.kill(engine.pid, signal.SIGKILL)
                with pytest.raises(EngineDied) as caught:
                    async for _ in stream:
                        pass
            assert caught.value.retry_after > 0
            assert (engine.healthy, engine.load().active) == (False, 0)
            await until(lambda: engine.healthy)
            async with contextlib.aclosing(engine.stream(make_request())) as stream:
                assert text_of([await anext(stream)]) == [7]
            assert engine.restarts == 1

    asyncio.run(scenario())
    assert health == [True, False, True, False]


def test_start_raises_for_a_broken_folder(tmp_path):
    async def scenario():
        engine = EngineProcess(EngineConfig(model=tmp_path / "nowhere"))
        with pytest.raises(ConfigError, match="no model folder") as caught:
            await engine.start()
        assert caught.value.path == str(tmp_path / "nowhere")
        assert engine.pid is None
        await engine.close()

    asyncio.run(scenario())


def test_a_start_that_is_cancelled_leaves_no_process(model_folder):
    async def scenario():
        engine = EngineProcess(EngineConfig(model=model_folder("llama")))
        start = asyncio.create_task(engine.start())
        await until(lambda: engine.pid is not None)
        pid = engine.pid
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert gone(pid)

    asyncio.run(scenario())


FRONT = """
import asyncio, sys
from pathlib import Path
from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest
from hybrid_llm.backends.node.supervisor import EngineProcess

async def main():
    tell = lambda phase: print(phase, engine.pid, flush=True)
    engine = EngineProcess(EngineConfig(model=Path(sys.argv[1]), threads=1), on_progress=tell)
    async with engine:
        tell("serving")
        async for output in engine.stream(EngineRequest(request_id="r", prompt_ids=(1, 2), max_tokens=250)):
            await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize(("end", "phase"), [(signal.SIGKILL, "serving"), (signal.SIGINT, "importing torch")])
def test_the_engine_ends_with_its_supervisor(end, phase, model_folder):
    front = subprocess.Popen(
        [sys.executable, "-c", FRONT, str(model_folder("llama"))], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with front:
        pid = next(int(line.split()[-1]) for line in front.stdout if line.startswith(phase.encode()))
        assert not gone(pid)
        front.send_signal(end)
        front.wait(timeout=120)
        give_up = time.monotonic() + 60
        while not gone(pid) and time.monotonic() < give_up:
            time.sleep(0.02)
        assert gone(pid)


def test_the_supervisor_imports_no_torch():
    code = (
        "import sys, hybrid_llm.backends.node.engine, hybrid_llm.backends.node.supervisor; "
        "sys.exit(bool({'torch', 'transformers', 'llguidance'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

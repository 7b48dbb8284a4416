"""An engine that hangs is noticed without calls and restarted; one that is only slow is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import EngineConfig, EngineDied
from hybrid_llm.backends.node.liveness import Liveness, ProgressMonitor, Pulse, StallLimits
from hybrid_llm.backends.node.supervisor import EngineProcess, Worker

TICK = 0.5
LIMITS = StallLimits()
WORKER = str(Path(__file__).with_name("stuck_worker.py"))


def states(monitor: ProgressMonitor, seconds: float) -> list[Liveness]:
    return [monitor.elapse(TICK) for _ in range(math.ceil(seconds / TICK))]


def monitor() -> ProgressMonitor:
    loaded = ProgressMonitor(LIMITS)
    loaded.loaded()
    return loaded


def test_silence_is_suspected_within_ten_seconds_and_a_hang_within_thirty():
    seen = states(monitor(), 30.0)
    assert seen.index(Liveness.SUSPECTED) * TICK < 8.0
    assert seen.index(Liveness.HUNG) * TICK < 20.0


@pytest.mark.parametrize(("busy", "wanted"), [(True, False), (True, True), (False, True)])
def test_pulses_without_progress_do_not_hide_a_hang(busy, wanted):
    stuck = monitor()
    seen = []
    for _ in range(20):
        stuck.pulse(Pulse(5, busy), wanted=wanted)
        seen += states(stuck, 1.0)
    assert Liveness.HUNG in seen


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.floats(0.1, 4.0)), max_size=60))
def test_an_engine_that_moves_or_has_nothing_to_do_is_alive(pulses):
    """Each pulse has new beats, or comes from an engine that is idle and of which nothing is wanted."""
    moving, beats = monitor(), 0
    for more, busy, pause in pulses:
        beats += more
        moving.pulse(Pulse(beats, busy and more == 1), wanted=more == 1)
        assert moving.elapse(pause) is Liveness.ALIVE


def test_progress_ends_the_suspicion():
    slow = monitor()
    assert states(slow, 8.0)[-1] is Liveness.SUSPECTED
    slow.pulse(Pulse(1, busy=True), wanted=True)
    assert slow.elapse(TICK) is Liveness.ALIVE


def test_an_engine_whose_requests_were_taken_back_has_to_move_to_be_alive_again():
    stuck = monitor()
    stuck.pulse(Pulse(5, busy=False), wanted=True)
    assert states(stuck, 6.0)[-1] is Liveness.SUSPECTED
    stuck.returned()
    stuck.pulse(Pulse(5, busy=False), wanted=False)
    assert stuck.elapse(TICK) is Liveness.SUSPECTED
    stuck.pulse(Pulse(6, busy=False), wanted=False)
    assert stuck.elapse(TICK) is Liveness.ALIVE


def test_a_long_load_is_no_hang_until_its_own_limit_but_silence_is():
    loading = ProgressMonitor(StallLimits(load=120.0))
    for _ in range(100):
        loading.pulse(Pulse(0, busy=True), wanted=False)
        assert loading.elapse(1.0) is Liveness.ALIVE
    assert Liveness.HUNG in states(loading, 30.0)
    assert Liveness.HUNG in states(ProgressMonitor(LIMITS), 5 * LIMITS.stall)


def process(mode, health, tmp_path):
    config = EngineConfig(model=tmp_path, limits=StallLimits(stall=2.0))
    return EngineProcess(config, health.append, worker=Worker(arguments=(WORKER, mode)))


async def first_output(engine, request):
    async with contextlib.aclosing(engine.stream(request)) as stream:
        return await anext(stream)


@pytest.mark.parametrize("mode", ["deadlock", "idle", "held"])
def test_an_engine_that_only_pulses_is_refused_then_replaced(mode, make_request, tmp_path):
    """The request's deadline passes before: the suspicion does not depend on it."""
    health: list[bool] = []

    async def scenario():
        async with asyncio.timeout(120), process(mode, health, tmp_path) as engine:
            first, request = engine.pid, make_request(expires=math.inf)
            call = asyncio.create_task(first_output(engine, request))
            while engine.healthy:
                await asyncio.sleep(0.02)
            if engine.pid == first:
                with pytest.raises(EngineDied, match="does not respond"):
                    await first_output(engine, make_request())
            with pytest.raises(EngineDied, match="makes no progress"):
                await call
            while not engine.healthy:
                await asyncio.sleep(0.02)
            assert engine.pid != first

    asyncio.run(scenario())
    assert health[:3] == [True, False, True]


def test_an_answer_that_has_begun_waits_for_an_engine_without_progress_until_that_is_killed(make_request, tmp_path):
    health: list[bool] = []

    async def scenario():
        async with (
            asyncio.timeout(120),
            process("begun", health, tmp_path) as engine,
            contextlib.aclosing(engine.stream(make_request(expires=math.inf))) as stream,
        ):
            assert (await anext(stream)).token_ids == (7,)
            with pytest.raises(EngineDied, match="crashed in the middle"):
                await anext(stream)

    asyncio.run(scenario())
    assert health[:2] == [True, False]


def test_calls_that_expire_neither_hide_nor_cause_a_suspicion(make_request, tmp_path):
    health: list[bool] = []

    async def scenario():
        async with asyncio.timeout(120), process("slow", health, tmp_path) as engine:
            for _ in range(4):
                output = await first_output(engine, make_request(expires=time.monotonic() + 0.1))
                assert output.error.code == "deadline"
            assert engine.restarts == 0

    asyncio.run(scenario())

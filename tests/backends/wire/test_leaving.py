"""Leaving a node's stream early, in any way: the node stops generating, and nobody hears of it."""

from __future__ import annotations

import asyncio
import time

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.node.intake import IntakeLimits
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import FixedSensors
from tests.chaos.http2 import Connection
from tests.router import leaving


async def stopped(engine) -> bool:
    until = time.monotonic() + 20.0
    while engine.active and time.monotonic() < until:
        await asyncio.sleep(0.002)
    return not engine.active


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("resilience", ["{retries: 0}", "{retries: 0, hedge_after: 1ms}"], ids=["one", "hedged"])
def test_whoever_leaves_a_nodes_stream_stops_it_and_nothing_is_logged(pki, tools, resilience, debug, caplog):
    """In one event loop: gRPC itself logs an error where calls of a loop end that is closed, and another one runs."""
    engine = tools.FakeEngine("x" * 400, delay=0.005, slots=4)

    async def main() -> None:
        async with HybridLLM(backends, policy, sensors=FixedSensors()) as llm:
            for way in leaving.WAYS.values():
                await way(llm)
                leaving.held.clear()
                assert await stopped(engine), way

    with tools.Node(pki.node, engine) as node:
        backends = [tools.backend(node.target, pki.app, name=name) for name in ("one", "two")]
        text = f"version: 1\nname: p\ntags: {{t: {{allow: [edge, cloud]}}}}\nresilience: {resilience}\n"
        policy = parse_policy(text, backends={each.name: Location.CLOUD for each in backends})
        asyncio.run(main(), debug=debug)
    assert leaving.complaints(caplog) == []


def test_a_stream_of_a_node_left_without_a_loop_stops_it(pki, tools):
    engine = tools.FakeEngine("x" * 400, delay=0.005, slots=4)
    with tools.Node(pki.node, engine) as node:
        backend = tools.backend(node.target, pki.app, name="cloud")
        policy = parse_policy("version: 1\nname: p\ntags: {t: {allow: [edge, cloud]}}\n")
        with HybridLLM([backend], policy, sensors=FixedSensors()) as llm:
            leaving.leave_sync(llm)
            assert asyncio.run(stopped(engine))


def test_calls_cancelled_at_any_moment_log_no_error_and_no_traceback(pki, tools, caplog):
    engine = tools.FakeEngine("x" * 60, delay=0.002, slots=64)
    with tools.Node(pki.node, engine=engine, intake=IntakeLimits(max_faults=10_000)) as node:
        rogue = Connection(node.port, pki.rogue)
        for number in range(400):
            stream = rogue.ask("hi")
            time.sleep(number % 40 / 4000)
            rogue.send([rogue.reset(stream)])
        for _ in range(50):  # in one piece, so that the calls end while gRPC hands them over
            rogue.send(piece for _ in range(40) for piece in (rogue.headers(), rogue.reset(rogue.last)))
            rogue.rooms.clear()
        for number in range(20):  # connections that break, with and without answers that wait for their reader
            broken = Connection(node.port, pki.rogue, window=65535 * (number % 2))
            for _ in range(30):
                broken.ask("hi")
            time.sleep(number / 200)
            broken.close()
        tools.eventually(lambda: engine.active == 0)
        time.sleep(0.3)
        rogue.close()
    assert [record.getMessage() for record in caplog.records if record.funcName != "start"] == []

"""Leaving a node's stream early, in any way: the node stops generating, and nobody hears of it."""

from __future__ import annotations

import asyncio
import time

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import FixedSensors
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

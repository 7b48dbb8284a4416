"""A process that can start no further thread for a moment: calls end at once, and the next ones work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import EdgeBackend
from hybrid_llm.backends.wire.handshake import Lookup
from hybrid_llm.core.errors import AllBackendsFailed, BackendUnavailable
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import FixedSensors, SystemSensors

TOO_LARGE = 1 << 46


@contextmanager
def no_threads() -> Iterator[None]:
    """No thread of Python can start: the system has no room for its stack."""
    before = threading.stack_size(TOO_LARGE)
    try:
        with pytest.raises(RuntimeError, match="start new thread"):
            threading.Thread(target=int).start()
        yield
    finally:
        threading.stack_size(before)


def client(*backends, sensors=None) -> HybridLLM:
    places = {backend.name: backend.location for backend in backends}
    return HybridLLM(
        backends, parse_policy("version: 1\nname: p\n", backends=places), sensors=sensors or FixedSensors()
    )


def test_a_probe_that_cannot_start_ends_the_request_and_the_next_one_works(node, pki, tools):
    with client(tools.backend(node.target, pki.app)) as llm:
        began = time.monotonic()
        with no_threads(), pytest.raises(AllBackendsFailed, match="no further thread"):
            llm.generate("hi", deadline=60.0)
        assert time.monotonic() - began < 30.0
        assert llm.generate("hi", deadline=20.0).backend == "cloud"
        assert llm.signals().backends["cloud"].breaker == "closed", "it is not the node's fault"


def test_the_same_for_async_callers(node, pki, tools):
    async def ask() -> str:
        async with client(tools.backend(node.target, pki.app)) as llm:
            await llm.agenerate("hi", deadline=20.0)  # the threads of the client
            backend = llm._pipeline.fleet.backends["cloud"]
            backend._connection.drop()
            with no_threads(), pytest.raises(AllBackendsFailed, match="no further thread"):
                await llm.agenerate("hi", deadline=60.0)
            return (await llm.agenerate("hi", deadline=20.0)).backend

    assert asyncio.run(ask()) == "cloud"


def test_a_call_whose_watch_cannot_start_is_answered_and_a_later_one_is_watched(node, pki, tools):
    backend = tools.backend(node.target, pki.app)
    tools.answer(backend.stream(tools.cleared()))
    tools.eventually(lambda: not backend._connection._watching)
    with no_threads():
        assert tools.answer(backend.stream(tools.cleared())) == "hello from the node"
    assert not backend._connection._watching
    tools.answer(backend.stream(tools.cleared()))
    assert backend._connection._watching
    backend.close()


def test_a_hedged_request_of_a_sync_caller_ends_and_the_next_one_works(node, pki, tools):
    policy = "version: 1\nname: p\nresilience: {hedge_after: 50ms}\nrules: [{prefer: [cloud, edge]}]\n"
    places = {"cloud": Location.CLOUD, "edge": Location.EDGE}
    backends = [tools.backend(node.target, pki.app), EdgeBackend()]
    with HybridLLM(backends, parse_policy(policy, backends=places), sensors=FixedSensors()) as llm:
        with no_threads(), pytest.raises(BackendUnavailable, match="no further thread"):
            llm.generate("hi", deadline=60.0)
        assert llm.generate("hi", deadline=20.0).text


def test_a_lookup_that_cannot_start_is_begun_again():
    lookup = Lookup(lambda *_, **__: [(2, 1, 6, "", ("192.0.2.7", 0))])
    with no_threads(), pytest.raises(RuntimeError):
        lookup("node.example", 1.0)
    assert lookup("node.example", 20.0) == ("192.0.2.7",)


def test_without_a_thread_the_sensors_report_nothing_and_are_read_later():
    sensors = SystemSensors()
    with no_threads(), pytest.raises(RuntimeError):
        sensors.read()
    assert sensors.read()[0].memory_total_mb > 0
    sensors.close()


class Closing:
    """A backend that notes that it was closed."""

    name, location, closed = "other", Location.EDGE, False

    def state(self):
        raise NotImplementedError

    count_tokens = stream = astream = capabilities = state

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.close()


@pytest.mark.parametrize("how", ["close", "aclose"])
def test_a_client_closes_its_backends_when_no_thread_can_start(node, pki, tools, how):
    cloud, other = tools.backend(node.target, pki.app), Closing()
    llm = client(cloud, EdgeBackend(), other, sensors=SystemSensors())

    async def aclose() -> None:
        await llm.aclose()

    with no_threads():
        llm.close() if how == "close" else asyncio.run(aclose())
    assert other.closed
    with pytest.raises(BackendUnavailable, match="closed"):
        tools.answer(cloud.stream(tools.cleared()))

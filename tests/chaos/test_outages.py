"""Outages with default settings: a node is used again soon after its return, and a lost connection costs no answer."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_llm.core.errors import AllBackendsFailed, HybridLLMError
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import EndpointHealth
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.signals import FixedSensors
from tests.chaos.exact import answer_to, prompt_of
from tests.chaos.outages import ENGINE_FAILS, OUTAGES, SETTINGS, cost
from tests.chaos.proxy import Proxy, Weather
from tests.chaos.world import World, eventually

CALLERS = 16
(ALONE,) = (setting for setting in SETTINGS if setting.name == "one node alone")


@pytest.fixture(scope="module")
def world():
    with World(nodes=1) as made:
        yield made


@pytest.fixture
def llm(world):
    policy = "version: 1\nname: p\nresilience: {continue_streams: true}\n"
    with HybridLLM(
        [world.pool()], parse_policy(policy, backends={"cloud": Location.CLOUD}), sensors=FixedSensors()
    ) as made:
        made.generate(prompt_of(0, 2))
        yield made
    world.calm()


@pytest.mark.parametrize(
    "outage",
    [one for one in OUTAGES if one.name in ("refused", "black hole", "engine dead", "every call fails")],
    ids=lambda one: one.name,
)
def test_a_node_that_is_back_is_used_long_before_a_breaker_would_be_half_open(world, outage):
    measured = cost(world, outage, ALONE)
    assert measured.noticed_s is not None
    assert measured.back_s is not None
    assert measured.back_s < 10.0, "a breaker is open for 30 s"
    assert measured.wrong == 0


def test_a_node_that_serves_and_fails_every_call_is_called_all_the_same_and_not_more_often(world):
    """Where nothing else is left, nothing is refused: each request is one call, and retries keep to their budget."""
    calls = Counter[str]()

    def count(event: RequestEvent) -> None:
        made = sum(each.reason not in ("breaker_open", "no_retry_left") for each in event.attempts)
        calls["made"] += made
        calls["refused"] += not made

    policy = parse_policy("version: 1\nname: p\n", backends={"cloud": Location.CLOUD})
    with HybridLLM([world.pool()], policy, sensors=FixedSensors(), hooks=[count]) as llm:
        llm.generate(prompt_of(0, 2))
        ENGINE_FAILS.begin(world, 0)
        try:
            for number in range(200):
                with pytest.raises(AllBackendsFailed):
                    llm.generate(prompt_of(number, 2))
        finally:
            ENGINE_FAILS.end(world, 0)
    assert calls["refused"] == 0
    assert 200 < calls["made"] <= 1 + 200 + 10 + 20, calls


def test_one_of_three_nodes_that_can_be_reached_is_called_again_when_its_call_failed(world):
    """Those that cannot be reached are no reason to give up: a retry goes to the one that can."""
    attempts: list[str] = []

    def note(event: RequestEvent) -> None:
        attempts.extend(each.reason for each in event.attempts)

    policy = parse_policy("version: 1\nname: p\n", backends={"cloud": Location.CLOUD})
    with (
        Proxy(world.nodes[0].port) as one,
        Proxy(world.nodes[0].port) as other,
        HybridLLM(
            [pool := world.pool([*world.proxies, one, other])], policy, sensors=FixedSensors(), hooks=[note]
        ) as llm,
    ):
        one.weather = other.weather = Weather(silent_up=True, silent_down=True)
        gone = {EndpointHealth.UNREACHABLE: 2, EndpointHealth.READY: 1}
        known = eventually(
            lambda: llm.generate("case 1: 2 words") and Counter(m.health for m in pool.members()) == gone, 60.0
        )
        assert known is not None
        attempts.clear()
        ENGINE_FAILS.begin(world, 0)
        try:
            with pytest.raises(AllBackendsFailed):
                llm.generate(prompt_of(0, 2))
        finally:
            ENGINE_FAILS.end(world, 0)
    assert len([reason for reason in attempts if reason == "failed"]) == 3, attempts


def test_one_lost_connection_ends_none_of_the_answers_on_it(world, llm):
    begun = threading.Barrier(CALLERS + 1)

    def ask(number: int) -> tuple[str, int]:
        with llm.stream(prompt_of(number, 200), max_tokens=4096) as stream:
            text = next(stream).text
            begun.wait(30.0)
            text += "".join(chunk.text for chunk in stream)
            return text, len(stream.generation.continuations)

    with ThreadPoolExecutor(CALLERS) as threads:
        answers = [threads.submit(ask, number) for number in range(CALLERS)]
        begun.wait(30.0)
        world.proxies[0].cut()
        for number, answer in enumerate(answers):
            assert answer.result() == (answer_to(prompt_of(number, 200)), 1)
    assert llm.signals().backends["cloud"].breaker == "closed"


def test_with_connections_that_are_cut_again_and_again_nearly_every_answer_arrives(world, llm):
    before = world.proxies[0].connections
    world.proxies[0].weather = Weather(cut_after=32_000)

    def ask(number: int) -> str:
        try:
            return llm.generate(prompt_of(number, 100), max_tokens=4096).text
        except HybridLLMError as error:
            return type(error).__name__

    with ThreadPoolExecutor(CALLERS) as threads:
        replies = list(threads.map(ask, range(160)))
    right = sum(reply == answer_to(prompt_of(number, 100)) for number, reply in enumerate(replies))
    # Twice as many cuts use up what the requests put into the retry budget.
    assert right > 150, Counter(reply for reply in replies if len(reply) < 30)
    assert world.proxies[0].connections - before > 30

"""A failure that the answer does not show can be read in the log: once as a warning, and never with a text."""

import logging

import pytest

from hybrid_llm import Decision, HybridLLM, Location, Message, Request, RequestEvent, RequestMetadata, Signals
from hybrid_llm.core.errors import BackendUnavailable
from hybrid_llm.core.generation import AttemptRecord, Continuation
from hybrid_llm.core.health import HealthProbe
from hybrid_llm.core.log import REPEAT_S, Repeated, breaker_log
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.observability.log import RequestLog
from tests.fakes import FakeBackend


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "hybrid_llm")
    return lambda level: [r.getMessage() for r in caplog.records if r.levelno == level]


@pytest.fixture
def clock():
    return [0.0]


POLICY = """
version: 1
name: cloud first
tags: {}
rules:
  - prefer: [cloud, edge]
"""


def event(**fields):
    request = Request(messages=(Message(role="user", content="hi"),))
    decision = Decision(order=("cloud", "edge"), excluded={}, policy="p", digest="d")
    return RequestEvent(metadata=RequestMetadata.of(request), signals=Signals(), decision=decision, **fields)


def test_a_fallback_is_one_warning_however_many_requests_follow(lines):
    cloud = FakeBackend("cloud", Location.CLOUD, [BackendUnavailable("down", backend="cloud")])
    edge = FakeBackend("edge", Location.EDGE)
    policy = parse_policy(POLICY, backends={"cloud": Location.CLOUD, "edge": Location.EDGE})
    with HybridLLM([cloud, edge], policy) as llm:
        answers = [llm.generate("my secret is 4711") for _ in range(20)]
    fallbacks = [line for line in lines(logging.WARNING) if "fell back" in line]
    assert len(fallbacks) == 1
    assert "fell back to edge: cloud BackendUnavailable" in fallbacks[0]
    assert len([line for line in lines(logging.WARNING) if "circuit breaker opened" in line]) == 1
    assert len([line for line in lines(logging.INFO) if "edge answered in" in line]) == 20
    assert not any("4711" in line for level in (logging.INFO, logging.WARNING) for line in lines(level))
    assert [one.backend for one in answers[0].attempts][-1] == "edge"
    assert answers[0].attempts[0].error == "BackendUnavailable"
    assert [one.backend for one in answers[-1].attempts] == ["edge"], "the decision excludes it meanwhile"
    assert "cloud" in answers[-1].decision.excluded


def test_the_breaker_is_reported_when_it_opens_and_when_it_closes(lines):
    probe = HealthProbe(failures=2, open_s=30.0, on_breaker=breaker_log("cloud node:7443"))
    for report in (probe.failed, probe.failed, probe.failed, probe.succeeded, probe.succeeded):
        report()
    assert lines(logging.WARNING) == [
        "cloud node:7443: the circuit breaker opened after repeated failures; it gets no calls for now",
        "cloud node:7443: the circuit breaker closed; it gets calls again",
    ]


def test_what_repeats_is_a_warning_once_a_minute_with_the_count_between(lines, clock):
    repeated = Repeated(lambda: clock[0])
    for _ in range(5):
        repeated.warn("x", "slow %s", "cloud")
    clock[0] = REPEAT_S
    repeated.warn("x", "slow %s", "cloud")
    repeated.warn("y", "other")
    assert lines(logging.WARNING) == [
        "slow cloud",
        "slow cloud (and 4 more times since this was last a warning)",
        "other",
    ]
    assert lines(logging.INFO) == ["slow cloud"] * 4


def test_hedges_and_continuations_are_reported(lines):
    attempts = (
        AttemptRecord(backend="cloud", error="Cancelled", elapsed_ms=900.0),
        AttemptRecord(backend="edge", hedge=True, elapsed_ms=20.0),
    )
    RequestLog()(event(attempts=attempts, backend="edge"))
    RequestLog()(event(backend="edge", continuations=(Continuation(at=9, tokens=3, backend="edge"),)))
    hedge, continuation = lines(logging.WARNING)
    assert "edge was called beside the slow call, and edge answered" in hedge
    assert "broke off after 3 tokens and was continued by edge" in continuation

"""A failure that the answer does not show can be read in the log: once as a warning, and never with a text."""

import logging
from dataclasses import replace

import pytest

from hybrid_llm import Decision, HybridLLM, Location, Message, Request, RequestEvent, RequestMetadata, Signals
from hybrid_llm.core.errors import BackendUnavailable, StreamInterrupted
from hybrid_llm.core.generation import AttemptRecord
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
        answers = [llm.generate("my secret is Oskar") for _ in range(20)]
    fallbacks = [line for line in lines(logging.WARNING) if "fell back" in line]
    assert len(fallbacks) == 1
    assert "fell back to edge: cloud BackendUnavailable" in fallbacks[0]
    assert len([line for line in lines(logging.WARNING) if "circuit breaker opened" in line]) == 1
    assert len([line for line in lines(logging.INFO) if "edge answered in" in line]) == 20
    assert not any("Oskar" in line for level in (logging.INFO, logging.WARNING) for line in lines(level))
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


def test_hedges_are_reported(lines):
    attempts = (
        AttemptRecord(backend="cloud", error="Cancelled", elapsed_ms=900.0),
        AttemptRecord(backend="edge", hedge=True, elapsed_ms=20.0),
    )
    RequestLog()(event(attempts=attempts, backend="edge"))
    RequestLog()(event(attempts=(replace(attempts[0], hedge=True), attempts[0]), error="DeadlineExceeded"))
    answered, late = lines(logging.WARNING)
    assert "edge was called beside the slow call, and edge answered" in answered
    assert "cloud was called beside the slow call, and none answered" in late


def cut(name, tokens):
    return AttemptRecord(backend=name, error="StreamInterrupted", tokens=tokens, elapsed_ms=5.0)


DOWN = AttemptRecord(backend="cloud", error="BackendUnavailable", reason="refused", elapsed_ms=3.0)
ANSWERED = AttemptRecord(backend="edge", tokens=4, elapsed_ms=9.0)
WALKS = {
    "broken off, continued": (
        (cut("cloud", 3), ANSWERED),
        ["the answer broke off after 3 tokens and was continued by edge: cloud StreamInterrupted after 5 ms"],
    ),
    "continued by the same": (
        (cut("edge", 3), ANSWERED),
        ["the answer broke off after 3 tokens and was continued by edge: edge StreamInterrupted after 5 ms"],
    ),
    "continued by the second that was asked": (
        (cut("edge", 3), DOWN, ANSWERED),
        [
            "the answer broke off after 3 tokens and was continued by edge: "
            "edge StreamInterrupted after 5 ms, cloud BackendUnavailable (refused) after 3 ms"
        ],
    ),
    "fallen back, then continued": (
        (DOWN, cut("edge", 3), replace(ANSWERED, backend="third")),
        [
            "fell back to edge: cloud BackendUnavailable (refused) after 3 ms",
            "the answer broke off after 3 tokens and was continued by third: edge StreamInterrupted after 5 ms",
        ],
    ),
    "broken off twice": (
        (cut("edge", 3), cut("third", 2), ANSWERED),
        [
            "the answer broke off after 3 tokens and was continued by third: edge StreamInterrupted after 5 ms",
            "the answer broke off after 5 tokens and was continued by edge: third StreamInterrupted after 5 ms",
        ],
    ),
    "broken off before the first token": (
        (cut("cloud", 0), ANSWERED),
        ["fell back to edge: cloud StreamInterrupted after 5 ms"],
    ),
    "tried again": ((replace(DOWN, backend="edge"), ANSWERED), []),
    "the slow call of a hedge failed": (
        (DOWN, replace(ANSWERED, hedge=True)),
        ["no first token in time; edge was called beside the slow call, and edge answered"],
    ),
    "broken off, not continued": ((cut("edge", 3), DOWN), []),
}


@pytest.mark.parametrize("name", WALKS)
def test_each_change_of_backend_is_one_line_which_says_why(lines, name):
    attempts, expected = WALKS[name]
    RequestLog()(event(attempts=attempts, backend=attempts[-1].backend))
    assert [line.partition(": ")[2] for line in lines(logging.WARNING)] == expected


def test_a_broken_answer_is_reported_once_and_as_what_it_was(lines):
    cloud = FakeBackend("cloud", Location.CLOUD, ["so ", "far ", StreamInterrupted("cut", backend="cloud")])
    edge = FakeBackend("edge", Location.EDGE)
    policy = POLICY + "resilience: {continue_streams: true}\n"
    with HybridLLM([cloud, edge], parse_policy(policy, backends={b.name: b.location for b in (cloud, edge)})) as llm:
        answer = llm.generate("hi")
    (line,) = lines(logging.WARNING)
    assert "the answer broke off after 2 tokens and was continued by edge: cloud StreamInterrupted" in line
    assert [(one.backend, one.tokens) for one in answer.attempts] == [("cloud", 2), ("edge", 1)]

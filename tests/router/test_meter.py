"""How one attempt is timed, however it ends, and that the predictor learns from it through the client."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from hybrid_llm.core.errors import BackendUnavailable, DeadlineExceeded
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.request import Location
from hybrid_llm.router.signals.predictor import Measured, Stopwatch
from tests.fakes import FakeBackend

END = Chunk(tokens=0, finish_reason=FinishReason.STOP)


class Clock:
    """Ten milliseconds pass with each piece; what a reader takes is added by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def playing(self, *pieces):
        for piece in pieces:
            self.now += 0.01
            if isinstance(piece, Exception):
                raise piece
            yield piece


def measure(clock, *pieces, take=None, reader_s=0.0) -> Measured:
    watch = Stopwatch(clock)
    try:
        for chunk in itertools.islice(clock.playing(*pieces), take):
            watch.received(chunk)
            clock.now += reader_s
            watch.resumed()
    except BackendUnavailable:
        pass
    return watch.measured()


def test_first_token_and_further_tokens_are_timed():
    measured = measure(Clock(), Chunk(text="a"), Chunk(text="b"), Chunk(text="c"), END)
    assert measured.ttft_ms == pytest.approx(10.0)
    assert measured.tpot_ms == pytest.approx(15.0), "three pieces after the first, two tokens"


def test_the_computed_share_of_the_prompt_is_reported():
    for cached, share in ((0, 1.0), (75, 0.25), (100, 0.0), (101, 1.0), (-5, 1.0)):
        end = Chunk(
            tokens=0, finish_reason=FinishReason.STOP, usage=Usage(prompt_tokens=100, cached_prompt_tokens=cached)
        )
        assert measure(Clock(), Chunk(text="a"), end).computed == share
    assert measure(Clock(), Chunk(text="a"), END).computed == 1.0


def test_a_stream_that_its_reader_leaves_early_is_measured_as_far_as_it_came():
    measured = measure(Clock(), Chunk(text="a"), Chunk(text="b"), Chunk(text="c"), END, take=2)
    assert (measured.ttft_ms, measured.tpot_ms) == (pytest.approx(10.0), pytest.approx(10.0))


def test_an_attempt_that_fails_before_a_token_took_at_least_so_long():
    measured = measure(Clock(), BackendUnavailable("gone", backend="b"))
    assert (measured.ttft_ms, measured.tpot_ms) == (None, None)
    assert measured.elapsed_ms == pytest.approx(10.0)


def test_a_slow_reader_teaches_nothing_about_further_tokens():
    measured = measure(Clock(), Chunk(text="a"), Chunk(text="b"), END, reader_s=1.0)
    assert measured.ttft_ms == pytest.approx(10.0)
    assert measured.tpot_ms is None


def test_a_request_that_missed_its_deadline_pushes_the_prediction_up(make_client, edge):
    class Late(FakeBackend):
        async def astream(self, cleared):
            await asyncio.sleep(30)
            yield Chunk(text="too late")

    client = make_client(Late("edge", Location.EDGE))
    before = client.signals().backends["edge"]
    assert before.predictions == 0
    assert before.predicted_ttft_error_ms == before.predicted_ttft_ms
    with pytest.raises(DeadlineExceeded):
        asyncio.run(client.agenerate("hello", deadline=0.2))
    after = client.signals().backends["edge"]
    assert after.predicted_ttft_ms > 2 * before.predicted_ttft_ms
    assert after.predictions == 1


def test_an_immediate_rejection_leaves_the_prediction_unchanged(make_client, cloud):
    down = FakeBackend("edge", Location.EDGE, [BackendUnavailable("down", backend="edge")])
    client = make_client(down, cloud)
    before = client.signals().backends["edge"].predicted_ttft_ms
    client.generate("hello")
    assert client.signals().backends["edge"].predicted_ttft_ms == before


def test_rules_can_read_how_far_off_the_predictions_were(make_client, edge, cloud):
    policy = """\
version: 1
name: careful
tags: {public: {allow: [edge, cloud]}}
rules:
  - prefer: [edge, cloud]
    when: edge.predictions >= 3 && edge.predicted_ttft_ms + edge.predicted_ttft_error_ms <= 100ms
  - prefer: [cloud, edge]
"""
    client = make_client(edge, cloud, policy=policy)
    assert client.decide("hello").order == ("cloud", "edge")
    cloud.ready = False
    for _ in range(20):
        client.generate("hello")
    cloud.ready = True
    decision = client.decide("hello")
    assert decision.order == ("edge", "cloud")
    assert "predicted_ttft_error_ms" in decision.explain()

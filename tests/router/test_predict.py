"""The predictor learns a line and a mean from what happened, and follows when the world changes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.router.predict import PRIORS, LatencyPredictor
from hybrid_llm.router.types import Location


def learn(predictor: LatencyPredictor, base: float, slope: float, rng: random.Random, n: int = 60) -> None:
    for _ in range(n):
        tokens = rng.randint(5, 400)
        noise = rng.uniform(0.95, 1.05)
        predictor.observe(prompt_tokens=tokens, ttft_ms=(base + slope * tokens) * noise, tpot_ms=7.0)


@pytest.mark.parametrize(("base", "slope"), [(5.0, 0.05), (300.0, 0.1), (20.0, 5.0)])
def test_time_to_first_token_is_learnt_within_a_tenth(base, slope):
    predictor = LatencyPredictor(PRIORS[Location.EDGE])
    learn(predictor, base, slope, random.Random(1))
    for tokens in (10, 100, 300):
        assert predictor.ttft_ms(tokens) == pytest.approx(base + slope * tokens, rel=0.1)
    assert predictor.tpot_ms == pytest.approx(7.0, rel=0.01)


def test_a_device_that_becomes_slower_is_followed():
    predictor, rng = LatencyPredictor(PRIORS[Location.EDGE]), random.Random(2)
    learn(predictor, 10.0, 0.5, rng)
    learn(predictor, 40.0, 2.0, rng, n=100)
    assert predictor.ttft_ms(200) == pytest.approx(440.0, rel=0.1)


@given(st.lists(st.tuples(st.integers(0, 100_000), st.floats(0.0, 1e6), st.none() | st.floats(0.0, 1e4)), max_size=60))
def test_a_prediction_is_a_finite_time_whatever_was_seen(observations):
    predictor = LatencyPredictor(PRIORS[Location.CLOUD])
    for tokens, ttft, tpot in observations:
        predictor.observe(prompt_tokens=tokens, ttft_ms=ttft, tpot_ms=tpot)
    for tokens in (0, 1, 1000, 100_000):
        assert 0.0 <= predictor.ttft_ms(tokens) < 1e12
    assert 0.0 <= predictor.tpot_ms < 1e5

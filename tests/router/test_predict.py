"""The predictor learns from measured times, follows changes, and publishes its error."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState
from hybrid_llm.router.signals.predictor import PRIORS, Fit, FitState, LatencyPredictor, Learned

IDLE = BackendState(name="b", location=Location.EDGE)
ANY = st.floats() | st.integers(-(10**12), 10**12).map(float)
MANY = st.integers(-9, 10**9)


def at(active=0, queue=0, load=0.0, **more) -> BackendState:
    return BackendState(name="b", location=Location.EDGE, active=active, queue=queue, load=load, **more)


def draws(rng, n):
    """Prompts and states as they come, with the turns that each has to wait."""
    for _ in range(n):
        tokens, active, queue = rng.randint(5, 400), rng.randint(0, 2), rng.randint(0, 6)
        state = at(active, queue, (active + queue) / 4)
        yield tokens, state, queue + (state.load >= 1.0)


def learn(predictor, cost, rng, n=60, noise=0.05) -> None:
    for tokens, state, turns in draws(rng, n):
        ttft = cost(tokens, state.active, turns) * rng.uniform(1 - noise, 1 + noise)
        predictor.observe(tokens, state, ttft_ms=ttft, tpot_ms=7.0)


def misjudged(predictor, cost, rng) -> float:
    """The mean relative error for requests like those that were learnt from."""
    pairs = [(predictor.ttft_ms(p, state), cost(p, state.active, turns)) for p, state, turns in draws(rng, 200)]
    return sum(abs(got / expected - 1.0) for got, expected in pairs) / len(pairs)


@pytest.mark.parametrize(
    ("base", "prompt", "active", "turn"), [(5.0, 0.05, 2.0, 9.0), (300.0, 0.1, 0.0, 40.0), (20.0, 5.0, 100.0, 700.0)]
)
def test_prompt_load_and_queue_are_learnt_within_a_tenth(base, prompt, active, turn):
    def cost(tokens, at_work, turns):
        return base + prompt * tokens + active * at_work + turn * turns

    predictor, rng = LatencyPredictor(PRIORS[Location.EDGE]), random.Random(1)
    learn(predictor, cost, rng, n=100)
    assert misjudged(predictor, cost, rng) < 0.1
    assert predictor.tpot_ms(100) == pytest.approx(7.0, rel=0.01)


def test_a_chat_with_a_cached_prefix_does_not_teach_that_prompts_cost_nothing():
    predictor = LatencyPredictor(PRIORS[Location.EDGE])
    for turn in range(60):
        tokens, new = 500 + 40 * (turn % 12), 20 + 60 * (turn % 3)
        predictor.observe(tokens, IDLE, ttft_ms=5.0 + 2.0 * new, computed=new / tokens)
    assert predictor.ttft_ms(1000, IDLE) == pytest.approx(2005.0, rel=0.1)
    assert predictor.ttft_ms(50, IDLE) == pytest.approx(105.0, rel=0.1)


@settings(max_examples=12, deadline=None)
@given(base=st.floats(1.0, 1e3), prompt=st.floats(0.01, 20.0), turn=st.floats(0.0, 1e3), seed=st.integers(0, 2**32 - 1))
def test_any_stationary_line_is_converged_to(base, prompt, turn, seed):
    def cost(tokens, _, turns):
        return base + prompt * tokens + turn * turns

    predictor, rng = LatencyPredictor(PRIORS[Location.CLOUD]), random.Random(seed)
    learn(predictor, cost, rng, n=150, noise=0.0)
    early = misjudged(predictor, cost, random.Random(seed))
    learn(predictor, cost, rng, n=250, noise=0.0)
    late = misjudged(predictor, cost, random.Random(seed))
    assert late < 0.1
    assert late < early + 0.01


@pytest.mark.parametrize(("factor", "within"), [(4.0, 10), (40.0, 15), (0.25, 25), (0.025, 12)])
def test_a_step_is_followed_within_some_observations(factor, within):
    predictor, rng = LatencyPredictor(PRIORS[Location.EDGE]), random.Random(2)

    def more(times: float, n: int) -> None:
        for _ in range(n):
            tokens = rng.randint(5, 400)
            predictor.observe(tokens, IDLE, ttft_ms=(10.0 + 0.5 * tokens) * times * rng.uniform(0.9, 1.1))

    more(1.0, 100)
    more(factor, within)
    assert predictor.ttft_ms(200, IDLE) == pytest.approx(110.0 * factor, rel=0.3)


def test_the_first_answers_overrule_the_guess_that_a_cold_start_begins_with():
    predictor = LatencyPredictor(PRIORS[Location.EDGE])
    for _ in range(2):
        predictor.observe(50, IDLE, ttft_ms=3.0, tpot_ms=0.5)
    assert predictor.ttft_ms(50, IDLE) == pytest.approx(3.0, rel=0.3)
    assert predictor.tpot_ms(50) == pytest.approx(0.5, rel=0.3)


def test_a_first_answer_that_waited_for_the_model_to_load_is_soon_forgotten():
    predictor = LatencyPredictor(PRIORS[Location.EDGE])
    predictor.observe(50, IDLE, ttft_ms=400.0)
    for _ in range(5):
        predictor.observe(50, IDLE, ttft_ms=3.0)
    assert predictor.ttft_ms(50, IDLE) == pytest.approx(3.0, rel=0.3)


def test_a_single_outlier_moves_little():
    predictor = LatencyPredictor(PRIORS[Location.EDGE])
    learn(predictor, lambda p, a, q: 20.0 + 0.2 * p, random.Random(3))
    before = predictor.ttft_ms(100, IDLE)
    predictor.observe(100, IDLE, ttft_ms=60_000.0)
    assert predictor.ttft_ms(100, IDLE) < 1.5 * before


def test_a_miss_raises_the_prediction_and_an_immediate_rejection_does_not():
    predictor = LatencyPredictor(PRIORS[Location.CLOUD])
    for _ in range(30):
        predictor.observe(100, IDLE, ttft_ms=50.0)
    before = predictor.ttft_ms(100, IDLE)
    predictor.missed(100, IDLE, after_ms=2.0)
    assert predictor.ttft_ms(100, IDLE) == before
    seen = [before]
    for _ in range(12):
        state = at(predicted_ttft_ms=predictor.ttft_ms(100, IDLE))
        predictor.missed(100, state, after_ms=5000.0)
        seen.append(predictor.ttft_ms(100, IDLE))
    assert seen == sorted(seen)
    assert seen[1] > before
    assert seen[-1] > 2000.0
    assert predictor.ttft_error_ms(0.0) > 1000.0


def test_the_error_is_that_of_predictions_made_before():
    predictor = LatencyPredictor(PRIORS[Location.EDGE])
    assert (predictor.ttft_error_ms(130.0), predictor.predictions) == (130.0, 0), "until it is known, all of it"
    predictor.observe(100, at(predicted_ttft_ms=130.0, predicted_tpot_ms=15.0), ttft_ms=100.0, tpot_ms=5.0)
    assert predictor.ttft_error_ms(0.0) == pytest.approx(30.0)
    assert predictor.tpot_error_ms(0.0) == pytest.approx(10.0)
    predictor.observe(100, at(predicted_ttft_ms=100.0), ttft_ms=90.0)
    assert predictor.ttft_error_ms(0.0) == pytest.approx(20.0)
    assert predictor.predictions == 2


OBSERVATIONS = st.lists(
    st.tuples(st.integers(-(10**20), 10**20), MANY, MANY, ANY, ANY, st.none() | ANY),
    max_size=40,
)


@given(OBSERVATIONS, st.booleans())
def test_a_prediction_is_a_finite_time_that_rises_with_prompt_and_queue_whatever_was_seen(observations, miss):
    predictor = LatencyPredictor(PRIORS[Location.CLOUD])
    for tokens, active, queue, load, ttft, tpot in observations:
        state = at(active, queue, load, predicted_ttft_ms=ttft)
        if miss:
            predictor.missed(tokens, state, after_ms=ttft)
        predictor.observe(tokens, state, ttft_ms=ttft, tpot_ms=tpot)
    asked = [(0, 0), (1, 0), (1000, 0), (1000, 1), (1000, 50), (100_000, 50), (10**30, 10**30)]
    seen = [predictor.ttft_ms(tokens, at(1, queue)) for tokens, queue in asked]
    assert all(0.0 <= ms < math.inf for ms in seen)
    assert seen == sorted(seen)
    assert 0.0 <= predictor.tpot_ms(10) < math.inf
    assert 0.0 <= predictor.ttft_error_ms(1.0) < math.inf
    assert 0.0 <= predictor.tpot_error_ms(1.0) < math.inf


def test_what_was_learnt_can_be_resumed_and_is_then_overruled_like_any_guess():
    first, second = LatencyPredictor(PRIORS[Location.EDGE]), LatencyPredictor(PRIORS[Location.EDGE])
    learn(first, lambda p, a, q: 20.0 + 0.2 * p + 15.0 * q, random.Random(4))
    second.resume(first.learned)
    for state in (IDLE, at(1, 3)):
        assert second.ttft_ms(200, state) == pytest.approx(first.ttft_ms(200, state))
    assert second.predictions == 0, "the error of this process is measured anew"
    for _ in range(8):
        second.observe(200, IDLE, ttft_ms=500.0)
    assert second.ttft_ms(200, IDLE) == pytest.approx(500.0, rel=0.3)


def test_a_fit_that_resumes_keeps_its_count_and_scale():
    fit = Fit((1.0, 0.0, 0.0, 0.0), floor=1.0)
    fit.resume(FitState(weights=(2.0, 1.0, 0.0, 0.0), scale=0.1, count=9))
    assert fit.predict((3.0, 0.0, 0.0)) == 5.0
    assert Learned(ttft=fit.state, tpot=fit.state).ttft == FitState(weights=(2.0, 1.0, 0.0, 0.0), scale=0.1, count=9)

"""Each sampling parameter does what its name says, and a seed repeats whatever else is in the batch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.engines.sampler import Sampler
from hybrid_llm.core.request import Sampling

PROBABILITIES = torch.tensor([0.02, 0.4, 0.08, 0.3, 0.2])
LOGITS = PROBABILITIES.log()


def draws(count=400, logits=LOGITS, **settings):
    sampler = Sampler(Sampling(**{"temperature": 1.0, "seed": 11, **settings}), vocab_size=len(logits), prompt_ids=[])
    return Counter(sampler.pick(logits) for _ in range(count))


def test_temperature_one_draws_as_the_model_says():
    counts = draws(4000)
    for token, probability in enumerate(PROBABILITIES.tolist()):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_a_very_low_temperature_is_greedy():
    assert set(draws(temperature=1e-6)) == {1}


def test_top_k_keeps_that_many():
    assert set(draws(top_k=2)) == {1, 3}
    assert set(draws(top_k=10**9)) == {0, 1, 2, 3, 4}


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    assert set(draws(top_p=0.65)) == {1, 3}
    assert set(draws(top_p=0.75)) == {1, 3, 4}
    assert set(draws(top_p=1e-9)) == {1}


def test_top_p_over_a_large_flat_vocabulary_looks_beyond_the_likeliest():
    counts = draws(2000, torch.zeros(1000), top_p=0.9999)
    assert len(counts) > 500


def test_min_p_drops_what_is_far_less_likely_than_the_likeliest():
    assert set(draws(min_p=0.6)) == {1, 3}


def test_repetition_penalty_counts_the_prompt_and_the_answer():
    sampling = Sampling(repetition_penalty=2.0)
    sampler = Sampler(sampling, vocab_size=3, prompt_ids=[0])
    logits = torch.tensor([3.0, 2.0, 1.9])
    assert sampler.pick(logits) == 1
    sampler.accept(1)
    assert sampler.pick(logits) == 2


@given(
    seed=st.integers(-(2**70), 2**70),
    temperature=st.floats(1e-300, 1e300),
    top_p=st.floats(1e-300, 1.0),
    top_k=st.integers(0, 2**40),
    min_p=st.floats(0, 1),
    logits=st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_any_valid_setting_draws_a_token_of_the_vocabulary(seed, logits, **knobs):
    sampler = Sampler(Sampling(seed=seed, **knobs), vocab_size=len(logits), prompt_ids=[])
    assert 0 <= sampler.pick(torch.tensor(logits)) < len(logits)


def test_a_seed_gives_the_same_answer_alone_and_in_company(model_folder, make_request, run):
    engine = load_engine(EngineConfig(model=model_folder("llama"), max_slots=4, prefill_budget=16, threads=1))
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=42)
    alone = make_request(range(12), 20, sampling=sampling)
    first = run(engine, [alone]).tokens[alone.request_id]
    others = [make_request(range(i, i + 30), 25, sampling=Sampling(temperature=1.3)) for i in range(5)]
    again = make_request(range(12), 20, sampling=sampling)
    second = run(engine, [*others[:2], again, *others[2:]]).tokens[again.request_id]
    other_seed = make_request(range(12), 20, sampling=Sampling(temperature=1.0, top_p=0.9, seed=43))
    assert first == second
    assert run(engine, [other_seed]).tokens[other_seed.request_id] != first


def test_without_a_seed_answers_differ(model_folder, make_request, run):
    engine = load_engine(EngineConfig(model=model_folder("llama"), max_slots=4, threads=1))
    requests = [make_request(range(12), 20, sampling=Sampling(temperature=2.0)) for _ in range(4)]
    answers = run(engine, requests)
    assert len({tuple(tokens) for tokens in answers.tokens.values()}) > 1

"""Each sampling parameter does what its name says, and a seed repeats whatever else is in the batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.edge.sampling import Sampler as EdgeSampler
from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.engines.sampler import Sampler
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.limits import SAMPLING
from hybrid_llm.core.request import Sampling
from tests.penalties import penalised, with_any_penalties

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


@with_any_penalties
def test_presence_and_frequency_penalties_are_those_of_the_formula(logits, presence, frequency, partial):
    """Each choice is the likeliest token by the formula; at 0 the model's own, and nothing is computed for it."""
    sampling, answer, logits = (
        Sampling(presence_penalty=presence, frequency_penalty=frequency),
        list(partial),
        torch.tensor(logits),
    )
    sampler = Sampler(sampling, vocab_size=6, prompt_ids=[4, *partial], partial_ids=partial)
    assert sampler.plain is (presence == frequency == 0)
    for _ in range(12):
        token = sampler.pick(logits)
        scores = penalised(logits, answer, presence=presence, frequency=frequency)
        assert scores[token] >= scores.max() - 1e-4
        sampler.accept(token)
        answer.append(token)


def any_of(setting):
    return st.floats(SAMPLING[setting].least, SAMPLING[setting].most)


@given(
    seed=st.integers(-(2**70), 2**70),
    temperature=any_of("temperature") | st.sampled_from([5e-324, 1e-300, 1e-45, 1e-38]),
    top_p=any_of("top_p"),
    top_k=st.integers(0, 1_000_000),
    min_p=any_of("min_p"),
    repetition_penalty=any_of("repetition_penalty"),
    presence_penalty=any_of("presence_penalty"),
    frequency_penalty=any_of("frequency_penalty"),
    tokens=st.lists(st.tuples(st.floats(-1e30, 1e30), st.booleans()), min_size=2, max_size=8).filter(
        lambda tokens: any(allowed for _, allowed in tokens)
    ),
)
@settings(max_examples=150, deadline=None)
def test_any_valid_setting_draws_a_token_that_the_grammar_allows(seed, tokens, **knobs):
    sampling = Sampling(seed=seed, **knobs)
    assert not sampling.fault(any_seed=True)
    logits = torch.tensor([logit if allowed else -torch.inf for logit, allowed in tokens])
    sampler = Sampler(sampling, vocab_size=len(tokens), prompt_ids=[0], partial_ids=[1])
    device = EdgeSampler(replace(sampling, seed=abs(seed) % 2**63), [0], len(tokens), [1])
    for draw in (sampler.pick, lambda logits: device.draw(logits.numpy().copy())):
        assert tokens[draw(logits)][1]


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


def test_an_engine_goes_on_with_the_answer_of_another_as_if_it_had_drawn_it(demo_model, make_request, run):
    first, second = (load_engine(EngineConfig(model=demo_model, dtype="fp32", threads=1, max_slots=4)) for _ in "12")
    tokenizer = ChatTokenizer.load(demo_model).tokenizer
    prompt = tokenizer.encode("Name three planets.").ids
    schema = '{"type":"object","properties":{"name":{"type":"string","maxLength":30},"n":{"type":"integer"}}}'
    for asked in (
        {},
        {"sampling": Sampling(repetition_penalty=1.7)},
        {"sampling": Sampling(temperature=1.0, top_p=0.9, seed=5)},
        {"sampling": Sampling(temperature=1.0, seed=5, repetition_penalty=1.3), "output_schema": schema},
    ):
        whole = make_request(prompt, 16, **asked)
        tokens = run(first, [whole]).tokens[whole.request_id]
        assert len(tokens) > 8
        cuts = (1, 7, len(tokens) - 1)
        rests = [make_request([*prompt, *tokens[:cut]], 16 - cut, answered=cut, **asked) for cut in cuts]
        answers = run(second, rests)
        assert [answers.tokens[rest.request_id] for rest in rests] == [tokens[cut:] for cut in cuts]

    done, other = tokenizer.encode('"yes"').ids, tokenizer.encode("no").ids
    whole, wrong, beyond = (
        make_request((3, *answered), 8, answered=count, output_schema='{"const":"yes"}')
        for answered, count in ((done, len(done)), (other, len(other)), (other, 9))
    )
    answers = run(second, [whole, wrong, beyond])
    assert answers.ends[whole.request_id].finish_reason == "stop"
    assert not answers.tokens[whole.request_id]
    assert answers.error(wrong) == answers.error(beyond) == "rejected"

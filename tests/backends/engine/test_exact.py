"""The engine answers as `model.generate` does, token by token, whatever else is in the batch."""

from __future__ import annotations

import random

import pytest

from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling

VOCAB = 211


def ragged(make_request, seed, count=16, longest=60, most=30):
    rng = random.Random(seed)
    return [
        make_request([rng.randrange(VOCAB) for _ in range(rng.randint(1, longest))], rng.randint(1, most))
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_packed_answers_equal_generate_while_requests_join_and_leave(
    name, model_folder, make_request, expected, answers
):
    engine = load_engine(
        EngineConfig(model=model_folder(name), engine="packed", max_slots=4, prefill_budget=16, threads=1)
    )
    rng = random.Random(7)
    requests = ragged(make_request, seed=3)
    joining = list(requests)
    while joining or not engine.idle:
        if joining and rng.random() < 0.4:
            engine.submit(joining.pop())
        answers.add(engine.step())
    for request in requests:
        assert answers.tokens[request.request_id] == expected(model_folder(name), request)
        assert answers.ends[request.request_id].finish_reason is FinishReason.LENGTH


def test_answers_vary_so_that_equality_means_something(model_folder, make_request, expected):
    request = make_request(range(40), 30)
    assert len(set(expected(model_folder("llama"), request))) > 10


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral-window"])
def test_one_by_one_answers_equal_generate(name, model_folder, make_request, expected, run):
    engine = load_engine(EngineConfig(model=model_folder(name), engine="one_by_one", threads=1))
    requests = ragged(make_request, seed=5, count=4)
    answers = run(engine, requests)
    for request in requests:
        assert answers.tokens[request.request_id] == expected(model_folder(name), request)


def test_auto_falls_back_to_one_by_one_where_the_packed_loop_would_be_wrong(model_folder):
    assert load_engine(EngineConfig(model=model_folder("mistral-window"))).info.engine == "one_by_one"
    assert load_engine(EngineConfig(model=model_folder("mistral"))).info.engine == "packed"


@pytest.mark.parametrize("kind", ["packed", "one_by_one"])
def test_an_end_token_ends_the_answer_and_is_not_part_of_it(kind, model_folder, make_request, expected, run):
    folder = model_folder("llama")
    free = expected(folder, make_request(range(20), 20))
    request = make_request(range(20), 20, eos_ids=frozenset({free[6]}))
    answers = run(load_engine(EngineConfig(model=folder, engine=kind, max_slots=2, threads=1)), [request])
    assert answers.tokens[request.request_id] == free[: free.index(free[6])]
    assert answers.ends[request.request_id].finish_reason is FinishReason.STOP


def test_repetition_penalty_is_that_of_transformers(model_folder, make_request, expected, run):
    folder = model_folder("llama")
    engine = load_engine(EngineConfig(model=folder, max_slots=2, threads=1))
    request = make_request(range(20), 30, sampling=Sampling(repetition_penalty=1.7))
    answers = run(engine, [request, make_request(range(9), 9)])
    assert answers.tokens[request.request_id] == expected(folder, request)
    assert answers.tokens[request.request_id] != expected(folder, make_request(range(20), 30))


def test_the_trained_model_answers_as_generate_does(demo_model, make_request, expected, run):
    engine = load_engine(EngineConfig(model=demo_model, dtype="fp32", max_slots=4, prefill_budget=32, threads=1))
    assert engine.info.engine == "packed"
    rng = random.Random(1)
    requests = [
        make_request([rng.randrange(8, 2048) for _ in range(rng.randint(3, 70))], 24, eos_ids=frozenset({5}))
        for _ in range(8)
    ]
    answers = run(engine, requests)
    for request in requests:
        assert answers.tokens[request.request_id] == expected(demo_model, request)

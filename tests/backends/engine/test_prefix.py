"""Prompts with a common prefix are computed once per identity and tenant, and answers stay the same."""

from __future__ import annotations

import random

import pytest
import torch

from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.text import shared_prefix

VOCAB = 211
SYSTEM = [(7 * i + 3) % VOCAB for i in range(60)]


def packed(folder, **options):
    defaults = {"engine": "packed", "max_slots": 3, "prefill_budget": 16, "threads": 1, "dtype": "fp32"}
    return load_engine(EngineConfig(model=folder, **{**defaults, **options}))


@pytest.fixture(scope="module")
def folders(model_folder, demo_model):
    return {"random": model_folder("llama"), "trained": demo_model}


@pytest.mark.parametrize("name", ["random", "trained"])
def test_chats_that_begin_alike_get_the_answers_they_get_without_reuse(name, folders, make_request, expected, answers):
    """Random turns of several chats, some given up in mid-prompt or mid-answer, against transformers' own generate."""
    engine = packed(folders[name])
    vocab = engine.info.vocab_size
    rng = random.Random(11)
    chats = [SYSTEM[: rng.randrange(20, 60)] for _ in range(4)]
    requests, cached = [], 0
    for _ in range(24):
        index = rng.randrange(len(chats))
        prompt = [*chats[index], *(rng.randrange(8, vocab) for _ in range(rng.randint(1, 30)))]
        if len(prompt) > 180:
            chats[index] = SYSTEM[:40]
        request = make_request(prompt, rng.randint(1, 12))
        engine.submit(request)
        for _ in range(rng.randint(0, 12)):
            answers.add(engine.step())
        told = answers.tokens.get(request.request_id, [])
        if request.request_id not in answers.ends and rng.random() < 0.4:
            engine.abort(request.request_id)
        else:
            requests.append(request)
        chats[index] = [*prompt, *told]
    while not engine.idle:
        answers.add(engine.step())
    for request in requests:
        assert answers.tokens[request.request_id] == expected(folders[name], request)
        cached += answers.ends[request.request_id].cached_tokens
    assert cached > 200, "nothing was reused: equality proves nothing"


@pytest.mark.parametrize("name", ["llama", "mistral-window"])
def test_one_by_one_goes_on_from_the_last_text(name, model_folder, make_request, expected, run):
    engine = load_engine(EngineConfig(model=model_folder(name), engine="one_by_one", threads=1))
    first = make_request(SYSTEM, 10)
    told = run(engine, [first]).tokens[first.request_id]
    follows = make_request([*SYSTEM, *told, 5, 6], 10)
    answers = run(engine, [follows])
    assert answers.ends[follows.request_id].cached_tokens == len(SYSTEM) + len(told) - 1
    branches = make_request([*SYSTEM[:50], 9, 8], 10)
    answers.add(run(engine, [branches]).ends.values())
    again = make_request([*SYSTEM[:50], 9, 8], 10)
    answers = run(engine, [again])
    assert answers.tokens[again.request_id] == expected(model_folder(name), again)
    assert (answers.ends[again.request_id].cached_tokens > 0) == (name == "llama"), "a window cannot be rewound"
    answers = run(engine, [follows])
    assert answers.tokens[follows.request_id] == expected(model_folder(name), follows)


def test_a_whole_prompt_that_is_known_is_computed_from_its_last_token(model_folder, make_request, expected, run):
    engine = packed(model_folder("llama"))
    requests = [make_request(SYSTEM, 6) for _ in range(3)]
    for request in requests:
        answers = run(engine, [request])
        assert answers.tokens[request.request_id] == expected(model_folder("llama"), request)
    assert answers.ends[request.request_id].cached_tokens == len(SYSTEM) - 1


def test_another_identity_or_tenant_begins_anew(model_folder, make_request, run):
    engine = packed(model_folder("llama"))
    cached = [
        run(engine, [request]).ends[request.request_id].cached_tokens
        for request in (make_request(SYSTEM, 2, salt=salt) for salt in ("a", "b", "", "a", "c"))
    ]
    assert cached == [0, 0, 0, len(SYSTEM) - 1, 0]


def test_a_prompt_can_begin_as_one_that_is_being_answered(model_folder, make_request, expected, answers):
    engine = packed(model_folder("llama"))
    long, short = make_request(SYSTEM, 40), make_request([*SYSTEM, 9], 5)
    engine.submit(long)
    for _ in range(8):
        answers.add(engine.step())
    engine.submit(short)
    while not engine.idle:
        answers.add(engine.step())
    assert answers.ends[short.request_id].cached_tokens == len(SYSTEM)
    for request in (long, short):
        assert answers.tokens[request.request_id] == expected(model_folder("llama"), request)


def test_a_prompt_that_was_aborted_halfway_is_continued_from_there(model_folder, make_request, expected, run):
    engine = packed(model_folder("llama"))
    left = make_request(SYSTEM, 5)
    engine.submit(left)
    for _ in range(2):
        engine.step()
    engine.abort(left.request_id)
    again = make_request(SYSTEM, 5)
    answers = run(engine, [again])
    assert answers.ends[again.request_id].cached_tokens == 32
    assert answers.tokens[again.request_id] == expected(model_folder("llama"), again)


def test_the_budget_of_a_step_counts_what_is_computed(model_folder, make_request, run, answers):
    engine = packed(model_folder("llama"))
    run(engine, [make_request(SYSTEM, 1)])
    follows = make_request([*SYSTEM, *range(10)], 1)
    engine.submit(follows)
    answers.add(engine.step())
    assert answers.ends[follows.request_id].cached_tokens == len(SYSTEM), "ten tokens fit one step of sixteen"


def test_with_reuse_off_nothing_is_cached(model_folder, make_request, run):
    engine = packed(model_folder("llama"), reuse_prefixes=False)
    requests = [make_request(SYSTEM, 2) for _ in range(2)]
    answers = run(engine, requests)
    assert [answers.ends[request.request_id].cached_tokens for request in requests] == [0, 0]


@pytest.mark.parametrize("steps", [2, 20])
def test_keys_and_values_that_are_not_finite_are_not_cached(steps, model_folder, make_request, expected, run, tmp_path):
    """A token whose embedding is NaN, read in mid-prompt and given up, or read to the end: the next one is unharmed."""
    engine = packed(model_folder("llama"), max_slots=1)
    weights = engine._runner._model.get_input_embeddings().weight
    with torch.no_grad():
        weights[13] = torch.nan
    bad = make_request([*SYSTEM[:12], 13, *SYSTEM[12:50]], 5)
    assert 13 not in SYSTEM
    engine.submit(bad)
    outputs = [output for _ in range(steps) for output in engine.step()]
    engine.abort(bad.request_id)
    assert [output.error.code for output in outputs] == (["rejected"] if steps == 20 else [])
    good = make_request([*SYSTEM[:12], 20, 21], 5)
    answers = run(engine, [good])
    assert answers.ends[good.request_id].cached_tokens == 0
    assert answers.tokens[good.request_id] == expected(model_folder("llama"), good)


def test_the_beginning_that_two_texts_share():
    for size in (0, 1, 255, 256, 257, 700):
        left = list(range(size))
        assert shared_prefix(left, [*left, 1], most=size) == size
        assert shared_prefix(left, [*left[:-1], -1], most=size + 1) == max(0, size - 1)
        assert shared_prefix(left, left, most=size - 1) == max(0, size - 1)

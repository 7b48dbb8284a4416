"""The engine answers as `model.generate` does, token by token, whatever else is in the batch."""

from __future__ import annotations

import random

import pytest

from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling

VOCAB = 211
WINDOWED = (
    "mistral-window", "ministral", "mixtral-window", "qwen2-window", "qwen3-window", "gemma2", "gemma3",
    "gemma3-images", "gemma4", "phi3-window", "cohere2", "olmo3", "exaone4", "smollm3-window", "starcoder2-window",
    "gpt-oss",
)  # fmt: skip
"""Some or all of their layers see 16 tokens back; some have softcaps, sinks, or scale the scores in their own way."""


def ragged(make_request, seed, count=10, longest=60, most=30):
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


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_those_of_the_model_in_long_chunks_and_after_reused_prefixes(
    name, model_folder, make_request, expected, run
):
    folder = model_folder(name)
    engine = load_engine(EngineConfig(model=folder, engine="packed", max_slots=3, prefill_budget=24, threads=1))
    together = ragged(make_request, seed=3, count=4, longest=70, most=24)
    answers = run(engine, together)
    prompt = list(range(50))
    first = make_request(prompt, 24)
    answer = run(engine, [first]).tokens[first.request_id]
    turns = [make_request([*prompt, *answer, 7, 8], 12), make_request([*prompt[:40], 9], 12)]
    later = [run(engine, [turn]) for turn in turns]
    assert [each.ends[turn.request_id].cached_tokens for turn, each in zip(turns, later, strict=True)] == [73, 40]
    for request in together:
        assert answers.tokens[request.request_id] == expected(folder, request)
    for turn, each in zip(turns, later, strict=True):
        assert each.tokens[turn.request_id] == expected(folder, turn)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral-window", "gemma3-bidirectional", "phi3-longrope", "llama4"])
def test_one_by_one_answers_equal_generate(name, model_folder, make_request, expected, run):
    engine = load_engine(EngineConfig(model=model_folder(name), engine="one_by_one", threads=1))
    requests = ragged(make_request, seed=5, count=4)
    answers = run(engine, requests)
    for request in requests:
        assert answers.tokens[request.request_id] == expected(model_folder(name), request)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma3-bidirectional", "does not attend to a run of tokens"),
        ("phi3-longrope", "logits for 16 tokens differ"),
        ("llama4", "counts tokens by itself"),
    ],
)
def test_auto_falls_back_with_one_warning_where_the_packed_loop_would_be_wrong(name, reason, model_folder, caplog):
    folder = model_folder(name)
    assert load_engine(EngineConfig(model=folder, threads=1)).info.engine == "one_by_one"
    (warning,) = caplog.messages
    assert warning.startswith("requests are answered one at a time")
    assert reason in warning
    with pytest.raises(ConfigError, match=reason):
        load_engine(EngineConfig(model=folder, engine="packed", threads=1))


def test_below_the_length_at_which_the_model_rotates_otherwise_it_is_packed(model_folder, make_request, expected, run):
    folder = model_folder("phi3-longrope")
    engine = load_engine(EngineConfig(model=folder, max_slots=2, context_window=48, threads=1))
    assert engine.info.engine == "packed"
    request = make_request(range(30), 18)
    assert run(engine, [request]).tokens[request.request_id] == expected(folder, request)


def test_a_length_at_which_the_model_rotates_otherwise_is_crossed_and_left_again(
    model_folder, make_request, expected, run
):
    folder = model_folder("phi3-longrope")
    engine = load_engine(EngineConfig(model=folder, threads=1))
    short, crossing = make_request(range(30), 10), make_request(range(40), 20)
    for request in (short, crossing, short, crossing):
        assert run(engine, [request]).tokens[request.request_id] == expected(folder, request)


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


@pytest.mark.parametrize("kind", ["packed", "one_by_one"])
@pytest.mark.parametrize(
    "penalties",
    [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.75},
        {"presence_penalty": -0.5, "frequency_penalty": 2.0, "repetition_penalty": 1.3},
    ],
)
def test_presence_and_frequency_penalties_count_the_answer_alone(
    kind, penalties, model_folder, make_request, expected, run
):
    folder = model_folder("llama")
    engine = load_engine(EngineConfig(model=folder, engine=kind, max_slots=3, threads=1))
    plain, begun = make_request(range(20), 40), [50, 51, 50]
    whole = make_request(range(20), 40, sampling=Sampling(**penalties))
    partial = make_request([*range(20), *begun], 30, sampling=Sampling(**penalties), partial_tokens=len(begun))
    answers = run(engine, [whole, plain, partial])
    for request in (whole, plain, partial):
        assert answers.tokens[request.request_id] == expected(folder, request)
    assert answers.tokens[whole.request_id] != answers.tokens[plain.request_id]


def test_a_frequency_penalty_ends_the_loop_of_a_greedy_model(model_folder, make_request, run):
    """A random model whose embeddings are tied repeats its last token for ever."""
    engine = load_engine(EngineConfig(model=model_folder("llama-tied"), max_slots=2, threads=1))
    plain = make_request(range(20), 60)
    penalised = make_request(range(20), 60, sampling=Sampling(frequency_penalty=2.0))
    answers = run(engine, [plain, penalised])
    assert len(set(answers.tokens[plain.request_id][-30:])) == 1
    assert len(set(answers.tokens[penalised.request_id][-30:])) > 5


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

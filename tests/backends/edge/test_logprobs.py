"""Log-probabilities on the device: the plain log-softmax of the model's own logits, whatever chooses the tokens."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.edge.scoring import Scoring
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling

SCHEMA = json.dumps({"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"]})


def log_softmax(logits):
    """In float64, without any trick."""
    exact = logits.astype(np.float64)
    return exact - np.log(np.exp(exact - exact.max()).sum()) - exact.max()


def read_again(model, request, tokens):
    """The distribution before each of *tokens*, of a fresh sequence: shape (tokens, vocabulary)."""
    prompt = model.tokenizer.encode(request)
    sequence = model.sequence(len(prompt) + len(tokens))
    rows = [log_softmax(sequence.append(prompt).copy())]
    rows += [log_softmax(sequence.append([token]).copy()) for token in tokens[:-1]]
    return np.array(rows)


def ids_of(model, listed):
    """The ids of listed tokens, by their bytes."""
    names = model.tokenizer.token_names
    by_bytes = {names.bytes_of(token_id): token_id for token_id in reversed(range(model.tokenizer.vocab_size))}
    return [by_bytes[token.bytes] for token in listed]


def listed(chunks):
    return [token for chunk in chunks for token in chunk.logprobs]


@pytest.fixture(scope="module")
def model(tiny):
    return EdgeModel(tiny.int4, threads=1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampling": Sampling(temperature=1.3, top_k=40, top_p=0.9, seed=3)},
        {"sampling": Sampling(repetition_penalty=1.8)},
        {"output_schema": SCHEMA},
    ],
    ids=["greedy", "drawn", "penalised", "under a grammar"],
)
def test_they_are_the_softmax_of_the_models_own_logits_before_anything_changes_them(model, edge, clear, options):
    cleared = clear(max_tokens=12, logprobs=5, **options)
    tokens = listed(edge().stream(cleared))
    ids = ids_of(model, tokens)
    rows = read_again(model, cleared.request, ids)
    assert len(tokens) >= 5
    for token, token_id, row in zip(tokens, ids, rows, strict=True):
        assert token.logprob == pytest.approx(row[token_id], abs=1e-5)
        best = np.argsort(-row, kind="stable")[:5]
        assert [each.logprob for each in token.top] == pytest.approx(row[best], abs=1e-5)
        names = model.tokenizer.token_names
        assert [each.bytes for each in token.top] == [names.bytes_of(int(each)) for each in best]


def test_a_greedy_token_is_its_own_first_alternative(edge, clear):
    tokens = listed(edge().stream(clear(max_tokens=20, logprobs=1)))
    assert tokens
    assert all((each.bytes, each.logprob) == (each.top[0].bytes, each.top[0].logprob) for each in tokens)


def test_zero_gives_the_tokens_alone_and_none_gives_nothing(edge, clear):
    backend = edge()
    tokens = listed(backend.stream(clear(max_tokens=6, logprobs=0)))
    assert tokens
    assert not any(each.top for each in tokens)
    assert listed(backend.stream(clear(max_tokens=6))) == []


def test_asking_changes_no_answer_and_every_chunk_has_the_tokens_of_its_text(edge, clear, text_of):
    backend = edge()
    for seed in range(4):
        options = {"max_tokens": 24, "sampling": Sampling(temperature=1.0, seed=seed, stop=("e", "12"))}
        plain, asked = (list(backend.stream(clear(logprobs=count, **options))) for count in (None, 3))
        assert text_of(plain) == text_of(asked)
        assert plain[-1].usage.completion_tokens == asked[-1].usage.completion_tokens
        for chunk in asked:
            assert b"".join(token.bytes for token in chunk.logprobs).decode("utf-8", "replace") == chunk.text


def test_four_at_once_get_what_each_gets_alone(edge, clear):
    backend = edge(max_concurrency=4)
    asked = [clear(text, max_tokens=10, logprobs=3) for text in ("one", "two", "three", "four")]
    alone = [listed(backend.stream(each)) for each in asked]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda each: listed(backend.stream(each)), asked)) == alone


def test_an_answer_that_is_already_whole_has_none(edge, clear):
    chunks = list(edge().stream(clear(output_schema=SCHEMA, answer_prefix='{"n": 2}', logprobs=2)))
    assert (listed(chunks), chunks[-1].finish_reason) == ([], FinishReason.STOP)


@given(
    logits=st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=60),
    count=st.integers(0, 20),
    at=st.integers(0, 10**6),
)
@settings(max_examples=300, deadline=None)
def test_scores_are_those_of_a_full_sort_and_of_equal_ones_the_chosen_is_first(logits, count, at):
    values = np.array(logits, dtype=np.float32)
    chosen = at % len(values)
    scores = Scoring(values, count).of(chosen)
    expected = log_softmax(values)
    assert scores.logprob == pytest.approx(expected[chosen], abs=1e-5)
    assert [each for _, each in scores.top] == pytest.approx(np.sort(expected)[::-1][:count], abs=1e-5)
    ids = [token_id for token_id, _ in scores.top]
    assert len(set(ids)) == len(ids) == min(count, len(values))
    if count and values[chosen] == values.max():
        assert ids[0] == chosen


@pytest.mark.weights
@pytest.mark.slow
def test_real_weights_give_the_softmax_of_their_logits_with_and_without_speculation(
    smollm2_folder, edge, clear, text_of
):
    model = EdgeModel(smollm2_folder, threads=2)
    backends = [edge(smollm2_folder, threads=2, speculation=mode) for mode in ("auto", "off")]
    for text in ("Repeat: one two three, one two three.", "Why is the sky blue?", "Schreibe: Köln 日本 🙂"):
        cleared = clear(text, max_tokens=12, logprobs=5, deadline=500.0)
        answers = [list(backend.stream(cleared)) for backend in backends]
        tokens = listed(answers[0])
        assert tokens == listed(answers[1])
        assert b"".join(token.bytes for token in tokens).decode("utf-8", "replace") == text_of(answers[0])
        ids = ids_of(model, tokens)
        for token, token_id, row in zip(tokens, ids, read_again(model, cleared.request, ids), strict=True):
            assert token.logprob == pytest.approx(row[token_id], abs=1e-4)
            assert [each.logprob for each in token.top] == pytest.approx(np.sort(row)[::-1][:5], abs=1e-4)

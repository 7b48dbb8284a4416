"""What only real weights show: answers that repeat, end, and are the same whatever the prefix cache holds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest

from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling

pytestmark = [pytest.mark.weights, pytest.mark.slow]

QUESTIONS = (
    "What is the capital of France?",
    "Name three rivers of Europe.",
    "Why is the sky blue? Explain it to a child.",
)


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "smollm2-135m"
    import_gguf(smollm2_gguf, folder, name="smollm2-135m")
    return folder


def ask(backend, clear, text, sampling):
    chunks = list(backend.stream(clear(text, max_tokens=16, sampling=sampling, deadline=500.0)))
    return "".join(chunk.text for chunk in chunks), chunks[-1].usage.cached_prompt_tokens


def test_the_same_seed_and_greedy_give_the_same_answers_whatever_is_cached(smollm2, edge, clear):
    """Alone, one after the other, four at once, and beside prompts that were given up."""
    backend = edge(smollm2, threads=2, max_concurrency=4)
    plain = edge(smollm2, threads=2, reuse_prefixes=False)
    asked = [(text, sampling) for text in QUESTIONS for sampling in (Sampling(), Sampling(temperature=1.0, seed=5))]
    expected = [ask(plain, clear, *each)[0] for each in asked]
    assert len(set(expected)) == len(expected)
    with closing(backend.stream(clear(QUESTIONS[0] + QUESTIONS[1], deadline=500.0))) as given_up:
        next(given_up)
    with ThreadPoolExecutor(4) as pool:
        for answer in (
            partial(map, lambda each: ask(backend, clear, *each)),
            partial(pool.map, lambda each: ask(backend, clear, *each)),
        ):
            got = list(answer(asked))
            assert [text for text, _ in got] == expected
    assert sum(cached for _, cached in got) >= 6 * 32, "nothing was reused: equality proves nothing"


def test_an_answer_that_goes_round_in_a_circle_is_ended_and_says_so(smollm2, edge, clear):
    request = clear("Write a very long poem in which every line is the same.", max_tokens=700, deadline=500.0)
    last = list(edge(smollm2, threads=2).stream(request))[-1]
    assert last.finish_reason is FinishReason.REPETITION
    assert last.usage.completion_tokens < 700

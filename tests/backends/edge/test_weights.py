"""What only real weights show: answers that repeat, end, and are the same whatever the prefix cache holds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest

from hybrid_llm.backends.edge.scheduling import BORDER
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Location, Message, Request, Sampling
from hybrid_llm.router.privacy import Assessment, PrivacyGuard

pytestmark = [pytest.mark.weights, pytest.mark.slow]

QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue? Explain it to a child.",
)
ANSWER = 24
"""Tokens of an answer in a chat, at most."""


def ask(backend, clear, text, sampling):
    chunks = list(backend.stream(clear(text, max_tokens=10, sampling=sampling, deadline=500.0)))
    return "".join(chunk.text for chunk in chunks), chunks[-1].usage.cached_prompt_tokens


def test_the_same_seed_and_greedy_give_the_same_answers_whatever_is_cached(smollm2_folder, edge, clear):
    """Alone, one after the other, four at once, and beside prompts that were given up."""
    backend = edge(smollm2_folder, threads=2, max_concurrency=4)
    plain = edge(smollm2_folder, threads=2, reuse_prefixes=False)
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
    assert sum(cached for _, cached in got) >= 4 * 32, "nothing was reused: equality proves nothing"


def chat(backend, sampling):
    """Three turns about rivers; the answers, and the tokens that each turn read beside those that were new in it."""
    messages, known, answers, again = [], 0, [], []
    for turn in range(3):
        messages.append(Message(role="user", content=f"Tell me more about river number {turn + 1} of Europe."))
        request = Request(messages=tuple(messages), max_tokens=ANSWER, sampling=sampling, deadline=500.0)
        allowed = Assessment(request=request, allowed=frozenset({Location.EDGE}))
        chunks = list(backend.stream(PrivacyGuard().clear(allowed, Location.EDGE)))
        answers.append("".join(chunk.text for chunk in chunks))
        usage = chunks[-1].usage
        again.append(known - usage.cached_prompt_tokens)
        known = usage.prompt_tokens + usage.completion_tokens
        messages.append(Message(role="assistant", content=answers[-1]))
    return answers, again


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, seed=3)])
def test_each_turn_of_a_chat_reads_only_what_is_new(smollm2_folder, edge, is_exact, sampling):
    """Answers, too, are not read again, but for fewer than a run's tokens; and no answer changes by that.

    Where tokens have other bits in runs of their own, the last answer is read again.
    """
    answers, again = chat(edge(smollm2_folder, threads=2), sampling)
    assert answers == chat(edge(smollm2_folder, threads=2, reuse_prefixes=False), sampling)[0]
    print("tokens that were read again in each turn:", again)
    assert max(again[1:]) < BORDER + (0 if is_exact(smollm2_folder) else ANSWER)


def test_an_answer_that_goes_round_in_a_circle_is_ended_and_says_so(smollm2_folder, edge, clear, is_exact):
    request = clear("Write a very long poem in which every line is the same.", max_tokens=700, deadline=500.0)
    last = list(edge(smollm2_folder, threads=2).stream(request))[-1]
    assert last.finish_reason is FinishReason.REPETITION
    assert last.usage.completion_tokens < 700
    assert (last.usage.accepted_prediction_tokens > last.usage.completion_tokens // 2) == is_exact(smollm2_folder)

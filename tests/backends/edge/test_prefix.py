"""Prompts with a common prefix are computed once, within the memory limit and one tenant, and answers stay the same."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.edge.scheduling import BORDER, Entry, Prefix, PrefixCache
from hybrid_llm.core.errors import BackendUnavailable, StreamInterrupted
from hybrid_llm.core.protocols import SessionAware
from hybrid_llm.core.request import Sampling

STORY = "Once there was a train that went over seven hills and nine rivers. " * 4


def ask(backend, clear, text, **options):
    options.setdefault("max_tokens", 12)
    options.setdefault("deadline", 60.0)
    chunks = list(backend.stream(clear(text, **options)))
    return SimpleNamespace(text="".join(c.text for c in chunks), usage=chunks[-1].usage)


def cancel_after(backend, clear, text, pieces):
    with closing(backend.stream(clear(text, max_tokens=20, deadline=60.0))) as chunks:
        for _ in range(pieces):
            next(chunks)


def cached(backend, clear, text, **options):
    return ask(backend, clear, text, **options).usage.cached_prompt_tokens


@pytest.mark.parametrize("name", ["random", "trained"])
def test_texts_that_begin_alike_get_the_answers_they_get_without_reuse(name, edge, tiny, clear):
    """Random branches of one story, some given up in mid-answer, beside a backend that keeps nothing."""
    folder = {"random": tiny.int4, "trained": embedded_model()}[name]
    backend, plain = edge(folder), edge(folder, reuse_prefixes=False)
    rng, reused = random.Random(5), 0
    words = STORY.split()
    for _ in range(20):
        text = " ".join(words[: rng.randrange(len(words))] + rng.choices(words, k=rng.randrange(6)))
        if rng.random() < 0.3:
            with closing(backend.stream(clear(text, max_tokens=20, deadline=60.0))) as chunks:
                for _ in range(rng.randrange(4)):
                    next(chunks)
        answer = ask(backend, clear, text)
        reused += answer.usage.cached_prompt_tokens
        assert answer.text == ask(plain, clear, text).text
        assert answer.usage.cached_prompt_tokens < answer.usage.prompt_tokens
    assert reused > 200, "nothing was reused: equality proves nothing"


@pytest.fixture(scope="module")
def fp32(tiny):
    return EdgeModel(tiny.fp32, threads=1)


@given(kept=st.integers(1, 40), shared=st.integers(0, 40), new=st.integers(1, 20), more=st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_a_sequence_that_starts_from_a_stored_prefix_has_the_same_logits(fp32, kept, shared, new, more):
    shared = min(shared, kept)
    rng = random.Random(kept * 1000 + shared)
    first = [rng.randrange(5, 1000) for _ in range(kept)]
    second = [*first[:shared], *(rng.randrange(5, 1000) for _ in range(new))]
    donor = fp32.sequence(kept + 3)
    donor.append(first)
    heir = fp32.sequence(len(second) + more, Prefix(length=shared, buffers=list(donor.buffers)))
    alone = fp32.sequence(len(second) + more)
    expected = alone.append(second).copy()
    np.testing.assert_allclose(heir.append(second[shared:]), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(donor.append([7]), fp32.sequence(kept + 1).append([*first, 7]), rtol=1e-3, atol=1e-3)


def test_the_next_turn_reads_what_is_new_and_the_rest_before_the_last_border(edge, clear):
    backend = edge()
    first = ask(backend, clear, STORY)
    again = ask(backend, clear, STORY)
    border = (first.usage.prompt_tokens - 1) // BORDER * BORDER
    assert (first.usage.cached_prompt_tokens, again.usage.cached_prompt_tokens) == (0, border)
    assert again.text == first.text
    grown = ask(backend, clear, STORY + "And then it came to the sea, where it stood and looked.")
    assert border - BORDER <= grown.usage.cached_prompt_tokens <= border


@pytest.mark.parametrize("name", ["random", "trained"])
def test_what_was_cached_changes_no_bit_of_an_answer(name, edge, tiny, clear):
    """Drawn at a high temperature with a seed, so that a difference in the last bit of a logit soon shows."""
    folder = {"random": tiny.int4, "trained": embedded_model()}[name]
    backend, plain = edge(folder, threads=2, max_concurrency=4), edge(folder, threads=2, reuse_prefixes=False)

    def answer(of, turn):
        text = STORY[: 90 * (1 + turn // 4)]
        sampling = Sampling(temperature=1.5, seed=turn % 4) if turn % 4 else Sampling()
        return ask(of, clear, text, max_tokens=40, sampling=sampling)

    expected = [answer(plain, turn).text for turn in range(12)]
    assert len(set(expected)) > 6
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            stopped = [pool.submit(cancel_after, backend, clear, STORY[: 70 * count], count) for count in range(1, 4)]
            answers = list(pool.map(partial(answer, backend), range(12)))
            assert [each.text for each in answers] == expected
            wait(stopped)
    assert sum(each.usage.cached_prompt_tokens for each in answers) > 300, "nothing was reused: equality proves nothing"


@pytest.mark.parametrize("threads", [1, 2])
def test_logits_and_keys_are_the_same_bits_whatever_was_cached(tiny, threads):
    model = EdgeModel(tiny.int4, threads=threads)
    ids = [5 + (7 * i) % 1000 for i in range(3 * BORDER + 5)]
    alone = model.sequence(len(ids))
    expected = alone.append(ids).copy()
    donor = model.sequence(len(ids) + 9)
    donor.append(ids[: 2 * BORDER + 7])
    for token in range(5, 13):  # an answer, which is not reused
        donor.append([token])
    assert donor.reusable == 2 * BORDER
    heir = model.sequence(len(ids) + 3, Prefix(length=donor.reusable, buffers=list(donor.release())))
    np.testing.assert_array_equal(heir.append(ids[2 * BORDER :]), expected)
    for inherited, computed in zip(heir.buffers, alone.buffers, strict=True):
        np.testing.assert_array_equal(inherited[:, :, : len(ids)], computed)


def test_another_tenant_begins_anew(edge, clear):
    backend = edge()
    tokens = [cached(backend, clear, STORY, tenant=tenant) for tenant in ("a", "b", None, "", "a")]
    assert tokens[:4] == [0, 0, 0, 0]
    assert tokens[4] > 100


def test_a_session_that_is_forgotten_leaves_nothing(edge, clear):
    backend = edge()
    assert isinstance(backend, SessionAware)
    for session, tenant in (("s", "t"), ("s", None), ("other", "t")):
        ask(backend, clear, STORY, session_id=session, tenant=tenant)
    backend.forget("s", "t")
    assert backend._prefixes.size > 0
    backend.forget("other", "t")
    assert cached(backend, clear, STORY, tenant="t") == 0
    assert cached(backend, clear, STORY) > 100


def test_with_reuse_off_nothing_is_cached(edge, clear):
    backend = edge(reuse_prefixes=False)
    assert [cached(backend, clear, STORY) for _ in range(2)] == [0, 0]
    backend.forget("s", None)


def test_a_run_that_was_ended_in_the_middle_leaves_only_whole_pieces(fp32):
    ids = [5 + (7 * i) % 1000 for i in range(1500)]
    sequence = fp32.sequence(len(ids))
    timer = threading.Timer(0.05, sequence.terminate)
    timer.start()
    with suppress(Exception):  # onnxruntime has one unrelated exception class per status
        sequence.append(ids)
    timer.join()
    assert sequence.length == 1500 or sequence.length % BORDER == 0
    kept = min(sequence.length, 1400)
    heir, alone = fp32.sequence(1500, Prefix(length=kept, buffers=list(sequence.buffers))), fp32.sequence(1500)
    np.testing.assert_allclose(heir.append(ids[kept:]), alone.append(ids), rtol=1e-3, atol=1e-3)


def test_the_prefix_of_a_cancelled_answer_is_reused(edge, clear):
    backend = edge()
    with closing(backend.stream(clear(STORY, max_tokens=40, deadline=60.0))) as chunks:
        next(chunks)
    assert cached(backend, clear, STORY) > 100


def test_an_answer_that_broke_off_goes_on_without_reading_its_prompt_again(edge, tiny, clear):
    backend, plain = edge(tiny.fp32), edge(tiny.fp32, reuse_prefixes=False)
    with closing(backend.stream(clear(STORY, max_tokens=40, deadline=60.0))) as chunks:
        begun = "".join(chunk.text for chunk in islice(chunks, 8))
    prompt = backend.count_tokens(clear(STORY).request)
    assert cached(backend, clear, STORY, answer_prefix=begun) == prompt // BORDER * BORDER
    assert ask(backend, clear, STORY, answer_prefix=begun).text == ask(plain, clear, STORY, answer_prefix=begun).text


@pytest.mark.parametrize("steps", [0, 3])
def test_a_model_that_failed_leaves_nothing(edge, clear, steps):
    """No number comes out of it after *steps* tokens, which is what a broken weight looks like."""
    backend = edge(load="eager")
    model = backend._model
    whole, broken = model.sequence, iter([True])

    def sequence(capacity, start=None):
        made = whole(capacity, start)
        if next(broken, False):
            append, factors = made.append, iter([1.0] * steps)
            made.append = lambda ids: append(ids) * next(factors, np.nan)
        return made

    model.sequence = sequence
    with pytest.raises(StreamInterrupted if steps else BackendUnavailable, match="failed") as caught:
        ask(backend, clear, STORY)
    assert getattr(caught.value, "received_tokens", 0) == steps
    assert backend._prefixes.size == 0
    assert cached(backend, clear, STORY) == 0


def test_running_requests_evict_stored_prefixes(edge, clear):
    """Two long requests need nearly all memory: what others left is given up, and they neither wait nor fail."""
    probe = edge(load="eager")
    per_token = probe._model.kv_bytes_per_token
    limit = max(1, (2 * 1100 * per_token) >> 20)
    backend = edge(memory_limit_mb=limit, max_concurrency=2)
    for number in range(6):
        ask(backend, clear, f"{number} {STORY}")
    assert 0 < backend._prefixes.size <= limit << 20
    texts = [f"{number} {'ab ' * 300}" for number in range(2)]
    threads = [threading.Thread(target=ask, args=(backend, clear, text), kwargs={"max_tokens": 300}) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backend._prefixes.size + backend._slots.used <= limit << 20
    assert cached(backend, clear, texts[0], max_tokens=4) > 300


def test_a_long_chat_is_moved_where_there_is_no_room_for_two(edge, clear):
    backend = edge(memory_limit_mb=1)
    window = backend.capabilities.context_window
    text = "ab " * (window // 4)
    tokens = ask(backend, clear, text, max_tokens=8).usage.prompt_tokens
    assert tokens > window // 3
    most = window - tokens - 8
    assert cached(backend, clear, text[: len(text) // 2] + " and so on", max_tokens=most) > tokens // 3


def test_many_threads_share_beginnings_and_get_their_own_answers(edge, tiny, clear):
    backend, plain = edge(tiny.fp32, max_concurrency=4, max_queue=40), edge(tiny.fp32, reuse_prefixes=False)
    texts = [STORY[: 40 * (1 + number % 6)] + "xyz"[number % 3] for number in range(18)]
    expected = {text: ask(plain, clear, text).text for text in set(texts)}
    got = {}
    threads = [
        threading.Thread(target=lambda i=i, t=t: got.update({i: ask(backend, clear, t).text}))
        for i, t in enumerate(texts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[i] for i in range(len(texts))] == [expected[text] for text in texts]


def test_a_closed_backend_keeps_nothing(edge, clear):
    backend = edge()
    with closing(backend.stream(clear(STORY, max_tokens=400, deadline=60.0))) as chunks:
        next(chunks)
        backend.close()
        with pytest.raises(BackendUnavailable):
            list(chunks)
    assert backend._prefixes.size == 0


# --- the prefix cache ------------------------------------------------------------------------------------------------


def entry(tokens, size=10, tenant=None, session=None):
    return Entry(tenant=tenant, session_id=session, tokens=list(tokens), buffers=(np.zeros(1),), size=size)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "claim"]), st.integers(0, 60), st.integers(0, 60), st.integers(0, 50)),
        max_size=25,
    )
)
@settings(max_examples=100, deadline=None)
def test_the_limit_holds_and_only_shared_tokens_are_returned(steps):
    prefixes = PrefixCache()
    for kind, shared, own, room in steps:
        tokens = [*range(shared), *(1000 + own + index for index in range(own))]
        if kind == "put":
            prefixes.put(entry(tokens), room)
        else:
            found = prefixes.claim(None, tokens, room)
            assert found is None or (BORDER <= found.length < len(tokens) and found.length % BORDER == 0)
        assert prefixes.size <= room


def test_the_least_recently_used_entry_is_evicted_first():
    prefixes = PrefixCache()
    texts = [[100 * number + index for index in range(80)] for number in range(3)]
    for text in texts:
        prefixes.put(entry(text), 30)
    assert prefixes.claim(None, [*texts[0][:40], 5], 30).length == BORDER
    prefixes.put(entry(range(900, 950)), 20)
    assert [prefixes.claim(None, [*text, 5], 100) is not None for text in texts] == [True, False, False]


def test_what_another_tenant_left_is_not_seen():
    prefixes = PrefixCache()
    prefixes.put(entry(range(50), tenant="a"), 100)
    assert [prefixes.claim(tenant, list(range(50)), 100) for tenant in (None, "", "b")] == [None] * 3
    assert prefixes.claim("a", list(range(50)), 100).length == BORDER


def test_an_entry_stays_for_others_until_a_longer_one_covers_it():
    prefixes = PrefixCache()
    prefixes.put(entry(range(64)), 100)
    prefixes.put(entry([*range(32), *range(500, 532)], tenant="a"), 100)
    assert [prefixes.claim(None, list(range(70)), 100).length for _ in range(3)] == [64] * 3
    prefixes.put(entry(range(128)), 100)
    assert prefixes.size == 20
    assert prefixes.claim("a", list(range(70)), 100).length == 32

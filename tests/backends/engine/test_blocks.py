"""The KV memory in blocks: what is shared, what is evicted, and that texts stay adjacent where memory allows."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import KV_BLOCK
from hybrid_llm.backends.node.engines.blocks import BlockPool, Copy, Table

A, B = list(range(100)), list(range(500, 600))


def opened(pool, tokens, salt="s", longest=0):
    """A table with blocks for *tokens*, how many of those are cached, and the copy that is due."""
    table = Table(salt)
    found = pool.open(table, tokens, longest=max(longest, len(tokens)))
    assert found is not None
    return table, *found


def used(pool, tokens, salt="s"):
    """Compute *tokens* and free their blocks, which are returned."""
    table, *_ = opened(pool, tokens, salt)
    blocks = table.blocks
    pool.close(table, tokens)
    return blocks


def test_blocks_that_hold_nothing_are_taken_first_and_by_number():
    pool = BlockPool(16)
    assert used(pool, A) == [0, 1, 2, 3, 4, 5, 6]
    assert opened(pool, B)[0].blocks == [8, 9, 10, 11, 12, 13, 14]


def test_a_text_goes_on_in_its_own_blocks():
    pool = BlockPool(32)
    blocks = used(pool, A)
    table, cached, copy = opened(pool, [*A, *B])
    assert (cached, copy) == (100, None)
    assert table.blocks == [*range(7 + 6)]
    assert blocks == table.blocks[:7]


def test_two_texts_that_begin_alike_hold_the_same_blocks():
    pool = BlockPool(32)
    first, *_ = opened(pool, A)
    pool.publish(first, A, len(A))
    second, cached, copy = opened(pool, [*A[:40], *B])
    assert second.blocks[:2] == first.blocks[:2]
    assert not set(second.blocks[2:]) & set(first.blocks)
    assert pool.held == 7 + len(second.blocks) - 2
    assert (cached, copy) == (40, Copy(source=first.blocks[2], target=second.blocks[2], tokens=8))
    pool.close(first, A)
    assert pool.held == len(second.blocks), "what the second one holds is not free"
    pool.close(second, [*A[:40], *B])
    assert pool.held == 0


def test_what_is_not_known_to_be_finite_is_not_shared():
    pool = BlockPool(32)
    table, *_ = opened(pool, A)
    pool.publish(table, A, 47)
    assert opened(pool, A)[1] == 32
    pool.close(table, A[:50])
    assert opened(pool, A)[1] == 50


def test_salts_keep_texts_apart():
    pool = BlockPool(64)
    used(pool, A, "mine")
    for salt in ("yours", "", "min", "minee"):
        assert opened(pool, A, salt)[1] == 0
    assert opened(pool, A, "mine")[1] == 99


def test_a_beginning_is_found_after_other_beginnings_only_if_all_before_it_is_the_same():
    pool = BlockPool(64)
    used(pool, [*A[:16], *B[:16]])
    used(pool, [*B[:16], *A[16:32]])
    assert opened(pool, [*A[:32], 7])[1] == 16


def test_the_block_that_was_used_least_recently_is_evicted_and_ends_before_beginnings():
    pool = BlockPool(8)
    used(pool, A[:64])
    used(pool, B[:64])
    used(pool, A[:64])
    used(pool, list(range(900, 920)))
    assert opened(pool, A[:64])[1] == 63
    pool = BlockPool(8)
    used(pool, A)
    used(pool, list(range(900, 932)))
    assert opened(pool, A)[1] == 6 * KV_BLOCK, "one was free, the last one of the text was evicted"


def test_what_was_overwritten_is_not_found():
    pool = BlockPool(4)
    used(pool, A[:64])
    used(pool, B[:64])
    assert opened(pool, A[:64])[1] == 0


def test_an_answer_grows_in_place_while_others_come_and_go():
    pool = BlockPool(64)
    table, *_ = opened(pool, A[:20], longest=320)
    for index in range(18):
        used(pool, [index, *B[:50]])
        assert pool.extend(table, longest=320)
    assert table.blocks == [*range(20)]
    assert table.run == 0


def test_what_is_set_aside_is_given_to_others_when_nothing_else_is_free():
    pool = BlockPool(8)
    first, *_ = opened(pool, A[:16], longest=128)
    second, *_ = opened(pool, B[:64])
    assert second.blocks == [4, 5, 6, 7]
    assert pool.extend(second, longest=80)
    while pool.extend(first, longest=128):
        pass
    assert sorted(first.blocks + second.blocks) == [*range(8)]


def test_a_request_that_does_not_fit_takes_nothing():
    pool = BlockPool(8)
    table, *_ = opened(pool, A[:64])
    assert pool.open(Table(), B, longest=100) is None
    assert pool.open(Table(), B[:64], longest=64, spare=1) is None
    assert pool.held == 4
    pool.close(table, A[:64])
    assert pool.lacking(Table("s"), A[:64]) == 4 - 8
    assert pool.lacking(Table("s"), list(range(200, 400))) == 13 - 8


def test_texts_of_one_length_are_evenly_spaced():
    pool = BlockPool(64)
    tables = [opened(pool, [index, *A[:60]], longest=100)[0] for index in range(8)]
    assert [table.origin for table in tables] == [*range(0, 64, 8)]


@pytest.mark.parametrize("longest", [16 * 5, 16 * 6 - 3, 16 * 8, 16 * 9])
def test_where_all_slots_fit_into_memory_each_text_is_adjacent(longest):
    """The room that is left decides how far a run is rounded up; whoever comes and goes, and with which length."""
    pool = BlockPool(8 * 9, slots=8)
    texts = [[index, *A[:20]] for index in range(8)]
    tables = [opened(pool, text, longest=longest)[0] for text in texts]
    for table, text in zip(tables[1::2], texts[1::2], strict=True):
        pool.close(table, text)
    tables[1::2] = [opened(pool, text, longest=longest)[0] for text in texts[1::2]]
    for table in tables:
        while len(table.blocks) < pool.needed(longest):
            assert pool.extend(table, longest=longest)
        assert table.run == 0
    strides = {
        later.origin - table.origin
        for table, later in itertools.pairwise(sorted(tables, key=lambda table: table.origin))
    }
    assert len(strides) == 1


def test_a_hole_of_the_right_length_is_used_wherever_it_begins():
    pool = BlockPool(16, slots=5)
    first, *_ = opened(pool, A[:16], longest=16 * 3)
    second, *_ = opened(pool, B[:16], longest=16 * 8)
    third, *_ = opened(pool, [7, *B[:15]], longest=16 * 5)
    assert [table.origin for table in (first, second, third)] == [0, 8, 3]
    while len(third.blocks) < 5:
        assert pool.extend(third, longest=16 * 5)
    assert third.blocks == [3, 4, 5, 6, 7]


@given(st.integers(0, 10**6))
def test_a_pool_finds_all_that_it_has_cached_and_nothing_else(seed):
    """Texts over two letters, which share beginnings of every length, in a pool that forgets nothing."""
    rng = random.Random(seed)
    pool, texts = BlockPool(400), [[]]
    for _ in range(8):
        text = [*rng.choice(texts)[: rng.randrange(120)], *(rng.randrange(2) for _ in range(rng.randrange(1, 60)))]
        shared = max(common(text, other) for other in texts)
        _, cached, _ = table = opened(pool, text)
        assert cached <= min(shared, len(text) - 1)
        assert cached >= (min(shared, len(text) - 1) if shared >= KV_BLOCK else 0) // KV_BLOCK * KV_BLOCK
        pool.close(table[0], text)
        texts.append(text)


def common(left, right):
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))

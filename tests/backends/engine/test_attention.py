"""Attention over blocks equals attention computed row by row, whatever a step holds and wherever its blocks are."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import KV_BLOCK
from hybrid_llm.backends.node.engines.attention import Plan, Planner, Window, packed_attention
from hybrid_llm.backends.node.engines.blocks import Table
from hybrid_llm.backends.node.engines.cache import KVCache
from hybrid_llm.backends.node.engines.sequence import Segment

BLOCKS, CAPACITY, HEADS, KV_HEADS, SIZE = 24, 40, 4, 2, 8
EACH = -(-CAPACITY // KV_BLOCK)
LAYER = SimpleNamespace(layer_idx=0)


@st.composite
def tables(draw):
    """Texts in blocks of their own: adjacent and evenly spaced, or anywhere; some begin with the same blocks."""
    count = draw(st.integers(1, 4))
    if draw(st.booleans()):
        space = draw(st.integers(EACH, BLOCKS // count))
        begins = [index * space for index in range(count)]
        blocks = [list(range(begin, begin + EACH)) for begin in begins]
    else:
        order = draw(st.permutations(range(BLOCKS)))
        blocks = [list(order[index * EACH : (index + 1) * EACH]) for index in range(count)]
    if draw(st.booleans()):
        blocks = [[blocks[0][0], *own[1:]] for own in blocks]
    return blocks


def table_of(blocks):
    table = Table()
    for block in blocks:
        table.append(block)
    table.next = table.end = blocks[-1] + 1
    return table


@st.composite
def steps(draw):
    """Decoding segments by the origin of their tables, then chunks of prompts, each of a text of its own."""
    texts = draw(tables())
    decodes = draw(st.integers(0, len(texts)))
    decoding, reading = [], []
    for index, blocks in enumerate(texts):
        count = 1 if index < decodes else draw(st.integers(2, 12))
        start = draw(st.integers(KV_BLOCK, CAPACITY - count) | st.integers(0, 2))
        if len(texts) > 1:
            start = max(start, KV_BLOCK)  # the first block may be shared: nobody writes to it
        table = table_of(blocks[: -(-(start + count) // KV_BLOCK)])  # what follows is nobody's, or another one's
        segment = Segment(table=table, start=start, ids=[0] * count, complete=True)
        (decoding if count == 1 else reading).append(segment)
    decoding.sort(key=lambda segment: segment.table.origin)
    return [*decoding, *reading], decodes


@st.composite
def windows(draw):
    """Of every width, sliding or in chunks."""
    width = draw(st.integers(1, CAPACITY + 4))
    if draw(st.booleans()):
        return Window([position // width * width for position in range(CAPACITY)])
    return draw(st.sampled_from((Window(), Window([max(0, each - width + 1) for each in range(CAPACITY)]))))


def stored_at(table, position):
    return table.blocks[position // KV_BLOCK] * KV_BLOCK + position % KV_BLOCK


def row_by_row(query, keys, values, segments, window, *, softcap, sinks):
    places = [(segment.table, position) for segment in segments for position in range(segment.start, segment.end)]
    found = torch.empty(len(places), HEADS, SIZE)
    for row, (table, position) in enumerate(places):
        seen = [stored_at(table, each) for each in range(window.first(position), position + 1)]
        for head in range(HEADS):
            kv_head = head * KV_HEADS // HEADS
            scores = keys[seen, kv_head] @ query[0, head, row] * SIZE**-0.5
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            sink = torch.empty(0) if sinks is None else sinks[head : head + 1]
            weights = torch.cat((scores, sink)).softmax(-1)[: len(scores)]
            found[row, head] = weights @ values[seen, kv_head]
    return found


@given(steps(), windows(), st.sampled_from((None, 1.5)), st.booleans(), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_each_row_attends_to_its_own_text_within_its_window(step, window, softcap, with_sinks, seed):
    """What no text of the step holds is NaN: it is read by none of them, not even to be masked."""
    segments, decoding = step
    random = torch.Generator().manual_seed(seed)
    cache = KVCache(blocks=BLOCKS, dtype=torch.float32, device=torch.device("cpu"))
    full = [torch.randn(BLOCKS * KV_BLOCK, KV_HEADS, SIZE, generator=random) for _ in range(2)]
    held = {block for segment in segments for block in segment.table.blocks}
    for block in set(range(BLOCKS)) - held:
        for stored in full:
            stored[block * KV_BLOCK : (block + 1) * KV_BLOCK] = torch.nan
    cache.write(0, torch.arange(BLOCKS * KV_BLOCK), *full)
    rows = [
        stored_at(segment.table, position) for segment in segments for position in range(segment.start, segment.end)
    ]
    query = torch.randn(1, HEADS, len(rows), SIZE, generator=random)
    new = [torch.randn(1, KV_HEADS, len(rows), SIZE, generator=random) for _ in range(2)]
    sinks = torch.randn(HEADS, generator=random) if with_sinks else None
    planner = Planner(window, dtype=torch.float32, device=torch.device("cpu"))
    layers = {0: planner.plan(segments[:decoding], segments[decoding:])}
    plan = Plan(cache=cache, rows=torch.tensor(rows), layers=layers)
    output, _ = packed_attention(LAYER, query, *new, None, softcap=softcap, s_aux=sinks, plan=plan)
    for stored, written in zip(full, new, strict=True):
        stored[torch.tensor(rows)] = written[0].transpose(0, 1)
    expected = row_by_row(query, *full, segments, window, softcap=softcap, sinks=sinks)
    torch.testing.assert_close(output[0], expected, atol=1e-5, rtol=1e-4)

"""Attention over the slots equals attention computed row by row, whatever a step holds and a layer sees."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.node.engines.attention import Plan, Planner, Window, packed_attention
from hybrid_llm.backends.node.engines.cache import KVCache
from hybrid_llm.backends.node.engines.scheduler import Segment

SLOTS, CAPACITY, HEADS, KV_HEADS, SIZE = 4, 24, 4, 2, 8
LAYER = SimpleNamespace(layer_idx=0)


@st.composite
def steps(draw):
    """Decoding segments by slot, then chunks of prompts, each in a slot of its own."""
    slots = draw(st.lists(st.integers(0, SLOTS - 1), unique=True, min_size=1))
    decoding = sorted(slots[: draw(st.integers(0, len(slots)))])
    found = []
    for slot in decoding + [slot for slot in slots if slot not in decoding]:
        count = 1 if slot in decoding else draw(st.integers(2, 12))
        start = draw(st.integers(0, CAPACITY - count))
        found.append(Segment(slot=slot, start=start, ids=[0] * count, complete=True))
    return found, len(decoding)


@st.composite
def windows(draw):
    """Of every width, sliding or in chunks."""
    width = draw(st.integers(1, CAPACITY + 4))
    if draw(st.booleans()):
        return Window([position // width * width for position in range(CAPACITY)])
    return draw(st.sampled_from((Window(), Window([max(0, each - width + 1) for each in range(CAPACITY)]))))


def row_by_row(query, keys, values, segments, window, *, softcap, sinks):
    places = [(segment.slot, position) for segment in segments for position in range(segment.start, segment.end)]
    found = torch.empty(len(places), HEADS, SIZE)
    for row, (slot, position) in enumerate(places):
        for head in range(HEADS):
            seen = slice(window.first(position), position + 1)
            kv_head = head * KV_HEADS // HEADS
            scores = keys[slot, seen, kv_head] @ query[0, head, row] * SIZE**-0.5
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            sink = torch.empty(0) if sinks is None else sinks[head : head + 1]
            weights = torch.cat((scores, sink)).softmax(-1)[: len(scores)]
            found[row, head] = weights @ values[slot, seen, kv_head]
    return found


@given(steps(), windows(), st.sampled_from((None, 1.5)), st.booleans(), st.integers(0, 99))
def test_each_row_attends_to_its_slot_within_its_window(step, window, softcap, with_sinks, seed):
    segments, decoding = step
    random = torch.Generator().manual_seed(seed)
    cache = KVCache(slots=SLOTS, capacity=CAPACITY, dtype=torch.float32, device=torch.device("cpu"))
    full = [torch.randn(SLOTS * CAPACITY, KV_HEADS, SIZE, generator=random) for _ in range(2)]
    cache.write(0, torch.arange(SLOTS * CAPACITY), *full)
    rows = [segment.slot * CAPACITY + at for segment in segments for at in range(segment.start, segment.end)]
    query = torch.randn(1, HEADS, len(rows), SIZE, generator=random)
    new = [torch.randn(1, KV_HEADS, len(rows), SIZE, generator=random) for _ in range(2)]
    sinks = torch.randn(HEADS, generator=random) if with_sinks else None
    planner = Planner(window, dtype=torch.float32, device=torch.device("cpu"))
    layers = {0: planner.plan(segments[:decoding], segments[decoding:])}
    plan = Plan(cache=cache, rows=torch.tensor(rows), layers=layers)
    output, _ = packed_attention(LAYER, query, *new, None, softcap=softcap, s_aux=sinks, plan=plan)
    for stored, written in zip(full, new, strict=True):
        stored[torch.tensor(rows)] = written[0].transpose(0, 1)
    keys, values = (stored.view(SLOTS, CAPACITY, KV_HEADS, SIZE) for stored in full)
    expected = row_by_row(query, keys, values, segments, window, softcap=softcap, sinks=sinks)
    torch.testing.assert_close(output[0], expected, atol=1e-5, rtol=1e-4)

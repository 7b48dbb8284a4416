"""Attention of one step over the KV memory: each token attends to the blocks of its own text, within its window.

Blocks that are adjacent in memory are read in place, by several sequences in one call if they are evenly spaced. Others
are gathered.

`packed_attention` is registered as an `AttentionInterface` of transformers. What a layer attends to is not read from
its arguments: `layers.py` asks the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from hybrid_llm.backends.node.engine import KV_BLOCK
from hybrid_llm.backends.node.engines.cache import KVCache
from hybrid_llm.backends.node.engines.sequence import Segment

_PADDING = 64
"""Padding per row, in tokens, that costs as much as one more call of attention (measured: 10 to 17 us a call)."""


class UnsupportedModel(Exception):
    """The model does something that a runner does not support."""


@dataclass(frozen=True, slots=True)
class Window:
    """What the layers of one kind attend to: each token to itself and to all before it, back to a first one."""

    firsts: Sequence[int] = ()
    """For each position the first one that it attends to; empty where that is always 0."""

    def first(self, position: int) -> int:
        """The first position that the token at *position* attends to."""
        return self.firsts[position] if self.firsts else 0


FULL = Window()


@dataclass(frozen=True, slots=True)
class Adjacent:
    """Keys that are read in place: *length* rows of each of *count* texts, the first from *row*, each *stride* on."""

    row: int
    stride: int
    count: int
    length: int

    def of(self, stored: torch.Tensor) -> torch.Tensor:
        """Of all *stored* rows, (rows, kv heads, head size), these: (count, length, kv heads, head size)."""
        token, head, number = stored.stride()
        size = (self.count, self.length, *stored.shape[1:])
        return stored.as_strided(size, (self.stride * token, token, head, number), self.row * token)


@dataclass(frozen=True, slots=True)
class Scattered:
    """Keys that are gathered: of several texts, the same number of *blocks* each, one text after the other.

    *length* is that of each, in tokens.
    """

    blocks: torch.Tensor
    count: int
    length: int

    def of(self, stored: torch.Tensor) -> torch.Tensor:
        """Of all *stored* rows, (rows, kv heads, head size), these: (count, length, kv heads, head size)."""
        gathered = stored.view(-1, KV_BLOCK, *stored.shape[1:]).index_select(0, self.blocks)
        return gathered.view(self.count, self.length, *stored.shape[1:])


Keys = Adjacent | Scattered


@dataclass(frozen=True, slots=True)
class Rows:
    """How rows *first* to *last* of a step attend to *keys*.

    Decoding, each row is the newest token of a text; reading a prompt, they are a chunk of it. Without a *mask* all
    keys are seen, by a prompt up to each of its tokens.
    """

    first: int
    last: int
    keys: Keys
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class StepRows:
    """How the rows of one step attend, in the layers of one kind."""

    decodes: list[Rows]
    prompts: list[Rows]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the layers need to know of one step."""

    cache: KVCache
    rows: torch.Tensor
    """For each row, where its key is stored: block * KV_BLOCK + index in the block."""
    layers: Mapping[int, StepRows]


class Planner:
    """Plans how the segments of a step attend within a *window*."""

    def __init__(self, window: Window, *, dtype: torch.dtype, device: torch.device) -> None:
        self._window = window
        self._dtype = dtype
        self._device = device

    def plan(self, decoding: Sequence[Segment], reading: Sequence[Segment]) -> StepRows:
        """The segments of one token come first, by the origin of their tables."""
        return StepRows(self._decodes(decoding), self._prompts(reading, len(decoding)))

    def _decodes(self, decoding: Sequence[Segment]) -> list[Rows]:
        batches: list[_Batch] = []
        for segment in decoding:
            begin = self._window.first(segment.start)
            if not batches or not batches[-1].take(segment, begin):
                batches.append(_Batch(segment, begin))
        found: list[Rows] = []
        first = 0
        for batch in batches:
            last = first + len(batch.segments)
            found.append(Rows(first, last, *self._batch_keys(batch)))
            first = last
        return found

    def _batch_keys(self, batch: _Batch) -> tuple[Keys, torch.Tensor | None]:
        keys, offsets = self._keys(batch.segments, batch.begins, batch.end)
        seen = [
            (begin - offset, segment.end - offset)
            for segment, begin, offset in zip(batch.segments, batch.begins, offsets, strict=True)
        ]
        if all(each == (0, keys.length) for each in seen):  # no mask is needed, which is the fastest path
            return keys, None
        positions = torch.arange(keys.length, device=self._device)
        hidden = positions >= self._column([end for _, end in seen])
        if any(begin for begin, _ in seen):
            hidden |= positions < self._column([begin for begin, _ in seen])
        return keys, self._mask(hidden)[:, None, None, :]

    def _keys(self, segments: Sequence[Segment], begins: Sequence[int], end: int) -> tuple[Keys, Sequence[int]]:
        """Where to read what the texts have from *begins* to *end* at most, and which position of each is the first."""
        if _adjacent(segments[0], begins[0]):
            begin, origins = min(begins), [segment.table.origin for segment in segments]
            stride = origins[1] - origins[0] if len(origins) > 1 else 0
            keys = Adjacent(origins[0] * KV_BLOCK + begin, stride * KV_BLOCK, len(segments), end - begin)
            return keys, [begin] * len(segments)
        firsts = [begin // KV_BLOCK for begin in begins]
        lasts = [(segment.end - 1) // KV_BLOCK for segment in segments]
        count = 1 + max(last - first for first, last in zip(firsts, lasts, strict=True))
        blocks: list[int] = []
        for segment, first, last in zip(segments, firsts, lasts, strict=True):
            own = segment.table.blocks[first : last + 1]
            blocks += own + own[-1:] * (count - len(own))
        where = torch.tensor(blocks, dtype=torch.long, device=self._device)
        return Scattered(where, len(segments), count * KV_BLOCK), [first * KV_BLOCK for first in firsts]

    def _prompts(self, segments: Sequence[Segment], first: int) -> list[Rows]:
        found: list[Rows] = []
        for segment in segments:
            last = first + len(segment.ids)
            begins = self._window.firsts[segment.start : segment.end] or (0,)
            keys, (offset,) = self._keys([segment], [min(begins)], segment.end)
            mask = None  # causal from the first key on, as in a prompt's first chunk, needs no mask
            if offset < max(segment.start, *begins) or offset + keys.length > segment.end:
                positions = torch.arange(offset, offset + keys.length, device=self._device)
                hidden = positions > torch.arange(segment.start, segment.end, device=self._device)[:, None]
                if max(begins) > offset:
                    hidden |= positions < self._column(begins)
                mask = self._mask(hidden)
            found.append(Rows(first, last, keys, mask))
            first = last
        return found

    def _column(self, positions: Sequence[int]) -> torch.Tensor:
        return torch.tensor(positions, device=self._device)[:, None]

    def _mask(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros(hidden.shape, dtype=self._dtype, device=self._device).masked_fill_(hidden, -torch.inf)


class _Batch:
    """Decoding segments that attend in one call: little padding, and all gathered, or evenly spaced in memory."""

    def __init__(self, segment: Segment, begin: int) -> None:
        self.segments = [segment]
        self.begins = [begin]
        self.end = self._tokens = segment.end
        self._adjacent = _adjacent(segment, begin)
        self._begin, self._run, self._readable = begin, segment.table.run, segment.table.readable

    def take(self, segment: Segment, begin: int) -> bool:
        """Add *segment*, which attends to its text from *begin* on, if it fits."""
        end, tokens, count = max(self.end, segment.end), self._tokens + segment.end, len(self.segments) + 1
        if end * count - tokens > _PADDING * count or _adjacent(segment, begin) != self._adjacent:
            return False
        if self._adjacent and not (self._even(segment) and self._can_read(segment, begin, end)):
            return False
        self.segments.append(segment)
        self.begins.append(begin)
        self.end, self._tokens = end, tokens
        return True

    def _even(self, segment: Segment) -> bool:
        """Whether *segment* is as far from the last one as those are from each other."""
        *before, last = (each.table.origin for each in self.segments[-2:])
        stride = segment.table.origin - last
        return stride == last - before[0] if before else stride >= 0

    def _can_read(self, segment: Segment, begin: int, end: int) -> bool:
        """Whether each of the texts, *segment* too, may be read where the others are."""
        self._begin = min(self._begin, begin)
        self._run = max(self._run, segment.table.run)
        self._readable = min(self._readable, segment.table.readable)
        return self._run * KV_BLOCK <= self._begin and end <= self._readable * KV_BLOCK


def _adjacent(segment: Segment, begin: int) -> bool:
    """Whether what *segment* attends to, from the position *begin* on, is in one run of blocks."""
    return begin >= segment.table.run * KV_BLOCK


@dataclass(frozen=True, slots=True)
class Scores:
    """How a layer computes its attention scores from the products of queries and keys."""

    scaling: float | None
    """The square root of 1 / head size where it is None."""
    softcap: float | None
    """The scores stay within this bound, by tanh."""
    sinks: torch.Tensor | None
    """One score for each head, of a key that is always seen and has no value."""

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, *, causal: bool
    ) -> torch.Tensor:
        """As `scaled_dot_product_attention`; the sinks broadcast with the scores, their last dimension is 1."""
        if self.softcap is None and self.sinks is None:
            return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, scale=self.scaling)
        scores = query @ key.transpose(-2, -1) * (self.scaling or query.shape[-1] ** -0.5)
        if self.softcap is not None:
            scores = (scores / self.softcap).tanh() * self.softcap
        if causal:
            mask = torch.full_like(scores[0, 0], -torch.inf).triu_(1)
        if mask is not None:
            scores = scores + mask
        if self.sinks is not None:
            scores = torch.cat((scores, self.sinks.expand(*scores.shape[:-1], 1)), -1)
        return scores.softmax(-1, dtype=torch.float32)[..., : key.shape[-2]].to(value.dtype) @ value

    def with_sinks(self, *shape: int) -> Scores:
        """The same, with the sinks in *shape*."""
        return self if self.sinks is None else Scores(self.scaling, self.softcap, self.sinks.reshape(shape))


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    plan: Plan | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over the KV memory, as an `AttentionInterface`; *plan* comes from `PackedRunner.forward`.

    *query* has the shape (1, heads, rows, head size), *key* and *value* (1, kv heads, rows, head size). Returns the
    output, of shape (1, rows, heads, head size), and None for the weights.

    Raises:
        UnsupportedModel: the model does not pass the plan, or masks or biases its attention in its own way.
    """
    if plan is None or attention_mask is not None or position_bias is not None:
        raise UnsupportedModel("it does not pass the plan to its attention, or has a mask or bias of its own")
    scores = Scores(scaling, softcap, s_aux)
    new_keys, new_values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    keys, values = plan.cache.write(module.layer_idx, plan.rows, new_keys, new_values)
    rows = query[0].transpose(0, 1)
    step = plan.layers[module.layer_idx]
    parts = [_attend_decodes(rows, keys, values, part, scores) for part in step.decodes]
    parts += [_attend_prompt(rows, keys, values, part, scores) for part in step.prompts]
    return torch.cat(parts)[None], None


def _attend_decodes(
    rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Rows, scores: Scores
) -> torch.Tensor:
    """The newest token of each of several texts, which form the batch."""
    # Query heads that share a kv head are passed as its query positions: grouped attention without copies of the keys.
    count = part.last - part.first
    heads, size = rows.shape[1:]
    query = rows[part.first : part.last].reshape(count, keys.shape[1], heads // keys.shape[1], size)
    mask = None if part.mask is None else part.mask.expand(-1, 1, query.shape[2], -1)
    output = scores.with_sinks(1, *query.shape[1:3], 1).attend(
        query, part.keys.of(keys).transpose(1, 2), part.keys.of(values).transpose(1, 2), mask, causal=False
    )
    return output.reshape(count, heads, values.shape[2])


def _attend_prompt(
    rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Rows, scores: Scores
) -> torch.Tensor:
    # The kv heads form the batch; `expand` shows the keys to each of their query heads without a copy.
    heads, size = rows.shape[1:]
    groups = heads // keys.shape[1]
    count = part.last - part.first
    query = rows[part.first : part.last].transpose(0, 1).reshape(keys.shape[1], groups, count, size)
    key, value = (
        part.keys.of(stored)[0].transpose(0, 1)[:, None].expand(-1, groups, -1, -1) for stored in (keys, values)
    )
    output = scores.with_sinks(*query.shape[:2], 1, 1).attend(query, key, value, part.mask, causal=part.mask is None)
    return output.permute(2, 0, 1, 3).reshape(count, heads, values.shape[2])

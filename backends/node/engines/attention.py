"""Attention of one step over the slots of the KV cache: each token attends to its own slot, within its layer's window.

`packed_attention` is registered as an `AttentionInterface` of transformers. What a layer attends to is not read from
its arguments: `layers.py` asks the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from hybrid_llm.backends.node.engines.cache import KVCache
from hybrid_llm.backends.node.engines.scheduler import Segment

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
class Rows:
    """How rows *first* to *last* of a step attend.

    Decoding, one new token in each of the slots from *slot* on; reading a prompt, a chunk of it in *slot*. The keys are
    those of the positions *begin* to *end*; without a *mask* all are seen, by a prompt up to each of its tokens.
    """

    first: int
    last: int
    slot: int
    begin: int
    end: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class StepRows:
    """How the rows of one step attend to the slots, in the layers of one kind."""

    decodes: list[Rows]
    prompts: list[Rows]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the layers need to know of one step."""

    cache: KVCache
    rows: torch.Tensor
    """For each row, where its key is stored: slot * capacity + position."""
    layers: Mapping[int, StepRows]


class Planner:
    """Plans how the segments of a step attend within a *window*."""

    def __init__(self, window: Window, *, dtype: torch.dtype, device: torch.device) -> None:
        self._window = window
        self._dtype = dtype
        self._device = device

    def plan(self, decoding: Sequence[Segment], reading: Sequence[Segment]) -> StepRows:
        """The segments of one token come first, by slot."""
        return StepRows(self._decodes(decoding), self._prompts(reading, len(decoding)))

    def _decodes(self, decoding: Sequence[Segment]) -> list[Rows]:
        found: list[Rows] = []
        first = 0
        for last in range(1, len(decoding) + 1):
            if last == len(decoding) or not _fit_together(decoding[first : last + 1]):
                found.append(self._decode_rows(first, decoding[first:last]))
                first = last
        return found

    def _decode_rows(self, first: int, segments: Sequence[Segment]) -> Rows:
        begins = [self._window.first(segment.start) for segment in segments]
        ends = [segment.end for segment in segments]
        begin, end = min(begins), max(ends)
        mask = None
        if min(ends) < end or max(begins) > begin:  # where all are equal no mask is needed, which is the fastest path
            keys = torch.arange(begin, end, device=self._device)
            hidden = keys >= self._column(ends)
            if max(begins) > begin:
                hidden |= keys < self._column(begins)
            mask = self._mask(hidden)[:, None, None, :]
        return Rows(first, first + len(segments), segments[0].slot, begin, end, mask)

    def _prompts(self, segments: Sequence[Segment], first: int) -> list[Rows]:
        found: list[Rows] = []
        for segment in segments:
            last = first + len(segment.ids)
            begins = self._window.firsts[segment.start : segment.end] or (0,)
            begin = min(begins)
            mask = None  # causal from the first key on, as in a prompt's first chunk, needs no mask
            if begin < max(segment.start, *begins):
                keys = torch.arange(begin, segment.end, device=self._device)
                hidden = keys > torch.arange(segment.start, segment.end, device=self._device)[:, None]
                if max(begins) > begin:
                    hidden |= keys < self._column(begins)
                mask = self._mask(hidden)
            found.append(Rows(first, last, segment.slot, begin, segment.end, mask))
            first = last
        return found

    def _column(self, positions: Sequence[int]) -> torch.Tensor:
        return torch.tensor(positions, device=self._device)[:, None]

    def _mask(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros(hidden.shape, dtype=self._dtype, device=self._device).masked_fill_(hidden, -torch.inf)


def _fit_together(segments: Sequence[Segment]) -> bool:
    """Whether one call of attention suits these rows: adjacent slots, and little padding."""
    if segments[-1].slot - segments[0].slot != len(segments) - 1:
        return False
    lengths = [segment.end for segment in segments]
    return max(lengths) * len(lengths) - sum(lengths) <= _PADDING * len(lengths)


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
    """Attention of one layer over the slots, as an `AttentionInterface`; *plan* comes from `PackedRunner.forward`.

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
    """One new token in each of several slots, which form the batch."""
    # Query heads that share a kv head are passed as its query positions: grouped attention without copies of the keys.
    count = part.last - part.first
    heads, size = rows.shape[1:]
    query = rows[part.first : part.last].reshape(count, keys.shape[2], heads // keys.shape[2], size)
    seen = (slice(part.slot, part.slot + count), slice(part.begin, part.end))
    mask = None if part.mask is None else part.mask.expand(-1, 1, query.shape[2], -1)
    output = scores.with_sinks(1, *query.shape[1:3], 1).attend(
        query, keys[seen].transpose(1, 2), values[seen].transpose(1, 2), mask, causal=False
    )
    return output.reshape(count, heads, values.shape[3])


def _attend_prompt(
    rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Rows, scores: Scores
) -> torch.Tensor:
    # The kv heads form the batch; `expand` shows the keys to each of their query heads without a copy.
    heads, size = rows.shape[1:]
    groups = heads // keys.shape[2]
    count = part.last - part.first
    query = rows[part.first : part.last].transpose(0, 1).reshape(keys.shape[2], groups, count, size)
    key, value = (
        stored[part.slot, part.begin : part.end].transpose(0, 1)[:, None].expand(-1, groups, -1, -1)
        for stored in (keys, values)
    )
    output = scores.with_sinks(*query.shape[:2], 1, 1).attend(query, key, value, part.mask, causal=part.mask is None)
    return output.permute(2, 0, 1, 3).reshape(count, heads, values.shape[3])

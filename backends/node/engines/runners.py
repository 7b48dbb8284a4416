"""Compute the segments of a step: packed in one forward pass over all slots, or one request at a time.

The packed runner concatenates the newest token of each answer and chunks of prompts into one sequence. The model is
transformers' own, with our attention registered through `AttentionInterface`: it stores keys and values by slot, and
each token attends to its own slot. The single runner uses the model's own cache, for all other architectures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import chain, takewhile
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicLayer

from hybrid_llm.backends.node.engines.scheduler import Segment

ATTENTION = "hybrid_llm_packed"
_PADDING = 64
"""Padding per row, in tokens, that costs as much as one more call of attention (measured: 10 to 17 us a call)."""


class UnsupportedModel(Exception):
    """The model does something that a runner does not support."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """How rows *first* to *last* of a step attend.

    Decoding, one new token in each of the slots from *slot* on, padded to *length* keys; reading a prompt, a chunk of
    it that is causal over the first *length* keys of *slot*.
    """

    first: int
    last: int
    slot: int
    length: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How the rows of one step attend to the slots; the same for every layer."""

    runner: PackedRunner
    rows: torch.Tensor
    """For each row, where its key is stored: slot * capacity + position."""
    decodes: list[_Rows]
    prompts: list[_Rows]


class PackedRunner:
    """Computes segments of many slots in one forward pass, and holds their KV cache.

    The cache has for each layer keys and values of shape (slots, capacity, kv heads, head size).
    """

    rewinds = True

    def __init__(self, model: Any, *, slots: int, capacity: int) -> None:
        self.capacity = capacity
        self._slots = slots
        self._model = model
        self._dtype: torch.dtype = model.dtype
        self._device: torch.device = model.device
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Logits of shape (complete segments, vocab), in order. Segments of one token must come first, by slot."""
        positions = [position for segment in segments for position in range(segment.start, segment.end)]
        ids = [token for segment in segments for token in segment.ids]
        with torch.inference_mode():
            output = self._model(
                input_ids=self._tensor([ids]),
                position_ids=self._tensor([positions]),
                use_cache=False,
                logits_to_keep=self._tensor(_last_rows(segments)),
                plan=self._plan(segments, positions),
            )
        logits: torch.Tensor = output.logits[0]
        return logits

    def write(
        self, layer: int, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store *keys* and *values*, (tokens, kv heads, head size), at *rows*: slot * capacity + position.

        Returns the layer's keys and values of all slots: views, not copies.
        """
        if layer not in self._layers:
            self._layers[layer] = (self._zeros(keys), self._zeros(values))
        for stored, new in zip(self._layers[layer], (keys, values), strict=True):
            stored.view(-1, *stored.shape[2:]).index_copy_(0, rows, new)  # slots and positions as one dimension
        return self._layers[layer]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first *length* tokens of slot *source* to slot *target*."""
        with torch.inference_mode():
            for stored in self._tensors():
                stored[target, :length].copy_(stored[source, :length])

    def intact(self, slot: int, first: int, last: int) -> bool:
        """Whether all keys and values of the tokens *first* to *last* of *slot* are finite."""
        return all(bool(stored[slot, first:last].isfinite().all()) for stored in self._tensors())

    def wipe(self, slot: int) -> None:
        """Zero a slot: masking multiplies by 0, and 0 times NaN would reach the slot's next request."""
        with torch.inference_mode():
            for stored in self._tensors():
                stored[slot].zero_()

    def _tensors(self) -> Iterator[torch.Tensor]:
        return chain.from_iterable(self._layers.values())

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        shape = (self._slots, self.capacity, *like.shape[1:])
        if self._device.type != "cpu":
            return torch.zeros(shape, dtype=self._dtype, device=self._device)
        # numpy gets zeroed pages from the system, which take memory once they are written; torch.zeros writes them all.
        lazily_zeroed = np.zeros(math.prod(shape) * self._dtype.itemsize, dtype=np.uint8)
        return torch.from_numpy(lazily_zeroed).view(self._dtype).view(shape)

    def _tensor(self, values: list[Any]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)

    def _plan(self, segments: Sequence[Segment], positions: list[int]) -> Plan:
        slots = [segment.slot for segment in segments for _ in segment.ids]
        rows = [slot * self.capacity + position for slot, position in zip(slots, positions, strict=True)]
        decoding = list(takewhile(lambda segment: len(segment.ids) == 1, segments))
        return Plan(
            runner=self,
            rows=self._tensor(rows),
            decodes=self._decodes(decoding),
            prompts=self._prompts(segments[len(decoding) :], len(decoding)),
        )

    def _decodes(self, decoding: Sequence[Segment]) -> list[_Rows]:
        found: list[_Rows] = []
        first = 0
        for last in range(1, len(decoding) + 1):
            if last == len(decoding) or not _fit_together(decoding[first : last + 1]):
                found.append(self._decode_rows(first, decoding[first:last]))
                first = last
        return found

    def _decode_rows(self, first: int, segments: Sequence[Segment]) -> _Rows:
        lengths = [segment.end for segment in segments]
        longest = max(lengths)
        mask = None
        if min(lengths) < longest:  # without padding no mask is needed, which is the fastest path
            beyond = torch.arange(longest, device=self._device) >= self._tensor(lengths)[:, None]
            mask = torch.zeros(beyond.shape, dtype=self._dtype, device=self._device)
            mask = mask.masked_fill_(beyond, -torch.inf)[:, None, None, :]
        return _Rows(first, first + len(segments), segments[0].slot, longest, mask)

    def _prompts(self, segments: Sequence[Segment], first: int) -> list[_Rows]:
        found: list[_Rows] = []
        for segment in segments:
            mask = None  # a prompt's first chunk is causal from the first key on, which needs no mask
            if segment.start > 0:  # later ones see all keys before them, and are causal among themselves
                shape = (len(segment.ids), segment.end)
                mask = torch.full(shape, -torch.inf, dtype=self._dtype, device=self._device).triu_(segment.start + 1)
            found.append(_Rows(first, first + len(segment.ids), segment.slot, segment.end, mask))
            first += len(segment.ids)
        return found


def _last_rows(segments: Sequence[Segment]) -> list[int]:
    """The row of each complete segment's newest token."""
    rows: list[int] = []
    end = 0
    for segment in segments:
        end += len(segment.ids)
        if segment.complete:
            rows.append(end - 1)
    return rows


def _fit_together(segments: Sequence[Segment]) -> bool:
    """Whether one call of attention suits these rows: adjacent slots, and little padding."""
    if segments[-1].slot - segments[0].slot != len(segments) - 1:
        return False
    lengths = [segment.end for segment in segments]
    return max(lengths) * len(lengths) - sum(lengths) <= _PADDING * len(lengths)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    plan: Plan | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over the slots, as an `AttentionInterface`; *plan* comes from `PackedRunner.forward`.

    *query* has the shape (1, heads, rows, head size), *key* and *value* (1, kv heads, rows, head size). Returns the
    output, of shape (1, rows, heads, head size), and None for the weights.

    Raises:
        UnsupportedModel: the layer needs more than causal attention: a window, sinks, a soft cap or its own mask.
    """
    if plan is None or attention_mask is not None:
        raise UnsupportedModel("the model does not pass the plan to its attention, or has its own mask")
    _refuse_options(options, plan.runner.capacity)
    new_keys, new_values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    keys, values = plan.runner.write(module.layer_idx, plan.rows, new_keys, new_values)
    rows = query[0].transpose(0, 1)
    parts = [_attend_decodes(rows, keys, values, part, scaling) for part in plan.decodes]
    parts += [_attend_prompt(rows, keys, values, part, scaling) for part in plan.prompts]
    return torch.cat(parts)[None], None


def _refuse_options(options: dict[str, Any], capacity: int) -> None:
    window = options.get("sliding_window")
    if window is not None and window < capacity:
        raise UnsupportedModel(f"its attention sees a window of {window} tokens")
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise UnsupportedModel(f"its attention has {name}")


def _attend_decodes(
    rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: _Rows, scaling: float | None
) -> torch.Tensor:
    """One new token in each of several slots, which form the batch."""
    # Query heads that share a kv head are passed as its query positions: grouped attention without copies of the keys.
    count = part.last - part.first
    heads, size = rows.shape[1:]
    query = rows[part.first : part.last].reshape(count, keys.shape[2], heads // keys.shape[2], size)
    seen = (slice(part.slot, part.slot + count), slice(0, part.length))
    mask = None if part.mask is None else part.mask.expand(-1, 1, query.shape[2], -1)
    output = scaled_dot_product_attention(
        query, keys[seen].transpose(1, 2), values[seen].transpose(1, 2), attn_mask=mask, scale=scaling
    )
    return output.reshape(count, heads, values.shape[3])


def _attend_prompt(
    rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: _Rows, scaling: float | None
) -> torch.Tensor:
    # The kv heads form the batch; `expand` shows the keys to each of their query heads without a copy.
    heads, size = rows.shape[1:]
    groups = heads // keys.shape[2]
    count = part.last - part.first
    query = rows[part.first : part.last].transpose(0, 1).reshape(keys.shape[2], groups, count, size)
    key, value = (
        stored[part.slot, : part.length].transpose(0, 1)[:, None].expand(-1, groups, -1, -1)
        for stored in (keys, values)
    )
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=part.mask, is_causal=part.mask is None, scale=scaling
    )
    return output.permute(2, 0, 1, 3).reshape(count, heads, values.shape[3])


class SingleRunner:
    """Computes the segments of the only slot, whole prompts at once, with the model's own cache."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # transformers renames this argument: 5.40 will not accept the old name.
        self._name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
        self._cache: Any = None

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Logits of shape (1, vocab). *segments* has one item, a complete segment."""
        (segment,) = segments
        self._rewind(segment.start)
        with torch.inference_mode():
            ids = torch.tensor([segment.ids], dtype=torch.long, device=self._model.device)
            known = {self._name: self._cache}
            output = self._model(input_ids=ids, use_cache=True, logits_to_keep=1, **known)
        self._cache = getattr(output, self._name, None)
        if self._cache is None:
            raise UnsupportedModel(f"the model returns no {self._name}")
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    @property
    def rewinds(self) -> bool:
        """Whether the cache can be cut back to any length: not where a layer stores a window or a recurrent state."""
        return all(type(layer) is DynamicLayer for layer in getattr(self._cache, "layers", [None]))

    def wipe(self, slot: int) -> None:
        """Drop the cache."""
        del slot
        self._cache = None

    def copy(self, source: int, target: int, length: int) -> None:
        """Never called: there is one slot."""
        raise NotImplementedError

    def intact(self, slot: int, first: int, last: int) -> bool:
        """False: the model's cache cannot be inspected."""
        del slot, first, last
        return False

    def _rewind(self, length: int) -> None:
        if length == 0:
            self._cache = None
        elif self.rewinds and (more := self._cache.get_seq_length() - length) > 0:
            self._cache.crop(-more)

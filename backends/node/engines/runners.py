"""The KV cache: one tensor of keys and one of values per layer, a row of fixed length for each slot. Storage only.

One forward over everybody: the newest token of each answer and pieces of prompts, side by side in one row of tokens.

The model is transformers' own. Only its attention is ours, registered through `AttentionInterface`: it stores keys and
values by slot and lets each token see its own slot. Scheduling and sampling are elsewhere.

One request at a time through the model's own cache: for architectures that the packed loop does not take.
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


class SlotCache:
    """Keys and values of shape (slots, capacity, kv heads, head size) for each layer.

    On the cpu the pages come from the system zeroed and are taken when written: a large cache costs what is used.
    """

    def __init__(self, *, slots: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.slots = slots
        self.capacity = capacity
        self._dtype = dtype
        self._device = device
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def write(self, layer: int, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store *keys* and *values*, (tokens, kv heads, head size), at *rows*: slot * capacity + position."""
        if layer not in self._layers:
            self._layers[layer] = (self._zeros(keys), self._zeros(values))
        for stored, new in zip(self._layers[layer], (keys, values), strict=True):
            stored.view(-1, *stored.shape[2:]).index_copy_(0, rows, new)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all slots of *layer*: views, not copies."""
        return self._layers[layer]

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot *target* the first *length* tokens of slot *source*."""
        with torch.inference_mode():
            for stored in self._tensors():
                stored[target, :length].copy_(stored[source, :length])

    def finite(self, slot: int, first: int, last: int) -> bool:
        """Whether every number of the tokens *first* to *last* of *slot* is one."""
        return all(bool(stored[slot, first:last].isfinite().all()) for stored in self._tensors())

    def wipe(self, slot: int) -> None:
        """Zero a slot: what is not finite in it would reach its next user through the mask."""
        with torch.inference_mode():
            for stored in self._tensors():
                stored[slot].zero_()

    def _tensors(self) -> Iterator[torch.Tensor]:
        return chain.from_iterable(self._layers.values())

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        shape = (self.slots, self.capacity, *like.shape[1:])
        if self._device.type != "cpu":
            return torch.zeros(shape, dtype=self._dtype, device=self._device)
        lazily_zero = np.zeros(math.prod(shape) * self._dtype.itemsize, dtype=np.uint8)
        return torch.from_numpy(lazily_zero).view(self._dtype).view(shape)


ATTENTION = "hybrid_llm_packed"
_PADDING = 64
"""Padded tokens a row that cost as much as one more call of attention (measured: 10 to 17 us a call)."""


class UnsupportedModel(Exception):
    """The model does something in its attention that the packed loop does not do."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Decode rows *first* to *last* of the step, in neighbouring slots from *slot* on, padded to *length* keys."""

    first: int
    last: int
    slot: int
    length: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class _Piece:
    """Prompt rows *first* to *last* of the step: the keys of *slot* up to *length*, causal."""

    first: int
    last: int
    slot: int
    length: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step's attention needs to know; the same for every layer."""

    cache: SlotCache
    rows: torch.Tensor
    runs: tuple[_Run, ...]
    pieces: tuple[_Piece, ...]


class PackedRunner:
    """Reads segments of many slots in one forward."""

    def __init__(self, model: Any, cache: SlotCache) -> None:
        self._model = model
        self._cache = cache
        self._dtype: torch.dtype = model.dtype
        self._device: torch.device = model.device

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Logits of shape (complete segments, vocab), in order. *segments* of one token come first, by slot."""
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

    def wipe(self, slot: int) -> None:
        """Forget what *slot* holds."""
        self._cache.wipe(slot)

    def copy(self, source: int, target: int, length: int) -> None:
        """Give *target* the first *length* tokens of *source*."""
        self._cache.copy(source, target, length)

    def intact(self, slot: int, first: int, last: int) -> bool:
        """Whether what was computed for the tokens *first* to *last* of *slot* is finite."""
        return self._cache.finite(slot, first, last)

    def _tensor(self, values: list[Any]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)

    def _plan(self, segments: Sequence[Segment], positions: list[int]) -> Plan:
        slots = [segment.slot for segment in segments for _ in segment.ids]
        rows = [slot * self._cache.capacity + position for slot, position in zip(slots, positions, strict=True)]
        decoding = list(takewhile(lambda segment: len(segment.ids) == 1, segments))
        return Plan(
            cache=self._cache,
            rows=self._tensor(rows),
            runs=tuple(self._runs(decoding)),
            pieces=tuple(self._pieces(segments[len(decoding) :], len(decoding))),
        )

    def _runs(self, decoding: Sequence[Segment]) -> list[_Run]:
        runs: list[_Run] = []
        first = 0
        for last in range(1, len(decoding) + 1):
            if last == len(decoding) or not _together(decoding[first : last + 1]):
                runs.append(self._run(first, decoding[first:last]))
                first = last
        return runs

    def _run(self, first: int, segments: Sequence[Segment]) -> _Run:
        lengths = [segment.end for segment in segments]
        longest = max(lengths)
        mask = None
        if min(lengths) < longest:
            beyond = torch.arange(longest, device=self._device) >= self._tensor(lengths)[:, None]
            mask = torch.zeros(beyond.shape, dtype=self._dtype, device=self._device)
            mask = mask.masked_fill_(beyond, -torch.inf)[:, None, None, :]
        return _Run(first, first + len(segments), segments[0].slot, longest, mask)

    def _pieces(self, segments: Sequence[Segment], first: int) -> list[_Piece]:
        pieces: list[_Piece] = []
        for segment in segments:
            mask = None
            if segment.start > 0:
                shape = (len(segment.ids), segment.end)
                mask = torch.full(shape, -torch.inf, dtype=self._dtype, device=self._device).triu_(segment.start + 1)
            pieces.append(_Piece(first, first + len(segment.ids), segment.slot, segment.end, mask))
            first += len(segment.ids)
        return pieces


def _last_rows(segments: Sequence[Segment]) -> list[int]:
    """The row of the newest token of each complete segment."""
    rows: list[int] = []
    end = 0
    for segment in segments:
        end += len(segment.ids)
        if segment.complete:
            rows.append(end - 1)
    return rows


def _together(segments: Sequence[Segment]) -> bool:
    """Whether these rows go into one call: neighbouring slots, and little padding."""
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
    """Attention of one layer over the slots: *query* is (1, heads, rows, head size), *key* and *value* have kv heads.

    Returns (1, rows, heads, head size), as `AttentionInterface` asks for.

    Raises:
        UnsupportedModel: the layer wants more than causal attention: a window, sinks, a soft cap, a mask of its own.
    """
    if plan is None or attention_mask is not None:
        raise UnsupportedModel("the model does not hand the plan to its attention, or has a mask of its own")
    _refuse_options(options, plan.cache.capacity)
    plan.cache.write(module.layer_idx, plan.rows, key[0].transpose(0, 1), value[0].transpose(0, 1))
    keys, values = plan.cache.read(module.layer_idx)
    rows = query[0].transpose(0, 1)
    parts = [_attend_run(rows, keys, values, run, scaling) for run in plan.runs]
    parts += [_attend_piece(rows, keys, values, piece, scaling) for piece in plan.pieces]
    return torch.cat(parts)[None], None


def _refuse_options(options: dict[str, Any], capacity: int) -> None:
    window = options.get("sliding_window")
    if window is not None and window < capacity:
        raise UnsupportedModel(f"its attention sees a window of {window} tokens")
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise UnsupportedModel(f"its attention has {name}")


def _attend_run(
    rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, run: _Run, scaling: float | None
) -> torch.Tensor:
    """One new token in each of several slots: the query heads that share a kv head stand as its query positions."""
    count = run.last - run.first
    heads, size = rows.shape[1:]
    query = rows[run.first : run.last].reshape(count, keys.shape[2], heads // keys.shape[2], size)
    seen = (slice(run.slot, run.slot + count), slice(0, run.length))
    mask = None if run.mask is None else run.mask.expand(-1, 1, query.shape[2], -1)
    output = scaled_dot_product_attention(
        query, keys[seen].transpose(1, 2), values[seen].transpose(1, 2), attn_mask=mask, scale=scaling
    )
    return output.reshape(count, heads, values.shape[3])


def _attend_piece(
    rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, piece: _Piece, scaling: float | None
) -> torch.Tensor:
    """A piece of one prompt: kv heads stand as the batch, and are shown to each of their query heads without a copy."""
    heads, size = rows.shape[1:]
    groups = heads // keys.shape[2]
    count = piece.last - piece.first
    query = rows[piece.first : piece.last].transpose(0, 1).reshape(keys.shape[2], groups, count, size)
    key, value = (
        stored[piece.slot, : piece.length].transpose(0, 1)[:, None].expand(-1, groups, -1, -1)
        for stored in (keys, values)
    )
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=piece.mask, is_causal=piece.mask is None, scale=scaling
    )
    return output.permute(2, 0, 1, 3).reshape(count, heads, values.shape[3])


class SingleRunner:
    """Reads the segments of one slot, whole prompts at once, with whatever cache the model makes for itself."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # Newer releases of transformers give it another name, and 5.40 will not know the old one.
        self._name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
        self._cache: Any = None

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Logits of shape (1, vocab). *segments* is a single complete one."""
        (segment,) = segments
        self._rewind(segment.start)
        with torch.inference_mode():
            ids = torch.tensor([segment.ids], dtype=torch.long, device=self._model.device)
            known = {self._name: self._cache}
            output = self._model(input_ids=ids, use_cache=True, logits_to_keep=1, **known)
        self._cache = getattr(output, self._name, None)
        if self._cache is None:
            raise UnsupportedModel(f"the model keeps no {self._name}")
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    @property
    def rewinds(self) -> bool:
        """Whether the model can go on from any token of the last text: not where a layer keeps a window or a state."""
        return all(type(layer) is DynamicLayer for layer in getattr(self._cache, "layers", [None]))

    def wipe(self, slot: int) -> None:
        """Forget what *slot* holds."""
        del slot
        self._cache = None

    def copy(self, source: int, target: int, length: int) -> None:
        """There is one slot, and nothing to copy."""
        raise NotImplementedError

    def intact(self, slot: int, first: int, last: int) -> bool:
        """Nobody can tell from here."""
        del slot, first, last
        return False

    def _rewind(self, length: int) -> None:
        if length == 0:
            self._cache = None
        elif self.rewinds and (more := self._cache.get_seq_length() - length) > 0:
            self._cache.crop(-more)

"""Compute the segments of a step: packed in one forward pass, or one request at a time.

The packed runner concatenates the newest token of each answer and chunks of prompts into one sequence. The model is
transformers' own, with our attention registered through `AttentionInterface`: it stores keys and values in blocks, and
each token attends to those of its own text. The single runner uses the model's own cache, for all other architectures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import signature
from itertools import takewhile
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from hybrid_llm.backends.node.engine import KV_BLOCK
from hybrid_llm.backends.node.engines.attention import Plan, Planner, UnsupportedModel, Window, packed_attention
from hybrid_llm.backends.node.engines.blocks import Copy, Table
from hybrid_llm.backends.node.engines.cache import KVCache
from hybrid_llm.backends.node.engines.lora import AdapterBank
from hybrid_llm.backends.node.engines.sequence import Segment

_ATTENTION = "hybrid_llm_packed"


class PackedRunner:
    """Computes segments of many texts in one forward pass, and holds their KV cache of *blocks*.

    *windows* has what each layer of *model* attends to, by its index; equal ones are one object. `activate` it before.
    """

    rewinds = True
    recycles = True
    """Whether a request gets memory in which another's keys may still be."""
    adapters: AdapterBank | None = None
    """The LoRA adapters beside the model."""

    def __init__(self, model: Any, windows: Mapping[int, Window], *, blocks: int) -> None:
        self._model = model
        self._device: torch.device = model.device
        self._cache = KVCache(blocks=blocks, dtype=model.dtype, device=model.device)
        self._kinds = {layer: id(window) for layer, window in windows.items()}
        self._planners = {
            id(window): Planner(window, dtype=model.dtype, device=model.device) for window in windows.values()
        }

    def activate(self) -> None:
        """Let the model use our attention from now on."""
        from transformers import AttentionInterface

        AttentionInterface.register(_ATTENTION, packed_attention)
        self._model.set_attn_implementation(_ATTENTION)

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Logits of shape (complete segments, vocab), in order. Segments of one token come first, by origin."""
        positions = [position for segment in segments for position in range(segment.start, segment.end)]
        ids = [token for segment in segments for token in segment.ids]
        if self.adapters is not None:
            rows = [(segment.adapter, len(segment.ids)) for segment in segments]
            self.adapters.select(rows, [(segment.adapter, 1) for segment in segments if segment.complete])
        with torch.inference_mode():
            output = self._model(
                input_ids=self._tensor([ids]),
                position_ids=self._tensor([positions]),
                use_cache=False,
                logits_to_keep=self._tensor(_last_rows(segments)),
                plan=self._plan(segments),
            )
        logits: torch.Tensor = output.logits[0]
        return logits

    def copy(self, copy: Copy) -> None:
        """Copy the first tokens of one block to another."""
        self._cache.copy(copy)

    def intact(self, table: Table, first: int, last: int) -> bool:
        """Whether all keys and values of the tokens *first* to *last* of a text are finite."""
        return self._cache.intact(self._tensor(_stored_at(table, first, last)))

    def wipe(self, blocks: Sequence[int]) -> None:
        """Zero *blocks*."""
        self._cache.wipe(blocks)

    def _plan(self, segments: Sequence[Segment]) -> Plan:
        rows = [row for segment in segments for row in _stored_at(segment.table, segment.start, segment.end)]
        decoding = list(takewhile(lambda segment: len(segment.ids) == 1, segments))
        reading = segments[len(decoding) :]
        kinds = {kind: planner.plan(decoding, reading) for kind, planner in self._planners.items()}
        layers = {layer: kinds[kind] for layer, kind in self._kinds.items()}
        return Plan(cache=self._cache, rows=self._tensor(rows), layers=layers)

    def _tensor(self, values: Iterable[Any]) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=self._device)


def _stored_at(table: Table, first: int, last: int) -> Iterator[int]:
    """Where the tokens *first* to *last* of a text are stored."""
    return (table.blocks[position // KV_BLOCK] * KV_BLOCK + position % KV_BLOCK for position in range(first, last))


def _last_rows(segments: Sequence[Segment]) -> list[int]:
    """The row of each complete segment's newest token."""
    rows: list[int] = []
    end = 0
    for segment in segments:
        end += len(segment.ids)
        if segment.complete:
            rows.append(end - 1)
    return rows


class SingleRunner:
    """Computes the segments of one text at a time, whole prompts at once, with the model's own cache."""

    recycles = False
    adapters: AdapterBank | None = None
    """The LoRA adapters beside the model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # transformers renames this argument: 5.40 will not accept the old name.
        self._name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
        self._cache: Any = None
        self._ids: list[int] = []
        self._border = _rope_border(model)

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Logits of shape (1, vocab). *segments* has one item, a complete segment."""
        (segment,) = segments
        self._ids, known_length = self._ids[: segment.start] + segment.ids, len(self._ids)
        start = segment.start
        if (known_length > self._border) != (segment.end > self._border):
            start = 0  # the keys were rotated for the other lengths
        self._rewind(start)
        if self.adapters is not None:
            self.adapters.select([(segment.adapter, len(self._ids) - start)], [(segment.adapter, 1)])
        with torch.inference_mode():
            ids = torch.tensor([self._ids[start:]], dtype=torch.long, device=self._model.device)
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

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a token takes in the cache, by the tokens that are in it; 0 if they cannot be counted."""
        layers = getattr(self._cache, "layers", ())
        stored = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
        size = sum(each.nbytes for each in stored if isinstance(each, torch.Tensor))
        return int(size) // max(1, len(self._ids))

    def wipe(self, blocks: Sequence[int]) -> None:
        """Drop the cache."""
        del blocks
        self._cache, self._ids = None, []

    def copy(self, copy: Copy) -> None:
        """Never called: the whole cache is one block."""
        raise NotImplementedError

    def intact(self, table: Table, first: int, last: int) -> bool:
        """False: the model's cache cannot be inspected."""
        del table, first, last
        return False

    def _rewind(self, length: int) -> None:
        if length == 0:
            self._cache = None
        elif self.rewinds and (more := self._cache.get_seq_length() - length) > 0:
            self._cache.crop(-more)


def _rope_border(model: Any) -> float:
    """The length in tokens beyond which *model* rotates all keys of a text otherwise; infinite where it does not."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return math.inf
    border = rope.get("original_max_position_embeddings") or config.original_max_position_embeddings
    return float(border)

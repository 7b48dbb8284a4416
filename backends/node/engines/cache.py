"""The keys and values of the tokens that the packed engine has read, by layer and block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch

from hybrid_llm.backends.node.engine import KV_BLOCK
from hybrid_llm.backends.node.engines.blocks import Copy


class KVCache:
    """For each layer keys and values of shape (blocks * KV_BLOCK, kv heads, head size), made at its first token."""

    def __init__(self, *, blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self._rows = blocks * KV_BLOCK
        self._dtype = dtype
        self._device = device
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def write(
        self, layer: int, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store *keys* and *values*, (tokens, kv heads, head size), at *rows*: block * KV_BLOCK + index in the block.

        Returns all keys and values of the layer, not copied.
        """
        if layer not in self._layers:
            self._layers[layer] = (self._zeros(keys), self._zeros(values))
        for stored, new in zip(self._layers[layer], (keys, values), strict=True):
            stored.index_copy_(0, rows, new)
        return self._layers[layer]

    def copy(self, copy: Copy) -> None:
        """Copy the first tokens of one block to another."""
        source, target = copy.source * KV_BLOCK, copy.target * KV_BLOCK
        with torch.inference_mode():
            for stored in self._tensors():
                stored[target : target + copy.tokens].copy_(stored[source : source + copy.tokens])

    def intact(self, rows: torch.Tensor) -> bool:
        """Whether all keys and values at *rows* are finite."""
        return all(bool(stored.index_select(0, rows).isfinite().all()) for stored in self._tensors())

    def wipe(self, blocks: Sequence[int]) -> None:
        """Zero *blocks*: masking multiplies by 0, and 0 times NaN would reach the next request that holds one."""
        which = torch.tensor(blocks, dtype=torch.long, device=self._device)
        with torch.inference_mode():
            for stored in self._tensors():
                stored.view(-1, KV_BLOCK, *stored.shape[1:]).index_fill_(0, which, 0)

    def _tensors(self) -> Iterator[torch.Tensor]:
        return chain.from_iterable(self._layers.values())

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        shape = (self._rows, *like.shape[1:])
        if self._device.type != "cpu":
            return torch.zeros(shape, dtype=self._dtype, device=self._device)
        # numpy gets zeroed pages from the system, which take memory once they are written; torch.zeros writes them all.
        lazily_zeroed = np.zeros(math.prod(shape) * self._dtype.itemsize, dtype=np.uint8)
        return torch.from_numpy(lazily_zeroed).view(self._dtype).view(shape)

"""The KV cache: one tensor of keys and one of values per layer, a row of fixed length for each slot. Storage only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch

__all__ = ["SlotCache"]


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

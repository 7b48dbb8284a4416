"""The keys and values of the tokens that the packed engine has read, by layer and slot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch


class KVCache:
    """For each layer keys and values of shape (slots, capacity, kv heads, head size), made when it first stores any."""

    def __init__(self, *, slots: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.capacity = capacity
        self._slots = slots
        self._dtype = dtype
        self._device = device
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

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

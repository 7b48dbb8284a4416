"""One request at a time through the model's own cache: for architectures that the packed loop does not take."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from hybrid_llm.backends.node.engines.packed import UnsupportedModel
from hybrid_llm.backends.node.engines.sequence import Segment

__all__ = ["SingleRunner"]


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

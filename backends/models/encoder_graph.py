"""The part of a classifier of transformers that is exported: token ids and mask in, logits out."""

from __future__ import annotations

from typing import Any


def logits_of(model: Any) -> Any:
    """*model* as a torch module that takes `input_ids` and `attention_mask`, and returns its logits."""
    import torch

    class Logits(torch.nn.Module):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits

    return Logits().eval()  # a module in training mode would put the model in it, and its dropout

"""Unstructured pruning: the smallest weights become zero. It saves neither size nor time."""

from __future__ import annotations

from typing import Any


def zero_smallest(model: Any, sparsity: float) -> float:
    """Set that share of the weights of each linear layer to zero, the smallest ones, and keep them there in training.

    The head and the embeddings stay. Return the share of all weights of the model that is zero.
    """
    import torch

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            _zero(module.weight, sparsity)
    return share_of_zeros(model)


def share_of_zeros(model: Any) -> float:
    """The share of the weights of *model* that is zero."""
    weights = list(model.parameters())
    return float(sum(int((each == 0).sum()) for each in weights) / sum(each.numel() for each in weights))


def _zero(weight: Any, sparsity: float) -> None:
    import torch

    count = int(weight.numel() * sparsity)
    if not count:
        return
    smallest = weight.detach().abs().flatten().topk(count, largest=False).indices
    mask = torch.ones(weight.numel())
    mask[smallest] = 0
    mask = mask.reshape(weight.shape)
    weight.data.mul_(mask)
    weight.register_hook(lambda gradient: gradient * mask)

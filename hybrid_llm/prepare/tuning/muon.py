"""Muon for the matrices inside the layers, AdamW for embeddings, head and norms: one optimiser for the trainer.

Muon orthogonalises the momentum of a matrix by Newton-Schulz iterations (Jordan et al., Muon, 2024).
"""

from __future__ import annotations

from typing import Any, Final

import torch

_BETAS: Final = (0.9, 0.98)
_MOMENTUM: Final = 0.95


class MuonFactory:
    """Makes the optimiser of a model; transformers constructs it, then calls it with the model."""

    def __call__(self, model: Any, rates: tuple[float, float], decay: float) -> Muon:
        """*rates* are the highest learning rates of the matrices and of the other weights, *decay* that of matrices."""
        layers = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList)]
        inside = {id(weight): weight for part in layers for weight in part.parameters() if weight.ndim == 2}
        others = [weight for weight in model.parameters() if id(weight) not in inside]
        matrices = [weight for weight in inside.values() if weight.requires_grad]
        return Muon(matrices, [weight for weight in others if weight.requires_grad], rates, decay)


class Muon(torch.optim.Optimizer):  # type: ignore[misc]
    """Steps both optimisers; their groups are its own, so that one schedule moves the rates of both."""

    def __init__(self, matrices: list[Any], others: list[Any], rates: tuple[float, float], decay: float) -> None:
        self._parts = (
            torch.optim.Muon(matrices, lr=rates[0], momentum=_MOMENTUM, weight_decay=decay),
            torch.optim.AdamW(others, lr=rates[1], betas=_BETAS, weight_decay=0.0),
        )
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._join()

    def _join(self) -> None:
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Any = None) -> Any:
        """Step both; gradients are those of the last backward pass."""
        loss = closure() if closure is not None else None
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()

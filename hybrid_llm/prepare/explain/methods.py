"""Three methods that say how much each token contributes to the target.

- Attention roll-out (Abnar and Zuidema, 2020, Quantifying Attention Flow in Transformers): a share of the attention.
- Integrated gradients (Sundararajan, Taly and Yan, 2017, Axiomatic Attribution for Deep Networks), over the embeddings.
- Occlusion (Zeiler and Fergus, 2014, Visualizing and Understanding Convolutional Networks): one token away at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.prepare.explain.results import Convergence
from hybrid_llm.prepare.explain.subject import Subject

_CLOSE: Final = 0.02
"""Integrated gradients have converged when they miss this share of the difference that they add up to."""
_MOST_STEPS: Final = 1024
ROLL_OUT: Final = "attention roll-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The score of each piece, and of integrated gradients how well they converged."""

    pieces: tuple[float, ...]
    convergence: Convergence | None = None


class NotApplicable(ValueError):
    """The method does not apply to this model; the message says why."""


def roll_out(subject: Subject, _steps: int) -> Scores:
    """The attention that the readers of the target pay to each piece, through all layers.

    Each layer counts as half its mean attention and half the residual connection.

    Raises:
        NotApplicable: the model has no attention that can be read.
    """
    import torch

    with torch.no_grad():
        found = subject.model(
            input_ids=subject.ids, attention_mask=torch.ones_like(subject.ids), output_attentions=True
        )
    layers = getattr(found, "attentions", None)
    if not layers or any(layer is None or layer.dim() != 4 or layer.shape[-1] != layer.shape[-2] for layer in layers):
        raise NotApplicable("its attention cannot be read")
    size = subject.ids.shape[1]
    flow = torch.eye(size)
    for layer in layers:
        mixed = 0.5 * layer[0].float().mean(0) + 0.5 * torch.eye(size)
        flow = (mixed / mixed.sum(-1, keepdim=True)) @ flow
    return Scores(pieces=tuple(flow[list(subject.readers)].mean(0)[list(subject.free)].tolist()))


def integrated_gradients(subject: Subject, steps: int) -> Scores:
    """What each piece adds to the log-probability on the straight way from the neutral input.

    The scores add up to the difference between both log-probabilities, but for a delta. A model that is very sure
    changes its mind within a small part of the way, which few steps miss: *steps* are doubled until they suffice.
    """
    import torch
    from captum.attr import LayerIntegratedGradients

    with torch.no_grad():
        whole = float(subject.log_probability(subject.ids) - subject.log_probability(subject.neutral))
    method = LayerIntegratedGradients(subject.log_probability, subject.model.get_input_embeddings())
    while True:
        found = method.attribute(
            subject.ids, baselines=subject.neutral, n_steps=steps, internal_batch_size=subject.rows
        )
        pieces = tuple(found.detach().sum(-1)[0][list(subject.free)].tolist())
        delta = sum(pieces) - whole
        converged = abs(delta) <= max(_CLOSE * abs(whole), _CLOSE)
        if converged or steps * 2 > _MOST_STEPS:
            return Scores(
                pieces=pieces, convergence=Convergence(steps=steps, whole=whole, delta=delta, converged=converged)
            )
        steps *= 2


def occlusion(subject: Subject, _steps: int) -> Scores:
    """By how much the log-probability falls where a piece is replaced by the neutral token."""
    import torch
    from captum.attr import Occlusion

    def score(kept: Any) -> Any:
        with torch.no_grad():
            return subject.log_probability(subject.with_neutral(kept < 0.5))

    everything = torch.ones(1, len(subject.free))
    found = Occlusion(score).attribute(
        everything, sliding_window_shapes=(1,), baselines=0.0, perturbations_per_eval=subject.rows
    )
    return Scores(pieces=tuple(found[0].tolist()))


METHODS: Final[Mapping[str, Callable[[Subject, int], Scores]]] = {
    "integrated gradients": integrated_gradients,
    "occlusion": occlusion,
    ROLL_OUT: roll_out,
}
"""Name -> method."""

"""What training minimises: the distance to a teacher's probabilities, to the data, or to both."""

from __future__ import annotations

from typing import Any, Final

IGNORED: Final = -100
"""A target that counts for nothing."""
_LEAST: Final = 1e-7
"""Least probability of all other tokens together."""


def divergence(student: Any, ids: Any, logprobs: Any, tail: Any, temperature: float) -> Any:
    """The mean Kullback-Leibler divergence from a teacher whose likeliest tokens are known, in nats.

    All other tokens count as one, whose probability is the rest (as in Team et al., Gemma 2, 2024, without dropping
    it). It is multiplied by the square of *temperature*, so that gradients keep their size (Hinton et al., 2015).

    Args:
        student: logits, shape (positions, vocabulary).
        ids: the teacher's likeliest tokens, shape (positions, k).
        logprobs: the logarithms of their probabilities at *temperature*, of the same shape.
        tail: the logarithm of the probability of all others, shape (positions,).
        temperature: by which the logits of both are divided.
    """
    import torch

    logs = (student / temperature).log_softmax(-1).gather(-1, ids)
    rest = (1 - logs.exp().sum(-1)).clamp_min(_LEAST).log()
    shares, last = logprobs.exp(), tail.exp()
    each = torch.where(shares > 0, shares * (logprobs - logs), 0.0).sum(-1)
    each = each + torch.where(last > 0, last * (tail - rest), 0.0)
    return each.mean() * temperature**2


def whole_divergence(student: Any, teacher: Any, temperature: float) -> Any:
    """The mean divergence of *student* from *teacher*, logits of shape (..., classes), with nothing left out."""
    import torch

    mine = (student / temperature).log_softmax(-1).flatten(0, -2)
    theirs = (teacher / temperature).log_softmax(-1).flatten(0, -2)
    return torch.nn.functional.kl_div(mine, theirs, reduction="batchmean", log_target=True) * temperature**2


def next_token_loss(logits: Any, ids: Any, mask: Any, starts: Any | None = None) -> Any:
    """The mean cross-entropy of each token behind those before it; *starts* are the first tokens that count."""
    import torch

    targets = ids.masked_fill(mask == 0, IGNORED)
    if starts is not None:
        targets = targets.masked_fill(torch.arange(ids.shape[1]) < starts[:, None], IGNORED)
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED
    )

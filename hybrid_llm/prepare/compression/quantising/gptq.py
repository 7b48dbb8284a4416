"""GPTQ: rounds weights to 4 bits one input after the other, and makes up for each error in the inputs behind it.

After Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2023. Numbers
are stored as onnxruntime's MatMulNBits reads them: (code - zero) * scale, with a scale and a zero of 4 bits a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

_LARGEST: Final = 15
_DAMPING: Final = 0.01
"""What is added to the second moments, as a share of their mean, so that they can be inverted."""
_SHRINKS: Final = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82)
"""Shares of a block's range that are tried as the range of its codes."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """A weight in 4 bits: *codes* (outputs, inputs), *scales* and *zeros* (outputs, blocks)."""

    codes: Any
    scales: Any
    zeros: Any

    def dequantised(self) -> Any:
        """The weights that they stand for, (outputs, inputs)."""
        block = self.codes.shape[1] // self.scales.shape[1]
        scales, zeros = (each.repeat_interleave(block, 1) for each in (self.scales, self.zeros))
        return (self.codes - zeros) * scales


def gptq(weight: Any, moments: Any, block: int) -> Quantised:
    """Quantise *weight*, (outputs, inputs), for inputs with these second *moments*, in blocks of *block* inputs.

    The number of inputs must be a multiple of *block*.
    """
    import torch

    left, inverse = weight.clone().float(), _inverse(moments)
    codes, scales, zeros = torch.empty_like(left), [], []
    for start in range(0, left.shape[1], block):
        part, own = left[:, start : start + block], inverse[start : start + block, start : start + block]
        scale, zero = _grid(part, moments.diagonal()[start : start + block])
        errors = torch.empty_like(part)
        for at in range(block):
            code = (part[:, at] / scale + zero).round_().clamp_(0, _LARGEST)
            errors[:, at] = (part[:, at] - (code - zero) * scale) / own[at, at]
            codes[:, start + at] = code
            part[:, at + 1 :].addr_(errors[:, at], own[at, at + 1 :], alpha=-1)
        left[:, start + block :].addmm_(errors, inverse[start : start + block, start + block :], alpha=-1)
        scales.append(scale)
        zeros.append(zero)
    return Quantised(codes, torch.stack(scales, 1), torch.stack(zeros, 1))


def rounded(weight: Any, block: int) -> Quantised:
    """*weight* rounded to the nearest of 16 steps between the least and the largest of each block."""
    import torch

    parts = weight.float().reshape(weight.shape[0], -1, block)
    low, high = parts.amin(-1).clamp_max(0), parts.amax(-1).clamp_min(0)
    scales = ((high - low) / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    zeros = (-low / scales).round_()
    codes = (parts / scales[..., None] + zeros[..., None]).round_().clamp_(0, _LARGEST)
    return Quantised(codes.reshape(weight.shape), scales, zeros)


def _inverse(moments: Any) -> Any:
    """The upper triangle R with R^T R the inverse of *moments*; inputs that are always zero count as noise."""
    import torch

    damped = moments.to(torch.float64, copy=True)
    damped.diagonal().add_(_DAMPING * float(damped.diagonal().mean()) + torch.finfo(torch.float32).tiny)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True).float()


def _grid(part: Any, power: Any) -> tuple[Any, Any]:
    """Scale and zero of each output for a block of weights, with the least error for inputs of that *power*."""
    import torch

    low, high = part.amin(1).clamp_max(0), part.amax(1).clamp_min(0)
    best = torch.full_like(low, torch.inf)
    scale, zero = torch.ones_like(low), torch.zeros_like(low)
    for shrink in _SHRINKS:
        tried = ((high - low) * shrink / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
        at = (-low * shrink / tried).round_().clamp_(0, _LARGEST)
        codes = (part / tried[:, None] + at[:, None]).round_().clamp_(0, _LARGEST)
        error = (((codes - at[:, None]) * tried[:, None] - part).square() * power).sum(1)
        better = error < best
        best, scale, zero = (torch.where(better, new, old) for new, old in ((error, best), (tried, scale), (at, zero)))
    return scale, zero

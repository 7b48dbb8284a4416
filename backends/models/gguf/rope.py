"""Rotary position embeddings: plain, linear, by factors (Llama 3, LongRoPE) and YaRN.

YaRN: https://arxiv.org/abs/2309.00071. LongRoPE, with other factors for long texts: https://arxiv.org/abs/2402.13753.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.models.gguf.reader import Gguf

Table = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """Angles per position: one frequency per pair of numbers; *magnitude* scales sine and cosine."""

    frequencies: NDArray[np.float64]
    magnitude: float = 1.0

    @classmethod
    def plain(cls, base: float, size: int) -> Rope:
        """The frequencies of the original method for heads of *size* numbers."""
        return cls(base ** (-np.arange(0, size, 2, dtype=np.float64) / size))

    def tables(self, positions: int) -> tuple[Table, Table]:
        """Cosines and sines, each of shape (positions, size / 2)."""
        angles = np.outer(np.arange(positions), self.frequencies)
        cosines, sines = np.cos(angles) * self.magnitude, np.sin(angles) * self.magnitude
        return cosines.astype(np.float32), sines.astype(np.float32)


def rope(file: Gguf, values: Mapping[str, Any], size: int, factors: NDArray[np.float64] | None) -> Rope:
    """The rotary embedding that the metadata *values* describe, its frequencies divided by *factors*.

    Raises:
        ConfigError: its kind is not known, or a number is out of range.
    """
    base = _real(file, values, "freq_base", 1.0, 1e12, 10_000.0)
    kind = values.get("rope.scaling.type", "linear")
    scale = _real(file, values, "scaling.factor", 0.0, 1e6, values.get("rope.scale_linear", 1.0)) or 1.0
    plain = Rope.plain(base, size)
    if factors is not None:
        plain = Rope(plain.frequencies / factors)
    if not isinstance(kind, str):
        raise file.refuse("rope.scaling.type must be a string")
    if kind in ("none", "linear"):
        return Rope(plain.frequencies / scale, _real(file, values, "scaling.attn_factor", 1e-3, 1e3, 1.0))
    if kind == "yarn" and scale > 1:
        return _yarn(file, values, base, size, scale)
    raise file.refuse(f"scales its rotary embeddings by {kind[:40]!r}: only none, linear and yarn are known")


def _yarn(file: Gguf, values: Mapping[str, Any], base: float, size: int, scale: float) -> Rope:
    context = _real(file, values, "scaling.original_context_length", 2, 1 << 24)
    fast = _real(file, values, "scaling.yarn_beta_fast", 1e-3, 1e6, 32.0)
    slow = _real(file, values, "scaling.yarn_beta_slow", 1e-3, 1e6, 1.0)
    magnitude = _real(file, values, "scaling.attn_factor", 1e-3, 1e3, 1.0) * (1 + 0.1 * math.log(scale))

    def pair(turns: float) -> float:
        """Index of the pair that turns this often within the original context."""
        return size * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(pair(fast)), 0), min(math.ceil(pair(slow)), size - 1)
    stretched = np.clip((np.arange(size // 2) - low) / max(high - low, 1e-3), 0, 1)
    frequencies = Rope.plain(base, size).frequencies
    return Rope(frequencies * (1 - stretched) + frequencies / scale * stretched, magnitude)


def _real(
    file: Gguf, values: Mapping[str, Any], key: str, low: float, high: float, usual: float | None = None
) -> float:
    value = values.get(f"rope.{key}", usual)
    if not isinstance(value, int | float) or not low <= value <= high:
        raise file.refuse(f"rope.{key} must be a number from {low:g} to {high:g}")
    return float(value)

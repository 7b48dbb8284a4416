"""The tensor types of GGUF: blocks of codes with a scale and, for some, a minimum; nothing is rounded here.

Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.models.gguf.reader import Bytes, Gguf, Tensor

Floats = NDArray[np.float32]

PLAIN: Final = frozenset({"F32", "F16", "BF16"})
_SLICE: Final = 1 << 22
"""Numbers that are dequantised at once: bounds the memory for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Weights *scales* * (*codes* - *offset*) + *minima*."""

    bits: int
    """4 or 8: of the codes as they are stored in ONNX."""
    codes: NDArray[np.uint8]
    """Shape (rows, blocks, numbers in a block)."""
    scales: Floats
    """Shape (rows, blocks)."""
    minima: Floats | None = None
    """Shape (rows, blocks), relative to the middle code."""

    @property
    def offset(self) -> int:
        """The code of zero: the middle, as in ONNX's symmetric quantisation."""
        return 1 << (self.bits - 1)

    def dense(self) -> Floats:
        """The weights, shape (rows, columns)."""
        weights = self.codes.astype(np.float32)
        weights -= self.offset
        weights *= self.scales[..., None]
        if self.minima is not None:
            weights += self.minima[..., None]
        return weights.reshape(len(self.codes), -1)

    @property
    def finite(self) -> bool:
        """Whether every scale and minimum is."""
        return bool(np.isfinite(self.scales).all() and (self.minima is None or np.isfinite(self.minima).all()))


def read_blocks(file: Gguf, tensor: Tensor, start: int = 0, stop: int | None = None) -> Blocks:
    """Read rows of a quantised *tensor*.

    Raises:
        ConfigError: the file became shorter, or a scale is not a finite number.
    """
    blocks = _DECODERS[tensor.kind.name](file.rows(tensor, start, stop))
    if not blocks.finite:
        raise file.refuse(f"{tensor.name} has a scale that is not a finite number: the file is broken")
    return blocks


def read_dense(file: Gguf, tensor: Tensor, start: int = 0, stop: int | None = None) -> Floats:
    """Read rows of *tensor* as float32, shape (rows, columns).

    Raises:
        ConfigError: the file became shorter, or a number is not finite.
    """
    if tensor.kind.name not in PLAIN:
        return read_blocks(file, tensor, start, stop).dense()
    raw = file.rows(tensor, start, stop)
    values = _PLAIN[tensor.kind.name](raw.reshape(len(raw), -1))
    if not np.isfinite(values).all():
        raise file.refuse(f"{tensor.name} has a number that is not finite: the file is broken")
    return values


def row_slices(tensor: Tensor) -> range:
    """Starts of slices of rows, of a bounded size each; the step is the size."""
    return range(0, tensor.rows, max(1, _SLICE // tensor.columns))


def _f16(raw: Bytes) -> Floats:
    """Half-precision numbers from their two bytes on the last axis."""
    return np.ascontiguousarray(raw).view("<f2")[..., 0].astype(np.float32)


def _halves(codes: Bytes) -> Bytes:
    """Low half-bytes of all, then high ones."""
    return np.concatenate([codes & 15, codes >> 4], axis=-1)


def _fifth_bits(raw: Bytes) -> Bytes:
    """Bit 4 of 32 codes, from the four bytes that hold it."""
    bits = np.unpackbits(raw, axis=-1, bitorder="little")
    return np.asarray(bits << 4, dtype=np.uint8)


def _q4_0(raw: Bytes) -> Blocks:
    return Blocks(bits=4, codes=_halves(raw[..., 2:]), scales=_f16(raw[..., :2]))


def _q4_1(raw: Bytes) -> Blocks:
    scales = _f16(raw[..., :2])
    return Blocks(bits=4, codes=_halves(raw[..., 4:]), scales=scales, minima=_f16(raw[..., 2:4]) + 8 * scales)


def _q5_0(raw: Bytes) -> Blocks:
    codes = _halves(raw[..., 6:]) | _fifth_bits(raw[..., 2:6])
    return Blocks(bits=8, codes=codes + np.uint8(128 - 16), scales=_f16(raw[..., :2]))


def _q5_1(raw: Bytes) -> Blocks:
    codes, scales = _halves(raw[..., 8:]) | _fifth_bits(raw[..., 4:8]), _f16(raw[..., :2])
    return Blocks(bits=8, codes=codes + np.uint8(128 - 16), scales=scales, minima=_f16(raw[..., 2:4]) + 16 * scales)


def _q8_0(raw: Bytes) -> Blocks:
    return Blocks(bits=8, codes=raw[..., 2:] + np.uint8(128), scales=_f16(raw[..., :2]))


def _k_scales(raw: Bytes) -> tuple[Floats, Floats]:
    """Eight scales and eight minima of 6 bits each, packed into 12 bytes."""
    low, mid, high = raw[..., 0:4], raw[..., 4:8], raw[..., 8:12]
    scales = np.concatenate([low & 0x3F, (high & 0x0F) | ((low >> 2) & 0x30)], axis=-1)
    minima = np.concatenate([mid & 0x3F, (high >> 4) | ((mid >> 2) & 0x30)], axis=-1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _k_blocks(raw: Bytes, bits: int, codes: Bytes, middle: int) -> Blocks:
    """Super-blocks of 8 blocks of 32; *codes* has the shape (rows, super-blocks, 8, 32)."""
    rows = len(raw)
    scales, minima = _k_scales(raw[..., 4:16])
    scales *= _f16(raw[..., 0:2])[..., None]
    minima *= -_f16(raw[..., 2:4])[..., None]
    minima += middle * scales
    return Blocks(
        bits=bits, codes=codes.reshape(rows, -1, 32), scales=scales.reshape(rows, -1), minima=minima.reshape(rows, -1)
    )


def _k_halves(raw: Bytes) -> Bytes:
    """128 bytes of half-bytes as (rows, super-blocks, 8, 32): 32 low ones, then the 32 high ones of the same bytes."""
    rows, count = raw.shape[:2]
    quarters = raw.reshape(rows, count, 4, 32)
    return np.stack([quarters & 15, quarters >> 4], axis=3).reshape(rows, count, 8, 32)


def _q4_k(raw: Bytes) -> Blocks:
    return _k_blocks(raw, 4, _k_halves(raw[..., 16:]), 8)


def _q5_k(raw: Bytes) -> Blocks:
    high = np.stack([(raw[..., 16:48] >> bit) & 1 for bit in range(8)], axis=2)
    codes = np.asarray(_k_halves(raw[..., 48:]) | (high << 4), dtype=np.uint8)
    return _k_blocks(raw, 8, codes + np.uint8(128 - 16), 16)


def _q6_k(raw: Bytes) -> Blocks:
    rows, count = raw.shape[:2]
    low, high = raw[..., :128].reshape(rows, count, 2, 2, 32), raw[..., 128:192].reshape(rows, count, 2, 32)
    parts = [(low[..., 0, :] & 15, 0), (low[..., 1, :] & 15, 2), (low[..., 0, :] >> 4, 4), (low[..., 1, :] >> 4, 6)]
    codes = np.stack([part | (((high >> shift) & 3) << 4) for part, shift in parts], axis=3)
    scales = raw[..., 192:208].view(np.int8).astype(np.float32) * _f16(raw[..., 208:210])[..., None]
    return Blocks(bits=8, codes=codes.reshape(rows, -1, 16) + np.uint8(128 - 32), scales=scales.reshape(rows, -1))


_DECODERS: Final[Mapping[str, Callable[[Bytes], Blocks]]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


def _bf16(raw: Bytes) -> Floats:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


_PLAIN: Final[Mapping[str, Callable[[Bytes], Floats]]] = {
    "F32": lambda raw: raw.view("<f4").astype(np.float32, copy=False),
    "F16": lambda raw: raw.view("<f2").astype(np.float32),
    "BF16": _bf16,
}

"""Minima of blocks, which ONNX lacks, as whole zero points and as further columns of the matrix.

A block of GGUF is scale * code + minimum, one of ONNX scale * (code - zero point), with a whole zero point. The nearest
zero point leaves a rest of at most half a step per block. Its product with the other factor is rest * sum of the block.
So that factor gets the sums of its blocks as further columns, and the matrix the rests, to 1/200 of the largest step of
its row: as one digit of 8 bits, or two of 4. One product then does what two and a sum did in a tenth more of a prompt's
time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.models.gguf.blocks import Blocks, Floats

SECOND: Final = 16
"""By what the second digit counts less than the first."""


def digits(bits: int) -> int:
    """How many further columns each block takes."""
    return 2 if bits == 4 else 1


def fold(blocks: Blocks) -> tuple[Blocks, NDArray[np.uint8]]:
    """*blocks* with their minima in further blocks, and the zero points of all, shape (rows, blocks)."""
    assert blocks.minima is not None
    middle = blocks.offset
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # a block may have the scale 0
        nearest = np.nan_to_num(np.rint(middle - blocks.minima / blocks.scales), nan=middle)
    zeros = np.clip(nearest, 0, 2 * middle - 1)
    rests = blocks.minima - blocks.scales * (middle - zeros)
    codes, steps = _written(rests, blocks.bits, blocks.codes.shape[2])
    folded = Blocks(
        bits=blocks.bits,
        codes=np.concatenate([blocks.codes, codes], axis=1),
        scales=np.concatenate([blocks.scales, steps], axis=1).astype(np.float32),
    )
    return folded, np.concatenate([zeros, np.full(steps.shape, middle)], axis=1).astype(np.uint8)


def pack_zeros(zeros: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """As the operator takes them: with 4 bits, two to a byte, the last one alone if their number is odd."""
    if bits == 8:
        return zeros
    even = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return np.asarray(even[:, 0::2] | (even[:, 1::2] << 4), dtype=np.uint8)


def _written(rests: Floats, bits: int, block: int) -> tuple[NDArray[np.uint8], Floats]:
    """*rests* as codes in blocks of *block*, and the step of each block, which is the same for a row."""
    middle, rows = 1 << (bits - 1), len(rests)
    step = np.abs(rests).max(axis=1, keepdims=True) / (middle - 1)
    step[step == 0] = 1
    columns = [np.rint(rests / step)]
    if digits(bits) == 2:
        columns.append(np.clip(np.rint((rests - columns[0] * step) * SECOND / step), -middle, middle - 1))
    written = np.concatenate(columns, axis=1) + middle
    count = -(-written.shape[1] // block)
    codes = np.full((rows, count * block), middle, dtype=np.uint8)
    codes[:, : written.shape[1]] = written
    return codes.reshape(rows, count, block), np.repeat(step, count, axis=1)

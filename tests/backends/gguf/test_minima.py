"""Minima in zero points and further columns stand for what the file says, but for a small part of a step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.models.gguf.blocks import Blocks
from hybrid_llm.backends.models.gguf.minima import SECOND, digits, fold, pack_zeros

NUMBERS = st.floats(-2, 2, width=32, allow_subnormal=False)


@given(
    bits=st.sampled_from([4, 8]),
    scales=st.lists(st.floats(0.0078125, 1, width=32), min_size=4, max_size=40),
    zeros=st.lists(NUMBERS, min_size=4, max_size=40),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_a_folded_matrix_has_the_weights_of_its_blocks(bits, scales, zeros, seed):
    count = min(len(scales), len(zeros)) // 2 * 2
    shape = (2, count // 2)
    steps = np.array(scales[:count], dtype=np.float32).reshape(shape)
    minima = steps * np.array(zeros[:count], dtype=np.float32).reshape(shape)  # within the range of zero points
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (*shape, 32), dtype=np.uint8)
    blocks = Blocks(bits=bits, codes=codes, scales=steps, minima=minima)
    folded, points = fold(blocks)
    values = folded.scales[..., None] * (folded.codes.astype(np.float32) - points[..., None])
    rests = values[:, shape[1] :].reshape(2, -1)
    rests = sum(rests[:, i * shape[1] : (i + 1) * shape[1]] / SECOND**i for i in range(digits(bits)))
    weights = values[:, : shape[1]] + rests[..., None]
    np.testing.assert_allclose(weights.reshape(2, -1), blocks.dense(), atol=float(steps.max()) / 200, rtol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_block_of_equal_weights_has_the_scale_0_and_keeps_its_minimum(bits):
    blocks = Blocks(
        bits=bits,
        codes=np.zeros((1, 2, 32), dtype=np.uint8),
        scales=np.array([[0.0, 0.5]], dtype=np.float32),
        minima=np.array([[0.25, 0.0]], dtype=np.float32),
    )
    folded, points = fold(blocks)
    rests = folded.scales[:, 2:] * (folded.codes[0, 2, :1].astype(np.float32) - points[:, 2:])
    np.testing.assert_allclose(rests, [[0.25]], rtol=0.01)


def test_zero_points_of_4_bits_are_two_to_a_byte():
    zeros = np.array([[1, 2, 3]], dtype=np.uint8)
    assert pack_zeros(zeros, 4).tolist() == [[0x21, 0x03]]
    assert pack_zeros(zeros, 8).tolist() == [[1, 2, 3]]

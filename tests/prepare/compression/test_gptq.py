"""GPTQ: what it stores is what MatMulNBits reads, and its error on real inputs is less than that of rounding."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

torch = pytest.importorskip("torch")

from hybrid_llm.prepare.compression.quantising.gptq import gptq, rounded  # noqa: E402


def weight_and_inputs(seed: int, rank: int) -> tuple[Any, Any]:
    """A weight of 64 inputs, and inputs that depend on each other: *rank* directions and some noise."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(400, rank, generator=draw) @ torch.randn(rank, 64, generator=draw)
    return torch.randn(24, 64, generator=draw), inputs + 0.1 * torch.randn(400, 64, generator=draw)


def error(weight: Any, found: Any, inputs: Any) -> float:
    return float((inputs @ (weight - found).T).square().sum())


@given(seed=st.integers(0, 2**31), rank=st.sampled_from([4, 16, 40]))
@settings(max_examples=30)
def test_the_error_on_the_inputs_is_less_than_that_of_rounding(seed: int, rank: int) -> None:
    weight, inputs = weight_and_inputs(seed, rank)
    found = gptq(weight, inputs.T @ inputs, 32)
    assert error(weight, found.dequantised(), inputs) < 0.8 * error(weight, rounded(weight, 32).dequantised(), inputs)


@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.0, 1e-20, 1.0, 1e6]))
@settings(max_examples=20)
def test_codes_and_zeros_are_of_four_bits_and_all_is_finite(seed: int, scale: float) -> None:
    weight, inputs = weight_and_inputs(seed, 2)
    inputs[:, :5] = 0
    for found in (gptq(weight * scale, inputs.T @ inputs, 16), rounded(weight * scale, 16)):
        assert found.codes.shape == (24, 64)
        assert found.scales.shape == found.zeros.shape == (24, 4)
        for each in (found.codes, found.zeros):
            assert bool(((each >= 0) & (each <= 15) & (each == each.round())).all())
        assert bool(torch.isfinite(found.dequantised()).all())
        assert torch.allclose(found.dequantised(), weight * scale, atol=4 * scale)


def test_a_weight_that_is_on_the_grid_stays_as_it_is() -> None:
    draw = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 16, (8, 64), generator=draw).float()
    codes[:, ::32], codes[:, 1::32] = 0, 15
    weight = (codes - 7) * 0.25
    inputs = torch.randn(200, 64, generator=draw)
    assert torch.allclose(gptq(weight, inputs.T @ inputs, 32).dequantised(), weight, atol=1e-5)

"""The tiny model of the edge tests, made here when they have not run yet."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from pathlib import Path

import pytest

from hybrid_llm.backends.models import Floor, convert
from tests.shapes import random_model


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory) -> Path:
    """Holds `hf`, the original, and `int4` and `fp32`, its conversions."""
    root = tmp_path_factory.getbasetemp() / "tiny-model"
    if not root.exists():
        random_model("tiny", root / "hf", seed=1)
        floor = Floor(top1_agreement=0.1, logit_correlation=0.5)
        convert(root / "hf", root / "int4", parity_floor=floor, parity_steps=8)
        convert(root / "hf", root / "fp32", "fp32", parity_steps=8)
    return root

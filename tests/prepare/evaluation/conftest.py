"""A tiny decoder as transformers and the device open it, and a small trained classifier in both forms."""

from pathlib import Path

import pytest

from hybrid_llm.backends.models import convert
from hybrid_llm.backends.models.encoders import convert_encoder
from tests.encoders import trained
from tests.shapes import random_model


@pytest.fixture(scope="session")
def decoders(tmp_path_factory) -> Path:
    """Holds `hf` and `fp32`, its conversion for the device."""
    root = tmp_path_factory.mktemp("decoders")
    random_model("tiny", root / "hf", seed=1)
    convert(root / "hf", root / "fp32", "fp32", parity_steps=8)
    return root


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory) -> Path:
    """Holds `hf`, which tells weather from food, and `onnx`, its conversion for the device."""
    root = tmp_path_factory.mktemp("classifiers")
    trained(root / "hf", tokens=False)
    convert_encoder(root / "hf", root / "onnx", "fp32", name="topics", license="unknown")
    return root

"""Writes an encoder as a `.tflite` file with Google's converter for torch, and 8-bit weights by its quantiser.

A file has fixed shapes, so it has one signature for each length of row; they share the weights.
"""

from __future__ import annotations

import contextlib
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.encoder.files import positions
from hybrid_llm.backends.models.encoder_onnx import logits_of
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint

LIBRARIES: Final = ("ai-edge-litert", "ai-edge-quantizer", "litert-torch", "torch", "transformers", "tokenizers")
LENGTHS: Final = (32, 64, 128, 256, 512)
"""Tokens of rows, as far as the model reads them; the longest that it reads is one more."""


def require_converter() -> None:
    """Raise ConfigError if the converter or the runtime is not installed."""
    for package in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"):
        if find_spec(package) is None:
            message = f"{package} is not installed, and exists for Linux on x86-64 only"
            raise ConfigError(f"{message}: {install_hint('litert-convert')}")


def export(model: Any, path: Path, precision: str) -> None:
    """Write *model* to *path*, with float32 weights or in 8 bits; activations are rounded to 8 bits as it runs.

    Raises:
        ConfigError: the converter fails.
    """
    plain = path.with_name(".plain.tflite")
    limit = positions(model.config.to_dict())
    lengths = [length for length in LENGTHS if length < limit]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            _convert(model, plain, [*lengths, limit])
            if precision == "int8":
                _quantise(plain, path)
    except Exception as error:  # the converter raises whatever it meets
        name = type(model).__name__
        raise ConfigError(f"litert-torch cannot convert {name} ({type(error).__name__}): use --to onnx") from error
    if precision == "int8":
        plain.unlink()
        path.chmod(0o644)  # the quantiser makes it executable
    else:
        plain.replace(path)


def _convert(model: Any, path: Path, lengths: list[int]) -> None:
    import litert_torch
    import torch

    module, converter = logits_of(model), litert_torch
    for length in lengths:
        ids = torch.ones(1, length, dtype=torch.long)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        converter = converter.signature(f"tokens_{length}", module, sample_kwargs=inputs)
    converter.convert().export(str(path))


def _quantise(plain: Path, path: Path) -> None:
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(str(plain))
    made.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    made.quantize().export_model(str(path))

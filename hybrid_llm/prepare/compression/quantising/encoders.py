"""Changes of an encoder's graph: fused operators, and weights, or weights and activations, in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from hybrid_llm.backends.edge.runtime import load_runtime
from hybrid_llm.backends.encoder.files import FILES
from hybrid_llm.backends.models.encoder_onnx import REDUCED, unadvised
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json

_FAMILIES: Final = frozenset({"bert", "roberta", "distilbert", "xlm-roberta", "camembert", "electra"})
"""Models that onnxruntime's optimizer knows as `bert`."""
_CHANGED: Final = ["MatMul", "Gemm", "Gather"]
"""What static quantisation changes, `Gather` for the embeddings; softmax, normalisation and GELU stay in float32."""


def fuse(graph: Path, out: Path) -> None:
    """Write *graph* with attention, layer normalisation, GELU and their biases as one operator each.

    Raises:
        ConfigError: nothing could be fused.
    """
    load_runtime()  # first, so that its telemetry is off
    optimizer = import_module("onnxruntime.transformers.optimizer")
    settings = read_json(graph.with_name(FILES[0]))
    kind = str(settings.get("model_type"))
    if kind not in _FAMILIES:
        raise ConfigError(f"models of the type {kind} cannot be fused; these can: {', '.join(sorted(_FAMILIES))}")
    with unadvised():
        made = optimizer.optimize_model(
            str(graph),
            model_type="bert",
            num_heads=int(settings["num_attention_heads"]),
            hidden_size=int(settings["hidden_size"]),
            opt_level=0,
        )
    if not any(made.get_fused_operator_statistics().values()):
        raise ConfigError(f"nothing of {graph} could be fused: its graph is none that onnxruntime's optimizer knows")
    made.save_model_to_file(str(out))


def quantise_static(graph: Path, out: Path, rows: Sequence[Sequence[int]]) -> None:
    """Write *graph* with weights and the activations of products in 8 bits, whose ranges are those found on *rows*."""
    load_runtime()
    quantization = import_module("onnxruntime.quantization")
    with unadvised():
        quantization.quantize_static(
            str(graph),
            str(out),
            _Rows(iter(rows)),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_CHANGED,
            per_channel=True,
            reduce_range=REDUCED,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


class _Rows:
    """Calibration data in the shape that onnxruntime reads: `get_next` until there is no more."""

    def __init__(self, rows: Iterator[Sequence[int]]) -> None:
        self._rows = rows

    def get_next(self) -> dict[str, Any] | None:
        """The inputs of one run."""
        row = next(self._rows, None)
        if row is None:
            return None
        ids = np.asarray([row], dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (inputs := self.get_next()) is not None:
            yield inputs

    __next__ = get_next

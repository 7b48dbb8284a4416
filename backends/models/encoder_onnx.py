"""Writes an encoder as an ONNX graph: torch's tracer, then 8-bit weights by onnxruntime.

onnxruntime fuses the operators when it opens the graph. Graphs of transformers' own exporter, with or without its
fusions, and graphs fused by `onnxruntime.transformers` are no faster and agree no better (docs/export.md).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.edge.runtime import load_runtime

LIBRARIES: Final = ("onnxruntime", "onnx", "torch", "transformers", "tokenizers")
_OPSET: Final = 17
REDUCED: Final = True
"""Weights take half of the range of 8 bits: two products of them with activations fit the 16 bits in which processors
with AVX2 and without VNNI add them. Elsewhere it costs little, and a graph computes the same wherever it is proved."""
_FLOAT: Final = 1
"""`onnx.TensorProto.FLOAT`."""


def logits_of(model: Any) -> Any:
    """*model* as a torch module that takes `input_ids` and `attention_mask`, and returns its logits."""
    import torch

    class Logits(torch.nn.Module):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits

    return Logits().eval()  # a module in training mode would put the model in it, and its dropout


def export(model: Any, path: Path, precision: str) -> None:
    """Write the graph of *model* to *path*, with float32 weights or in 8 bits."""
    import torch

    is_text = type(model).__name__.endswith("ForSequenceClassification")
    names, axes = ["input_ids", "attention_mask"], {0: "rows", 1: "tokens"}
    example = torch.ones(2, 7, dtype=torch.long)
    plain = path.with_name(".plain.onnx")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            logits_of(model),
            (example, example),
            str(plain),
            dynamo=False,
            opset_version=_OPSET,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={**dict.fromkeys(names, axes), "logits": {0: "rows"} if is_text else axes},
        )
    _store(plain, path, precision)


def _store(plain: Path, path: Path, precision: str) -> None:
    """Move the graph at *plain* to *path*, in 8 bits if that is the *precision*."""
    if precision == "fp32":
        plain.replace(path)
        return
    quantise_dynamic(plain, path)
    plain.unlink()


def quantise_dynamic(graph: Path, out: Path) -> None:
    """Write *graph* with its weights in 8 bits for each channel; activations are quantised while it runs."""
    load_runtime()  # first, so that its telemetry is off
    quantization = import_module("onnxruntime.quantization")
    with unadvised():
        quantization.quantize_dynamic(
            str(graph),
            str(out),
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=REDUCED,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": _FLOAT},  # the types of fused operators
        )


@contextmanager
def unadvised() -> Iterator[None]:
    """Keep onnxruntime from advising, through the root logger, a preparation that these graphs do not need."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)

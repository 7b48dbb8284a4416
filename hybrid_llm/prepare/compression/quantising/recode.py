"""Puts codes that GPTQ finds on texts into a graph of the builder, in place of those that were found without any."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.compression.folders import open_model
from hybrid_llm.prepare.compression.grams import second_moments
from hybrid_llm.prepare.compression.quantising.gptq import Quantised, gptq

_GRAPH: Final = "model.onnx"
_NODE: Final = re.compile(r"/model/layers\.(?P<layer>\d+)/(?P<part>attn|mlp)/(?P<product>\w+)/MatMul")
_PARTS: Final = {"attn": "self_attn", "mlp": "mlp"}
_JOINED: Final = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_FARTHEST: Final = 0.3
"""The most relative distance of the builder's codes from the weights; where it is more, they are of other weights."""


@dataclass(frozen=True, slots=True)
class _Product:
    """One `MatMulNBits` of 4 bits: the modules whose rows it has, and its initializers."""

    modules: tuple[str, ...]
    block: int
    codes: Any
    scales: Any
    zeros: Any


def recode(folder: Path, source: Path, batches: Sequence[tuple[Any, Any]]) -> int:
    """Replace the 4-bit codes of the builder's *folder* of *source*; return of how many products.

    Args:
        folder: with codes that have zero points.
        source: the Hugging Face folder.
        batches: ids and masks of the texts to calibrate on.

    Raises:
        ConfigError: the graph has none that are known, or its weights are not those of *source*.
    """
    import onnx

    graph = onnx.load(str(folder / _GRAPH), load_external_data=False)
    model = open_model(source)
    products = list(_products(graph.graph))
    first = {product.modules[0]: model.get_submodule(product.modules[0]) for product in products}
    if not first:
        raise ConfigError("GPTQ finds no products in this graph that it knows: use method: int4", path=str(source))
    by_name = {product.modules[0]: product for product in products}
    for name, moments in second_moments(model, first, batches):
        product = by_name[name]
        rows = [model.get_submodule(each).weight.detach() for each in product.modules]
        _replace(folder, product, _joined(rows), moments)
    onnx.save(graph, str(folder / _GRAPH))  # small tensors are within; the others are in their file
    return len(products)


def _joined(rows: Sequence[Any]) -> Any:
    import torch

    return torch.cat(list(rows))


def _products(graph: Any) -> Iterator[_Product]:
    tensors: Mapping[str, Any] = {each.name: each for each in graph.initializer}
    for node in graph.node:
        options = {each.name: each.i for each in node.attribute}
        match = _NODE.match(node.name)
        if node.op_type != "MatMulNBits" or options.get("bits") != 4 or match is None or len(node.input) < 4:
            continue
        found = [tensors.get(name) for name in node.input[1:4]]
        if None not in found:
            parts = _JOINED.get(match["product"], (match["product"],))
            under = f"model.layers.{match['layer']}.{_PARTS[match['part']]}"
            yield _Product(tuple(f"{under}.{part}" for part in parts), options["block_size"], *found)


def _replace(folder: Path, product: _Product, weight: Any, moments: Any) -> None:
    there = _read(folder, product, weight.shape)
    distance = float((there.dequantised() - weight).norm() / weight.norm())
    if not distance < _FARTHEST:
        raise ConfigError(f"{product.modules[0]} is not what the graph has in its place: use method: int4")
    made = gptq(weight, moments, product.block)
    codes, zeros = (each.numpy().astype(np.uint8) for each in (made.codes, made.zeros))
    _write(folder, product.codes, codes[:, 0::2] | (codes[:, 1::2] << 4))
    _write(folder, product.scales, made.scales.numpy())
    even = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    _write(folder, product.zeros, even[:, 0::2] | (even[:, 1::2] << 4))


def _read(folder: Path, product: _Product, shape: Sequence[int]) -> Quantised:
    """What the graph has, for a weight of that *shape*."""
    import torch
    from onnx import numpy_helper

    codes, scales, zeros = (
        torch.from_numpy(numpy_helper.to_array(each, str(folder)).astype(np.float32))
        for each in (product.codes, product.scales, product.zeros)
    )
    halves = (torch.stack([each % 16, each // 16], -1).reshape(shape[0], -1) for each in (codes, zeros))
    found, zero = halves
    blocks = shape[1] // product.block
    return Quantised(found[:, : shape[1]], scales.reshape(shape[0], blocks), zero[:, :blocks])


def _write(folder: Path, tensor: Any, values: NDArray[Any]) -> None:
    """Write *values*, which are as many as *tensor* has, where its bytes are."""
    from onnx import TensorProto, helper

    data = values.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).tobytes()
    if tensor.data_location != TensorProto.EXTERNAL:
        tensor.raw_data = data
        return
    place = {each.key: each.value for each in tensor.external_data}
    if int(place["length"]) != len(data):
        raise ConfigError(f"{tensor.name} has {place['length']} bytes, not {len(data)}: use method: int4")
    with (folder / place["location"]).open("r+b") as file:
        file.seek(int(place.get("offset", 0)))
        file.write(data)

"""Rewrites the 4-bit matrix products of an ONNX graph to 8-bit integer products, which processors compute much faster.

onnxruntime computes `MatMulNBits` in floats: it saves memory, not time. `DynamicQuantizeLinear` and `MatMulInteger` of
ONNX use the processor's integer instructions; onnxruntime fuses them. The weights get one scale per column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hybrid_llm.protos import onnx_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, Any]

_FLOAT, _UINT8, _INT8 = 1, 2, 3  # TensorProto.DataType
_INT: Final = 2  # AttributeProto.INT
_OP: Final = "MatMulNBits"
_MAX: Final = 64
"""Weights lie in -64 to 64: two products of them and an unsigned byte fit the 16 bits of processors without VNNI."""
_Nodes = list[pb.NodeProto]


def to_int8(model: bytes) -> bytes:
    """*model* with every 4-bit matrix product that has constant weights replaced; all else is as it was.

    Raises:
        google.protobuf.message.DecodeError: *model* is not in ONNX's format.
    """
    parsed = pb.ModelProto.FromString(model)
    graph = parsed.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    quantised: set[str] = set()
    replaced: set[str] = set()
    nodes: _Nodes = []
    for node in graph.node:
        weights = _weights(node, tensors)
        if weights is None:
            nodes.append(node)
            continue
        nodes.extend(_products(node, quantised))
        replaced.update(node.input[1:])
        graph.initializer.extend(_tensors(node.name, weights))
    kept = [tensor for tensor in graph.initializer if tensor.name not in replaced]
    _assign(graph.node, nodes)
    _assign(graph.initializer, kept)
    return parsed.SerializeToString()


def _assign(repeated: Any, values: list[Any]) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del repeated[:]
    repeated.extend(copies)


def _weights(node: pb.NodeProto, tensors: dict[str, pb.TensorProto]) -> Array | None:
    """The weights of a 4-bit product as floats, of shape (inputs, outputs); None for another node."""
    given = [tensors.get(name) for name in node.input[1:] if name]
    settings = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type != _OP or settings.get("bits", 4) != 4 or not 2 <= len(given) <= 3 or len(node.input) > 4:
        return None
    if not all(tensor is not None and tensor.raw_data for tensor in given):
        return None
    packed, scales, *points = (_array(tensor) for tensor in given if tensor is not None)
    if scales.dtype != np.float32 or any(point.dtype != np.uint8 for point in points):
        return None
    rows, columns, block = settings["N"], settings["K"], settings["block_size"]
    values = _nibbles(packed).reshape(rows, -1, block).astype(np.float32)
    blocks = values.shape[1]
    zero: Array | float = 8.0
    if points:
        zero = _nibbles(points[0].reshape(rows, -1))[:, :blocks, None].astype(np.float32)
    floats: Array = (values - zero) * scales.reshape(rows, blocks, 1)
    return floats.reshape(rows, -1)[:, :columns].T


def _nibbles(packed: Array) -> Array:
    """Two 4-bit values of each byte, the lower first, along the last axis."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _array(tensor: pb.TensorProto) -> Array:
    dtype = {_FLOAT: np.float32, _UINT8: np.uint8}.get(tensor.data_type, np.void)
    return np.frombuffer(tensor.raw_data, dtype=dtype).reshape(tuple(tensor.dims))


def _tensors(name: str, weights: Array) -> Iterator[pb.TensorProto]:
    """The 8-bit weights, their scales and their zero point."""
    scales = np.maximum(np.abs(weights).max(axis=0) / _MAX, np.finfo(np.float32).tiny).astype(np.float32)
    rounded = np.rint(weights / scales).astype(np.int8)
    yield _tensor(f"{name}:weights", _INT8, rounded)
    yield _tensor(f"{name}:scales", _FLOAT, scales)


def _tensor(name: str, data_type: int, values: Array) -> pb.TensorProto:
    return pb.TensorProto(name=name, data_type=data_type, dims=values.shape, raw_data=values.tobytes())


def _products(node: pb.NodeProto, quantised: set[str]) -> Iterator[pb.NodeProto]:
    """What takes the place of *node*; products of one input share its quantisation."""
    name, given = node.name, node.input[0]
    byte, scale, zero = (f"{given}:{part}" for part in ("byte", "scale", "zero"))
    if given not in quantised:
        quantised.add(given)
        yield _node("DynamicQuantizeLinear", [given], [byte, scale, zero])
    to_float = pb.AttributeProto(name="to", type=_INT, i=_FLOAT)
    yield _node("MatMulInteger", [byte, f"{name}:weights", zero], [f"{name}:product"])
    yield _node("Cast", [f"{name}:product"], [f"{name}:float"], to_float)
    yield _node("Mul", [scale, f"{name}:scales"], [f"{name}:scale"])
    yield _node("Mul", [f"{name}:float", f"{name}:scale"], [node.output[0]])


def _node(op: str, inputs: list[str], outputs: list[str], *attributes: pb.AttributeProto) -> pb.NodeProto:
    return pb.NodeProto(op_type=op, name=outputs[0], input=inputs, output=outputs, attribute=attributes)

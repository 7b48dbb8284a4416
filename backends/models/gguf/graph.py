"""Writes an ONNX graph and, beside it, the file of its weights, which are streamed: no whole model is in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.models.manifests import HashedFile
from hybrid_llm.core.errors import ConfigError

Pieces = Iterable[NDArray[Any]]
Signature = list[tuple[str, str, list[Any]]]
"""Names, types and shapes of inputs or outputs."""

DATA_NAME: Final = "model.onnx.data"
MICROSOFT: Final = "com.microsoft"
_OPSET: Final = 21
_IR_VERSION: Final = 10
_SMALL: Final = 1024
"""Constants below this many bytes are inside the graph."""
_PAGE: Final = 4096
"""onnxruntime maps weights that begin at a page."""


class Graph:
    """Nodes and constants of one graph, appended in the order of computation."""

    def __init__(self, data: HashedFile) -> None:
        self._onnx = load_onnx()
        self._data = data
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def constant(self, name: str, values: NDArray[Any], *, kind: str | None = None) -> str:
        """Add a constant, once; *kind* names an ONNX type that NumPy lacks, such as BFLOAT16."""
        if name not in self._constants:
            values = np.ascontiguousarray(values)
            code = self._code(values.dtype, kind)
            if values.nbytes < _SMALL:
                self._constants[name] = self._onnx.TensorProto(
                    name=name, dims=values.shape, data_type=code, raw_data=values.tobytes()
                )
            else:
                self._external(name, values.shape, code, [values])
        return name

    def stream(self, name: str, shape: tuple[int, ...], pieces: Pieces, *, kind: str = "UINT8") -> str:
        """Add a constant of *shape* whose bytes come in *pieces*."""
        self._external(name, shape, getattr(self._onnx.TensorProto, kind), pieces)
        return name

    def alias(self, name: str, of: str, shape: tuple[int, ...]) -> str:
        """Add a constant that is the bytes of another one in another shape."""
        tensor = self._onnx.TensorProto()
        tensor.CopyFrom(self._constants[of])
        tensor.name = name
        del tensor.dims[:]
        tensor.dims.extend(shape)
        self._constants[name] = tensor
        return name

    def node(
        self, kind: str, inputs: list[str], output: str | list[str], *, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node; returns its first output."""
        outputs = [output] if isinstance(output, str) else output
        self._nodes.append(
            self._onnx.helper.make_node(kind, inputs, outputs, name=f"{outputs[0]}/{kind}", domain=domain, **attributes)
        )
        return outputs[0]

    def save(self, path: Path, inputs: Signature, outputs: Signature) -> None:
        """Write the graph; inputs and outputs are names, types and shapes."""
        helper = self._onnx.helper
        graph = helper.make_graph(
            self._nodes, "decoder", self._infos(inputs), self._infos(outputs), list(self._constants.values())
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="hybrid-llm")
        path.write_bytes(model.SerializeToString())

    def _infos(self, tensors: Signature) -> list[Any]:
        info, kinds = self._onnx.helper.make_tensor_value_info, self._onnx.TensorProto
        return [info(name, getattr(kinds, kind), shape) for name, kind, shape in tensors]

    def _code(self, dtype: np.dtype[Any], kind: str | None) -> int:
        if kind is not None:
            return int(getattr(self._onnx.TensorProto, kind))
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(dtype))

    def _external(self, name: str, shape: tuple[int, ...], code: int, pieces: Pieces) -> None:
        self._data.write(bytes(-self._data.size % _PAGE))
        offset = self._data.size
        for piece in pieces:
            self._data.write(np.ascontiguousarray(piece).data)
        tensor = self._onnx.TensorProto(name=name, dims=shape, data_type=code, data_location=1)  # 1: external
        places = {"location": DATA_NAME, "offset": offset, "length": self._data.size - offset}
        for key, value in places.items():
            tensor.external_data.add(key=key, value=str(value))
        self._constants[name] = tensor


def load_onnx() -> Any:
    """Import `onnx`, which takes 0.2 s, and only here.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import onnx
        import onnx.helper
    except ImportError as error:
        raise ConfigError(f"onnx cannot be imported ({error}): pip install --upgrade onnx") from error
    return onnx

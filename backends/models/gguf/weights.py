"""The matrices of a GGUF file as constants and products of an ONNX graph, block by block and without rounding.

A quantised matrix becomes one `MatMulNBits`. Where blocks have minima, which ONNX can hold only as whole zero points,
`minima` puts the rest into further columns, or, where rows of the matrix are looked up too, the product of each block's
sum with its minimum is added: a small dense product. Fractional zero points would be exact too, and take 30 to 50 times
as long for one token (onnxruntime 1.32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.models.gguf.blocks import PLAIN, Blocks, read_blocks, row_slices
from hybrid_llm.backends.models.gguf.graph import MICROSOFT, Graph
from hybrid_llm.backends.models.gguf.minima import SECOND, digits, fold, pack_zeros
from hybrid_llm.backends.models.gguf.reader import Gguf, Tensor

Order = Callable[[NDArray[Any]], NDArray[Any]]
"""Reorders rows that are read."""

EXACT: Final = 1
"""MatMulNBits' `accuracy_level` for float32."""
FAST: Final = 4
"""For the other factor rounded to int8, block by block."""
_ONNX_KINDS: Final = {"F32": "FLOAT", "F16": "FLOAT16", "BF16": "BFLOAT16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A tensor, and how its rows and columns are reordered: *order* works on any number of groups of *group* rows."""

    tensor: Tensor
    order: Order | None = None
    group: int = 1
    columns: Order | None = None
    """Reorders the second dimension, whatever it is made of: blocks, or bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A matrix whose constants are in the graph."""

    name: str
    rows: int
    columns: int
    bits: int
    """32 for numbers that are not quantised."""
    block: int = 1
    minima: bool = False
    """The minima of blocks are a constant of their own."""
    folded: bool = False
    """They are in zero points and further columns."""


class Weights:
    """Adds the matrices of *file* to *graph*."""

    def __init__(self, file: Gguf, graph: Graph) -> None:
        self._file, self._graph = file, graph
        self._sums: dict[tuple[str, int], str] = {}
        self._wide: dict[tuple[str, int, int], str] = {}

    def matrix(self, name: str, *parts: Part, looked_up: bool = False) -> Matrix:
        """Add the rows of *parts*, which are of one type and width, as one matrix; *looked_up*: for `lookup` too."""
        first = parts[0].tensor
        rows = sum(part.tensor.rows for part in parts)
        if first.kind.name in PLAIN:
            pieces = (piece for part in parts for piece in self._plain(part))
            self._graph.stream(name, (rows, first.columns), pieces, kind=_ONNX_KINDS[first.kind.name])
            return Matrix(name=name, rows=rows, columns=first.columns, bits=32)
        return self._quantised(name, rows, parts, looked_up=looked_up)

    def product(self, x: str, matrix: Matrix, output: str) -> str:
        """Add *output* = *x* times the transposed *matrix*."""
        if matrix.bits == 32:
            values = self._graph.node("Cast", [matrix.name], f"{output}/cast", to=1)
            return self._graph.node("FusedMatMul", [x, values], output, domain=MICROSOFT, transB=1)
        return self._quantised_product(x, matrix, output)

    def lookup(self, ids: str, matrix: Matrix, output: str) -> str:
        """Add *output* = the rows of *matrix* with the given *ids*."""
        graph = self._graph
        if matrix.bits == 32:
            return graph.node("Cast", [graph.node("Gather", [matrix.name, ids], f"{output}/rows")], output, to=1)
        size = (matrix.rows, matrix.columns * matrix.bits // 8)
        flat = graph.alias(f"{matrix.name}.rows", f"{matrix.name}.codes", size)
        scaled = output if not matrix.minima else f"{output}/scaled"
        options = {"bits": matrix.bits, "block_size": matrix.block, "gather_axis": 0, "quantize_axis": 1}
        graph.node("GatherBlockQuantized", [flat, ids, f"{matrix.name}.scales"], scaled, domain=MICROSOFT, **options)
        return self._add_minima(ids, matrix, scaled, output) if matrix.minima else scaled

    def _plain(self, part: Part) -> Iterator[NDArray[np.uint8]]:
        for start, stop in _slices(part):
            rows = self._file.rows(part.tensor, start, stop)
            _check_finite(self._file, part.tensor, rows)
            yield _ordered(part, rows)

    def _quantised(self, name: str, rows: int, parts: tuple[Part, ...], *, looked_up: bool) -> Matrix:
        sample = read_blocks(self._file, parts[0].tensor, 0, 1)
        count, block = sample.codes.shape[1:]
        folds = sample.minima is not None and not looked_up
        matrix = Matrix(
            name=name,
            rows=rows,
            columns=count * block,
            bits=sample.bits,
            block=block,
            minima=sample.minima is not None and not folds,
            folded=folds,
        )
        further = -(-digits(sample.bits) * count // block) if folds else 0
        constants: dict[str, list[NDArray[Any]]] = {"scales": [], "minima": [], "zeros": []}
        graph, shape = self._graph, (rows, count + further, block * sample.bits // 8)
        graph.stream(f"{name}.codes", shape, self._packed(parts, constants, folds=folds))
        for key, pieces in constants.items():
            if pieces:
                whole = np.concatenate(pieces)
                graph.constant(f"{name}.{key}", whole.T if key == "minima" else whole)
        return matrix

    def _packed(
        self, parts: tuple[Part, ...], constants: dict[str, list[NDArray[Any]]], *, folds: bool
    ) -> Iterator[NDArray[np.uint8]]:
        """The codes of all rows; adds what belongs to them to *constants*."""
        for part in parts:
            for start, stop in _slices(part):
                blocks = _in_order(part, read_blocks(self._file, part.tensor, start, stop))
                if folds:
                    blocks, zeros = fold(blocks)
                    constants["zeros"].append(pack_zeros(zeros, blocks.bits))
                constants["scales"].append(blocks.scales)
                if blocks.minima is not None:
                    constants["minima"].append(blocks.minima)
                yield _pack(blocks)

    def _quantised_product(self, x: str, matrix: Matrix, output: str) -> str:
        graph, name = self._graph, matrix.name
        product = f"{output}/product" if matrix.minima else output
        columns, inputs = matrix.columns, [x, f"{name}.codes", f"{name}.scales"]
        if matrix.folded:
            columns += digits(matrix.bits) * matrix.columns // matrix.block
            inputs = [self._with_sums(x, matrix), *inputs[1:], f"{name}.zeros"]
        options = {"K": columns, "N": matrix.rows, "bits": matrix.bits, "block_size": matrix.block}
        graph.node("MatMulNBits", inputs, product, domain=MICROSOFT, accuracy_level=EXACT, **options)
        if not matrix.minima:
            return product
        least = graph.node("MatMul", [self._block_sums(x, matrix), f"{name}.minima"], f"{output}/minima")
        return graph.node("Add", [product, least], output)

    def _with_sums(self, x: str, matrix: Matrix) -> str:
        """*x* and the sums of its blocks, once for each digit, as the columns of a folded matrix are."""
        key, graph = (x, matrix.block, matrix.bits), self._graph
        if key not in self._wide:
            sums = [self._block_sums(x, matrix)]
            if digits(matrix.bits) == 2:
                factor = graph.constant("second_digit", np.array(1 / SECOND, dtype=np.float32))
                sums.append(graph.node("Mul", [sums[0], factor], f"{sums[0]}/second"))
            self._wide[key] = graph.node("Concat", [x, *sums], f"{x}/wide{matrix.bits}", axis=-1)
        return self._wide[key]

    def _block_sums(self, x: str, matrix: Matrix) -> str:
        """The sum of *x* over each block, once for all matrices that read it."""
        key = (x, matrix.block)
        if key not in self._sums:
            count, graph = matrix.columns // matrix.block, self._graph
            shape = graph.constant(f"{count}x{matrix.block}", np.array([0, 0, count, matrix.block], dtype=np.int64))
            axis = graph.constant("last_axis", np.array([-1], dtype=np.int64))
            blocks = graph.node("Reshape", [x, shape], f"{x}/blocks")
            self._sums[key] = graph.node("ReduceSum", [blocks, axis], f"{x}/sums", keepdims=0)
        return self._sums[key]

    def _add_minima(self, ids: str, matrix: Matrix, scaled: str, output: str) -> str:
        graph, count = self._graph, matrix.columns // matrix.block
        split = graph.constant(f"{count}x{matrix.block}", np.array([0, 0, count, matrix.block], dtype=np.int64))
        joined = graph.constant(f"x{matrix.columns}", np.array([0, 0, matrix.columns], dtype=np.int64))
        columns = graph.node("Gather", [f"{matrix.name}.minima", ids], f"{output}/columns", axis=1)
        least = graph.node("Transpose", [columns], f"{output}/least", perm=[1, 2, 0])
        axis = graph.constant("last_axis", np.array([-1], dtype=np.int64))
        wide = graph.node("Unsqueeze", [least, axis], f"{output}/wide")
        blocks = graph.node("Reshape", [scaled, split], f"{output}/blocks")
        return graph.node("Reshape", [graph.node("Add", [blocks, wide], f"{output}/sum"), joined], output)


def _slices(part: Part) -> Iterator[tuple[int, int]]:
    step = max(row_slices(part.tensor).step // part.group, 1) * part.group
    return ((start, start + step) for start in range(0, part.tensor.rows, step))


def _ordered(part: Part, rows: NDArray[Any]) -> NDArray[Any]:
    rows = rows if part.order is None else part.order(rows)
    return rows if part.columns is None else part.columns(rows)


def _in_order(part: Part, blocks: Blocks) -> Blocks:
    return Blocks(
        bits=blocks.bits,
        codes=_ordered(part, blocks.codes),
        scales=_ordered(part, blocks.scales),
        minima=None if blocks.minima is None else _ordered(part, blocks.minima),
    )


def _pack(blocks: Blocks) -> NDArray[np.uint8]:
    codes = blocks.codes
    return codes if blocks.bits == 8 else np.asarray(codes[..., 0::2] | (codes[..., 1::2] << 4), dtype=np.uint8)


def _check_finite(file: Gguf, tensor: Tensor, rows: NDArray[np.uint8]) -> None:
    """Exponents of all ones are infinities and NaN."""
    mask, dtype = {"F32": (0x7F800000, "<u4"), "F16": (0x7C00, "<u2"), "BF16": (0x7F80, "<u2")}[tensor.kind.name]
    if ((rows.reshape(len(rows), -1).view(dtype) & mask) == mask).any():
        raise file.refuse(f"{tensor.name} has a number that is not finite: the file is broken")

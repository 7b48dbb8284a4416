"""Attention in which the heads that share keys are rows of one product: exact in any number of rows, and faster.

onnxruntime's attention multiplies the queries of each head by themselves, and multiplies a single row by another kernel
than several, with other last bits. Here the query heads that read the same keys and values become rows of one head, so
that even one token is several rows. A run of several tokens then gives each of them the bits that a run of its own
would give, and the keys are read once for all their heads: measured with three heads to one, 0.6 of the time.

The rows of a token need as many rows of keys: behind the true ones come zeros, which the bias hides, and which the next
run overwrites.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.models.gguf.graph import MICROSOFT, Graph
from hybrid_llm.backends.models.gguf.shape import Shape
from hybrid_llm.backends.models.gguf.weights import Order

_MOST_ROWS: Final = 4
"""For each token, unless the heads can only be divided by more: each costs a row of keys while a prompt is read."""
_LARGEST_BLOCK: Final = 32
"""Columns of a matrix that share a scale, which a reordering must leave together."""
_INT32: Final = 6


def rows_per_token(shape: Shape) -> int:
    """How many rows of queries a token becomes; 1 if its attention is of another kind, or no two heads share keys."""
    group = shape.heads // shape.kv_heads
    divisors = [rows for rows in range(2, group + 1) if group % rows == 0]
    if not divisors or any(shape.windows) or shape.attention_softcap:
        return 1
    rows = max((each for each in divisors if each <= _MOST_ROWS), default=divisors[0])
    return rows if group // rows * shape.head_size % _LARGEST_BLOCK == 0 else 1


def head_order(shape: Shape, rows: int, axis: int) -> Order:
    """From heads that share keys one behind the other to *rows* parts, each of which holds some of all keys' heads."""

    def order(values: NDArray[Any]) -> NDArray[Any]:
        before, after = values.shape[:axis], values.shape[axis + 1 :]
        return values.reshape(*before, shape.kv_heads, rows, -1, *after).swapaxes(axis, axis + 1).reshape(values.shape)

    return order


class RowAttention:
    """Adds the attention of each layer to *graph*, with *rows* rows for each token."""

    def __init__(self, graph: Graph, shape: Shape, rows: int) -> None:
        self._graph, self._shape, self._rows = graph, shape, rows
        self._keys = shape.kv_heads * shape.head_size
        self._queries = shape.heads * shape.head_size // rows

    def prepare(self) -> None:
        """Add what all layers read: lengths, the bias that hides what a token must not see, and rows of zeros."""
        graph, one = self._graph, self._numbers("one", 1)
        graph.node("Shape", ["input_ids"], "tokens", start=1, end=2)
        graph.node("Shape", ["attention_mask"], "total", start=1, end=2)
        graph.node("Sub", ["total", "tokens"], "past")
        graph.node("Mul", ["tokens", self._numbers("rows", self._rows)], "tokens/rows")
        graph.node("Sub", ["tokens/rows", "tokens"], "tokens/zeros")
        graph.node("Add", ["past", "tokens/rows"], "padded")
        graph.node("Cast", ["padded"], "total_length", to=_INT32)
        graph.node("Cast", [graph.node("Sub", ["padded", one], "padded/last")], "past_length", to=_INT32)
        size = graph.node("Concat", [one, "tokens/zeros", self._numbers("keys", self._keys)], "zeros/shape", axis=0)
        graph.node("ConstantOfShape", [size], "zeros")
        self._bias()

    def add(self, name: str, layer: int, parts: list[str], tables: list[str]) -> str:
        """Add one layer's attention over queries, keys and values, joined or apart; *tables* rotate, if there are any.

        Returns its output, with the heads in the order of `head_order`.
        """
        graph, past, present = self._graph, f"past_key_values.{layer}", f"present.{layer}"
        queries, keys, values = self._apart(name, parts)
        queries = self._rotated(queries, self._shape.heads, tables)
        keys = self._rotated(keys, self._shape.kv_heads, tables)
        flat = graph.node("Reshape", [queries, self._numbers("flat", 1, -1, self._queries)], f"{name}.rows")
        padded = [graph.node("Concat", [each, "zeros"], f"{each}/padded", axis=1) for each in (keys, values)]
        inputs = [flat, *padded, f"{past}.key", f"{past}.value", "past_length", "total_length", "", "", "", "bias"]
        graph.node(
            "GroupQueryAttention",
            inputs,
            [f"{name}.attended_rows", f"{present}.key", f"{present}.value"],
            domain=MICROSOFT,
            num_heads=self._shape.heads // self._rows,
            kv_num_heads=self._shape.kv_heads,
            scale=self._shape.attention_scale,
        )
        joined = self._numbers("joined", 1, -1, self._queries * self._rows)
        return graph.node("Reshape", [f"{name}.attended_rows", joined], f"{name}.attention")

    def _apart(self, name: str, parts: list[str]) -> list[str]:
        if all(parts):
            return parts
        names = [f"{name}.{each}" for each in ("queries", "keys", "values")]
        sizes = self._numbers("sizes", self._queries * self._rows, self._keys, self._keys)
        self._graph.node("Split", [parts[0], sizes], names, axis=-1)
        return names

    def _rotated(self, x: str, heads: int, tables: list[str]) -> str:
        if not tables:
            return x
        rotary, inputs = self._shape.rotary_size, [x, "past", *tables]
        partly = {} if rotary == self._shape.head_size else {"rotary_embedding_dim": rotary}
        options = {"num_heads": heads, **partly}
        return self._graph.node("RotaryEmbedding", inputs, f"{x}/rotated", domain=MICROSOFT, **options)

    def _bias(self) -> None:
        """Shape (1, 1, rows of queries, rows of keys): 0 where a row's token sees a key, else minus infinity."""
        graph = self._graph
        zero, one = (graph.constant(f"attention/scalar_{v}", np.array(v, dtype=np.int64)) for v in (0, 1))
        ends = [graph.node("Squeeze", [each], f"{each}/scalar") for each in ("tokens/rows", "padded")]
        rows, columns = (graph.node("Range", [zero, end, one], f"{end}/range") for end in ends)
        token = graph.node("Div", [rows, self._numbers("rows", self._rows)], "bias/token")
        at = graph.node("Add", [token, "past"], "bias/at")
        tall = graph.node("Reshape", [at, self._numbers("tall", 1, 1, -1, 1)], "bias/tall")
        seen = graph.node("LessOrEqual", [columns, tall], "bias/seen")
        levels = [graph.constant(f"bias/{v}", np.array(v, dtype=np.float32)) for v in (0.0, -np.inf)]
        graph.node("Where", [seen, *levels], "bias")

    def _numbers(self, name: str, *values: int) -> str:
        return self._graph.constant(f"attention/{name}", np.array(values, dtype=np.int64))

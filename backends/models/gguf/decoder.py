"""Builds the ONNX graph of a decoder, as the edge's loop runs it: keys and values in shared buffers, logits last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.edge.folder import FileEntry
from hybrid_llm.backends.models.gguf.attention import RowAttention, head_order
from hybrid_llm.backends.models.gguf.blocks import read_dense
from hybrid_llm.backends.models.gguf.graph import DATA_NAME, MICROSOFT, Graph, load_onnx
from hybrid_llm.backends.models.gguf.reader import Gguf, Tensor
from hybrid_llm.backends.models.gguf.rope import Rope
from hybrid_llm.backends.models.gguf.shape import Shape
from hybrid_llm.backends.models.gguf.weights import EXACT, FAST, Order, Part, Weights
from hybrid_llm.backends.models.manifests import HashedFile

__all__ = ["EXACT", "FAST", "Outline", "set_accuracy", "write_config", "write_decoder"]

GRAPH_NAME: Final = "model.onnx"
LOGIT_ROWS: Final = "logit_rows"
HIDDEN_STATES: Final = "hidden_states"
_END: Final = np.array([np.iinfo(np.int64).max])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a graph takes and gives beside ids and logits."""

    rows: int = 1
    """Of the attention for each token, see `attention.rows_per_token`. With more than one, an input of the graph says
    how many of the last positions' logits are computed."""
    all_logits: bool = False
    """Compute the logits of every position, not only of the last; *rows* must then be 1."""
    hidden_states: bool = False
    """Also give what the logits are computed from: the last layer's output after the final norm, float32."""

    @property
    def chosen(self) -> bool:
        """Whether an input says how many logits are computed."""
        return self.rows > 1


def write_decoder(file: Gguf, shape: Shape, folder: Path, outline: Outline) -> FileEntry:
    """Write graph and weights of *file* to *folder*, to be computed in float32 until `set_accuracy`.

    Returns size and hash of the file of the weights, `graph.DATA_NAME`, which are computed while it is written.

    Args:
        file: Its tensors have been checked.
        shape: Of the model.
        folder: Exists; files of these names in it are replaced.
        outline: Of the graph.

    Raises:
        ConfigError: a number in the file is not finite, or the file changed.
        OSError: the disk is full, for instance.
    """
    with (folder / DATA_NAME).open("wb") as stream:
        data = HashedFile(stream)
        graph = Graph(data)
        _Decoder(file, shape, graph, Weights(file, graph), outline.rows).build(all_logits=outline.all_logits)
    graph.save(folder / GRAPH_NAME, *_signature(shape, outline))
    return data.entry()


def set_accuracy(folder: Path, accuracy: int) -> None:
    """Change how products with quantised weights are computed: `EXACT` or `FAST`."""
    onnx = load_onnx()
    model = onnx.load(folder / GRAPH_NAME, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = accuracy
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())


def rotation_order(heads: int) -> Order:
    """From rows in pairs (0, 1), (2, 3), ... to the halves that onnxruntime's attention rotates, within each head."""

    def order(rows: NDArray[Any]) -> NDArray[Any]:
        return rows.reshape(-1, heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

    return order


class _Decoder:
    def __init__(self, file: Gguf, shape: Shape, graph: Graph, weights: Weights, rows: int) -> None:
        self._file, self._shape, self._graph, self._weights = file, shape, graph, weights
        self._tables: dict[Rope, list[str]] = {}
        self._count = rows
        self._rows = RowAttention(graph, shape, rows) if rows > 1 else None

    def build(self, *, all_logits: bool) -> None:
        graph, shape = self._graph, self._shape
        if self._rows is not None:
            self._rows.prepare()
        else:
            self._lengths()
        embedding = self._weights.matrix("embedding", self._part("token_embd.weight"), looked_up=True)
        x = self._weights.lookup("input_ids", embedding, "embedded")
        x = self._scaled(x, shape.embedding_scale, "embedded/scaled")
        h = self._norm(x, "blk.0.attn_norm.weight", "blk.0.normed")
        for layer in range(shape.layers):
            h, x = self._layer(layer, h, x)
        if not all_logits:
            bounds = [np.array([-1]), _END, np.array([1])]
            start, *rest = [graph.constant(f"last/{i}", bound) for i, bound in enumerate(bounds)]
            first = start if self._rows is None else graph.node("Neg", [LOGIT_ROWS], "last/first")
            h = graph.node("Slice", [h, first, *rest], HIDDEN_STATES)
        else:
            h = graph.node("Identity", [h], HIDDEN_STATES)
        tied = "output.weight" not in self._file.tensors
        head = embedding if tied else self._weights.matrix("head", self._part("output.weight"))
        plain = shape.logit_softcap == 0 and shape.logit_scale == 1
        logits = self._weights.product(h, head, "logits" if plain else "head/logits")
        if not plain:
            self._softcapped(self._scaled(logits, shape.logit_scale, "head/scaled"))

    def _layer(self, layer: int, h: str, x: str) -> tuple[str, str]:
        """Add one layer; *h* is normed, *x* the residual stream. Returns both for the next layer."""
        name, traits = f"blk.{layer}", self._shape.traits
        attended = self._linear(f"{name}.attn_output", self._attention(layer, h))
        if traits.post_norms:
            attended = self._norm(attended, f"{name}.post_attention_norm.weight", f"{name}.attended")
        h, x = self._add_and_norm(x, attended, f"{name}.ffn_norm.weight", f"{name}.middle")
        fed = self._feed_forward(name, h)
        if traits.post_norms:
            fed = self._norm(fed, f"{name}.post_ffw_norm.weight", f"{name}.fed")
        is_last = layer + 1 == self._shape.layers
        after = "output_norm.weight" if is_last else f"blk.{layer + 1}.attn_norm.weight"
        return self._add_and_norm(x, fed, after, f"blk.{layer + 1}.normed")

    def _attention(self, layer: int, h: str) -> str:
        shape, name = self._shape, f"blk.{layer}"
        rope, window = shape.ropes[layer], shape.windows[layer]
        tables = self._rope_tables(rope) if rope is not None else []
        if self._rows is not None:
            return self._rows.add(name, layer, self._queries_keys_values(name, h), tables)
        past, present = f"past_key_values.{layer}", f"present.{layer}"
        inputs = [*self._queries_keys_values(name, h), f"{past}.key", f"{past}.value", "past_length", "total_length"]
        inputs += tables
        return self._graph.node(
            "GroupQueryAttention",
            inputs,
            [f"{name}.attention", f"{present}.key", f"{present}.value"],
            domain=MICROSOFT,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=shape.attention_scale,
            softcap=shape.attention_softcap,
            do_rotary=int(rope is not None),
            rotary_interleaved=0,
            local_window_size=window or -1,
        )

    def _queries_keys_values(self, name: str, h: str) -> list[str]:
        """Three outputs, or one and two empty names where all can be computed by one product."""
        names = [f"{name}.attn_{letter}" for letter in "qkv"]
        parts = [self._part(f"{each}.weight") for each in names]
        if self._shape.traits.qk_norms or len({part.tensor.kind for part in parts}) > 1:
            separate = [self._linear(each, h) for each in names]
            return self._head_norms(name, separate) if self._shape.traits.qk_norms else separate
        matrix = self._weights.matrix(f"{name}.attn_qkv", *parts)
        biased = f"{names[0]}.bias" in self._file.tensors
        joined = self._weights.product(h, matrix, f"{name}.qkv/product" if biased else f"{name}.qkv")
        if biased:
            biases = [self._bias(f"{each}.bias") for each in names]
            bias = self._graph.constant(f"{name}.attn_qkv.bias", np.concatenate(biases))
            joined = self._graph.node("Add", [joined, bias], f"{name}.qkv")
        return [joined, "", ""]

    def _head_norms(self, name: str, outputs: list[str]) -> list[str]:
        shape = self._shape
        counts = {"q": shape.heads, "k": shape.kv_heads}
        normed = [self._head_norm(f"{name}.attn_{w}", x, n) for (w, n), x in zip(counts.items(), outputs, strict=False)]
        return [*normed, outputs[2]]

    def _head_norm(self, name: str, x: str, heads: int) -> str:
        size = self._shape.head_size
        apart = self._graph.constant(f"{heads}x{size}", np.array([0, 0, heads, size]))
        joined = self._graph.constant(f"x{heads * size}", np.array([0, 0, heads * size]))
        split = self._graph.node("Reshape", [x, apart], f"{name}/heads")
        normed = self._norm(split, f"{name}_norm.weight", f"{name}/normed")
        return self._graph.node("Reshape", [normed, joined], f"{name}/flat")

    def _feed_forward(self, name: str, h: str) -> str:
        graph = self._graph
        gate, up = self._linear(f"{name}.ffn_gate", h), self._linear(f"{name}.ffn_up", h)
        if self._shape.traits.gelu:
            active = graph.node("Gelu", [gate], f"{name}.active", approximate="tanh")
        else:
            active = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.active")
        return self._linear(f"{name}.ffn_down", graph.node("Mul", [active, up], f"{name}.inner"))

    def _linear(self, name: str, x: str) -> str:
        """The product with the matrix of this name, and its bias if it has one."""
        matrix = self._weights.matrix(name, self._part(f"{name}.weight"))
        if f"{name}.bias" not in self._file.tensors:
            return self._weights.product(x, matrix, f"{name}/out")
        product = self._weights.product(x, matrix, f"{name}/unbiased")
        bias = self._graph.constant(f"{name}.bias", self._bias(f"{name}.bias"))
        return self._graph.node("Add", [product, bias], f"{name}/out")

    def _add_and_norm(self, x: str, change: str, norm: str, output: str) -> tuple[str, str]:
        """Add *change* to the residual stream *x*, and norm the sum."""
        change = self._scaled(change, self._shape.residual_scale, f"{output}/change")
        outputs = [output, "", "", f"{output}/residual"]
        inputs, epsilon = [x, change, self._vector(norm)], self._shape.epsilon
        self._graph.node("SkipSimplifiedLayerNormalization", inputs, outputs, domain=MICROSOFT, epsilon=epsilon)
        return output, f"{output}/residual"

    def _norm(self, x: str, weight: str, output: str) -> str:
        inputs, epsilon = [x, self._vector(weight)], self._shape.epsilon
        return self._graph.node("SimplifiedLayerNormalization", inputs, output, epsilon=epsilon, axis=-1, stash_type=1)

    def _scaled(self, x: str, scale: float, output: str) -> str:
        if scale == 1:
            return x
        factor = self._graph.constant(f"{output}/factor", np.array(scale, dtype=np.float32))
        return self._graph.node("Mul", [x, factor], output)

    def _softcapped(self, logits: str) -> None:
        """`logits` = cap * tanh(*logits* / cap); 0 is no cap."""
        graph, cap = self._graph, self._shape.logit_softcap
        if not cap:
            graph.node("Identity", [logits], "logits")
            return
        limit = graph.constant("softcap", np.array(cap, dtype=np.float32))
        bounded = graph.node("Tanh", [graph.node("Div", [logits, limit], "head/divided")], "head/bounded")
        graph.node("Mul", [bounded, limit], "logits")

    def _lengths(self) -> None:
        """Lengths from the attention mask, as GroupQueryAttention takes them: past, and total."""
        graph = self._graph
        one = graph.constant("axis_1", np.array([1]))
        graph.node("ReduceSum", ["attention_mask", one], "mask/sum", keepdims=0)
        graph.node("Sub", ["mask/sum", one], "mask/last")
        graph.node("Cast", ["mask/last"], "past_length", to=6)
        graph.node("Shape", ["attention_mask"], "mask/shape")
        graph.node("Gather", ["mask/shape", graph.constant("index_1", np.array(1))], "mask/width", axis=0)
        graph.node("Cast", ["mask/width"], "total_length", to=6)

    def _rope_tables(self, rope: Rope) -> list[str]:
        """The names of cosines and sines, which layers share."""
        if rope not in self._tables:
            name, tables = f"rope.{len(self._tables)}", rope.tables(self._shape.context)
            parts = zip(("cos", "sin"), tables, strict=True)
            self._tables[rope] = [self._graph.constant(f"{name}.{part}", table) for part, table in parts]
        return self._tables[rope]

    def _part(self, name: str) -> Part:
        tensor, shape = self._file.tensors[name], self._shape
        if self._rows is not None and name.endswith("attn_output.weight"):
            return Part(tensor=tensor, columns=head_order(shape, self._count, axis=1))
        order = self._order(name)
        whole = self._rows is not None and "attn_q" in name
        group = 1 if order is None else tensor.rows if whole else shape.head_size
        return Part(tensor=tensor, order=order, group=group)

    def _bias(self, name: str) -> NDArray[np.float32]:
        bias, order = read_dense(self._file, self._file.tensors[name])[0], self._order(name)
        return bias if order is None else np.asarray(order(bias))

    def _order(self, name: str) -> Order | None:
        """How the rows of queries and keys are reordered; None for others."""
        orders: list[Order] = []
        if "attn_q." in name or "attn_k." in name:
            orders += [rotation_order(self._shape.head_size)] if self._shape.traits.interleaved else []
        if "attn_q." in name and self._rows is not None:
            orders.append(head_order(self._shape, self._count, axis=0))
        return (lambda rows: reduce(lambda values, order: order(values), orders, rows)) if orders else None

    def _vector(self, name: str) -> str:
        tensor: Tensor = self._file.tensors[name]
        return self._graph.constant(name, read_dense(self._file, tensor)[0])


def _signature(shape: Shape, outline: Outline) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs."""
    inputs: list[tuple[str, str, list[Any]]] = [
        ("input_ids", "INT64", ["batch", "tokens"]),
        ("attention_mask", "INT64", ["batch", "total"]),
    ]
    inputs += [(LOGIT_ROWS, "INT64", [1])] if outline.chosen else []
    inputs += _caches(shape, "past_key_values", "past")
    count = "tokens" if outline.all_logits else LOGIT_ROWS if outline.chosen else 1
    outputs: list[tuple[str, str, list[Any]]] = [("logits", "FLOAT", ["batch", count, shape.vocab_size])]
    outputs += [(HIDDEN_STATES, "FLOAT", ["batch", count, shape.hidden])] if outline.hidden_states else []
    outputs += _caches(shape, "present", "capacity")
    return inputs, outputs


def _caches(shape: Shape, prefix: str, length: str) -> Iterator[tuple[str, str, list[Any]]]:
    size: list[Any] = ["batch", shape.kv_heads, length, shape.head_size]
    return ((f"{prefix}.{layer}.{what}", "FLOAT", size) for layer in range(shape.layers) for what in ("key", "value"))


def write_config(shape: Shape, folder: Path, ids: dict[str, Any], outline: Outline) -> None:
    """Write `genai_config.json`, which onnxruntime-genai reads too. *ids* are those of the special tokens.

    It runs graphs with one row for each token only.
    """
    decoder: dict[str, Any] = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": GRAPH_NAME,
        "head_size": shape.head_size,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    if outline.hidden_states:
        decoder["outputs"]["hidden_states"] = HIDDEN_STATES
    if outline.chosen:
        decoder["rows_per_token"] = outline.rows
        decoder["inputs"]["logit_rows"] = LOGIT_ROWS
    sizes = {"type": "llama", "context_length": shape.context, "vocab_size": shape.vocab_size, "decoder": decoder}
    search = {"do_sample": False, "max_length": shape.context, "past_present_share_buffer": True}
    text = json.dumps({"model": {**ids, **sizes}, "search": search}, indent=1)
    (folder / "genai_config.json").write_text(text + "\n", encoding="utf-8")

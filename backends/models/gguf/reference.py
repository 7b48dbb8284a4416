"""The same model in plain NumPy, straight from the GGUF file: what an imported model is compared with.

It follows llama.cpp's conventions, shares nothing with the graph but the decoding of blocks, and keeps one slice of one
matrix in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid_llm.backends.models.gguf.blocks import Floats, read_dense, row_slices
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.rope import Rope, Table
from hybrid_llm.backends.models.gguf.shape import Shape


def reference_logits(file: Gguf, shape: Shape, texts: Sequence[tuple[Sequence[int], int]]) -> list[Floats]:
    """Return the logits for each of *texts*, its token ids and the first position of interest.

    Each result has the shape (positions from the first of interest on, vocabulary).

    Raises:
        ConfigError: the file became shorter, or holds numbers that are not finite.
    """
    with np.errstate(all="ignore"):  # what overflows shows in the comparison
        return _Forward(file, shape, [len(ids) for ids, _ in texts]).logits(texts)


class _Forward:
    """All texts go through a layer as rows of one matrix; only attention is computed text by text."""

    def __init__(self, file: Gguf, shape: Shape, lengths: list[int]) -> None:
        self._file, self._shape = file, shape
        ends = np.cumsum(lengths).tolist()
        self._texts = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        longest = max(lengths)
        self._tables = {rope: rope.tables(longest) for rope in set(shape.ropes) if rope is not None}

    def logits(self, texts: Sequence[tuple[Sequence[int], int]]) -> list[Floats]:
        shape = self._shape
        x = self._embedded([token for ids, _ in texts for token in ids]) * np.float32(shape.embedding_scale)
        for layer in range(shape.layers):
            x = self._layer(layer, x)
        x = self._norm(x, "output_norm.weight")
        wanted = [x[rows][first:] for rows, (_, first) in zip(self._texts, texts, strict=True)]
        head = "output.weight" if "output.weight" in self._file.tensors else "token_embd.weight"
        logits = self._times(np.concatenate(wanted), head) * np.float32(shape.logit_scale)
        if shape.logit_softcap:
            logits = np.tanh(logits / np.float32(shape.logit_softcap)) * np.float32(shape.logit_softcap)
        return np.split(logits, np.cumsum([len(rows) for rows in wanted])[:-1])

    def _embedded(self, ids: list[int]) -> Floats:
        table = self._file.tensors["token_embd.weight"]
        return np.concatenate([read_dense(self._file, table, token, token + 1) for token in ids])

    def _layer(self, layer: int, x: Floats) -> Floats:
        name, scale = f"blk.{layer}", np.float32(self._shape.residual_scale)
        attended = self._attention(layer, self._norm(x, f"{name}.attn_norm.weight"))
        attended = self._linear(attended, f"{name}.attn_output")
        if self._shape.traits.post_norms:
            attended = self._norm(attended, f"{name}.post_attention_norm.weight")
        x = x + attended * scale
        fed = self._feed_forward(name, self._norm(x, f"{name}.ffn_norm.weight"))
        if self._shape.traits.post_norms:
            fed = self._norm(fed, f"{name}.post_ffw_norm.weight")
        return np.asarray(x + fed * scale, dtype=np.float32)

    def _feed_forward(self, name: str, h: Floats) -> Floats:
        gate, up = self._linear(h, f"{name}.ffn_gate"), self._linear(h, f"{name}.ffn_up")
        return self._linear((_gelu(gate) if self._shape.traits.gelu else _silu(gate)) * up, f"{name}.ffn_down")

    def _attention(self, layer: int, h: Floats) -> Floats:
        shape, name = self._shape, f"blk.{layer}"
        size, window = shape.head_size, shape.windows[layer]
        queries, keys, values = (
            self._linear(h, f"{name}.attn_{letter}").reshape(len(h), count, size)
            for letter, count in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads))
        )
        if shape.traits.qk_norms:
            queries = self._norm(queries, f"{name}.attn_q_norm.weight")
            keys = self._norm(keys, f"{name}.attn_k_norm.weight")
        return np.concatenate(
            [self._attend(queries[rows], keys[rows], values[rows], window, shape.ropes[layer]) for rows in self._texts]
        )

    def _attend(self, queries: Floats, keys: Floats, values: Floats, window: int, rope: Rope | None) -> Floats:
        """Causal attention within one text; shapes (positions, heads, head size) in, (positions, numbers) out."""
        shape, count = self._shape, len(queries)
        if rope is not None:
            tables, paired = self._tables[rope], shape.traits.interleaved
            queries, keys = (_rotated(rows, tables, interleaved=paired) for rows in (queries, keys))
        position = np.arange(count)
        distance = position[:, None] - position[None, :]
        visible = (distance >= 0) & ((distance < window) if window else True)
        result = np.empty_like(queries)
        for head in range(shape.heads):
            group = head // (shape.heads // shape.kv_heads)
            scores = queries[:, head] @ keys[:, group].T * np.float32(shape.attention_scale)
            if cap := np.float32(shape.attention_softcap):
                scores = np.tanh(scores / cap) * cap
            scores = np.where(visible, scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            result[:, head] = weights @ values[:, group] / weights.sum(axis=1, keepdims=True)
        return result.reshape(count, -1)

    def _linear(self, x: Floats, name: str) -> Floats:
        product = self._times(x, f"{name}.weight")
        bias = self._file.tensors.get(f"{name}.bias")
        return product if bias is None else product + read_dense(self._file, bias)[0]

    def _times(self, x: Floats, name: str) -> Floats:
        tensor = self._file.tensors[name]
        starts = row_slices(tensor)
        slices = [x @ read_dense(self._file, tensor, start, start + starts.step).T for start in starts]
        return np.concatenate(slices, axis=1)

    def _norm(self, x: Floats, name: str) -> Floats:
        weight = read_dense(self._file, self._file.tensors[name])[0]
        scale = 1 / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(self._shape.epsilon))
        return np.asarray(x * scale * weight, dtype=np.float32)


def _rotated(rows: Floats, tables: tuple[Table, Table], *, interleaved: bool) -> Floats:
    """Rotate pairs of numbers: neighbours where *interleaved*, else one of the first half with one of the second.

    Numbers of a head behind those that the *tables* cover stay as they are.
    """
    cosines, sines = (table[: len(rows), None, :] for table in tables)
    half = cosines.shape[-1]
    first, second = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(0, half), slice(half, 2 * half))
    a, b = rows[..., first], rows[..., second]
    rotated = rows.copy()
    rotated[..., first], rotated[..., second] = a * cosines - b * sines, b * cosines + a * sines
    return rotated


def _silu(x: Floats) -> Floats:
    return np.asarray(x / (1 + np.exp(-x)), dtype=np.float32)  # exp(-x) may be infinite: the result is then 0


def _gelu(x: Floats) -> Floats:
    """The usual approximation by tanh."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)), dtype=np.float32)

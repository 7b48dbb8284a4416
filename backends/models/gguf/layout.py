"""Which tensors a model must have and may have, and their shapes: an unknown one would be left out silently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from hybrid_llm.backends.models.gguf.blocks import PLAIN
from hybrid_llm.backends.models.gguf.reader import Gguf, Tensor
from hybrid_llm.backends.models.gguf.shape import Shape

_UNUSED: Final = frozenset({"rope_freqs.weight"})
"""Read with the shape."""
_UNUSED_FUSED: Final = _UNUSED | {"rope_factors_long.weight", "rope_factors_short.weight"}


def split_fused(file: Gguf, shape: Shape) -> None:
    """Replace matrices that hold several by these: ranges of their rows under the names that other files have.

    Raises:
        ConfigError: one has another number of rows than its parts.
    """
    if not shape.traits.fused:
        return
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    for layer in range(shape.layers):
        name = f"blk.{layer}"
        if f"{name}.attn_qkv.weight" in file.tensors:
            _split(
                file, f"{name}.attn_qkv", {f"{name}.attn_{part}": keys for part in "qkv"} | {f"{name}.attn_q": queries}
            )
        if f"{name}.ffn_gate.weight" not in file.tensors:
            _split(file, f"{name}.ffn_up", {f"{name}.ffn_gate": shape.inner, f"{name}.ffn_up": shape.inner})


def _split(file: Gguf, name: str, parts: Mapping[str, int]) -> None:
    """Replace the matrix *name* by *parts*, each of so many rows, in their order."""
    whole = file.tensors.pop(f"{name}.weight", None)
    if whole is None:
        return  # its parts are missing then
    if len(whole.shape) != 2 or whole.rows != sum(parts.values()):
        raise file.refuse(f"{whole.name} has the shape {list(whole.shape)} instead of {sum(parts.values()):,} rows")
    offset = whole.offset
    for part, rows in parts.items():
        size = rows * whole.row_bytes
        tensor = replace(whole, name=f"{part}.weight", shape=(rows, whole.columns), offset=offset, bytes=size)
        file.tensors[tensor.name] = tensor
        offset += size


def check_tensors(file: Gguf, shape: Shape) -> None:
    """Check that *file* has the tensors of *shape*, with the right shapes, and no others.

    Raises:
        ConfigError: one is missing, unknown or of the wrong shape or type.
    """
    needed = _global_shapes(shape)
    optional: dict[str, tuple[int, ...]] = {"output.weight": (shape.vocab_size, shape.hidden)}
    for layer in range(shape.layers):
        needed |= {f"blk.{layer}.{name}": size for name, size in _layer_shapes(shape).items()}
        optional |= {f"blk.{layer}.{name}": size for name, size in _bias_shapes(shape).items()}
    for name, size in needed.items():
        if name not in file.tensors:
            raise file.refuse(f"lacks the tensor {name}: it is incomplete, or not a whole {shape.architecture} model")
        _check(file, file.tensors[name], size)
    unused = _UNUSED_FUSED if shape.traits.fused else _UNUSED
    for name in file.tensors.keys() - needed.keys() - unused:
        if name not in optional:
            raise file.refuse(f"has the tensor {name[:80]!r}, which is not known: it cannot be imported")
        _check(file, file.tensors[name], optional[name])
    _check_biases(file, shape)


def _check(file: Gguf, tensor: Tensor, size: tuple[int, ...]) -> None:
    if tensor.shape != size:
        raise file.refuse(f"{tensor.name} has the shape {list(tensor.shape)} instead of {list(size)}")
    if len(size) == 1 and tensor.kind.name not in PLAIN:
        raise file.refuse(f"{tensor.name} is of type {tensor.kind.name}, a vector must not be quantised")


def _check_biases(file: Gguf, shape: Shape) -> None:
    """Queries, keys and values have all a bias or none."""
    for layer in range(shape.layers):
        biases = [f"blk.{layer}.attn_{letter}.bias" in file.tensors for letter in "qkv"]
        if any(biases) != all(biases) or (shape.architecture == "qwen2" and not all(biases)):
            raise file.refuse(f"lacks a bias of the queries, keys or values in layer {layer}")


def _global_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    return {"token_embd.weight": (shape.vocab_size, shape.hidden), "output_norm.weight": (shape.hidden,)}


def _layer_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, inner, traits = shape.hidden, shape.inner, shape.traits
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (queries, hidden),
        "attn_k.weight": (keys, hidden),
        "attn_v.weight": (keys, hidden),
        "attn_output.weight": (hidden, queries),
        "ffn_norm.weight": (hidden,),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }
    if traits.post_norms:
        shapes |= {"post_attention_norm.weight": (hidden,), "post_ffw_norm.weight": (hidden,)}
    if traits.qk_norms:
        shapes |= {"attn_q_norm.weight": (shape.head_size,), "attn_k_norm.weight": (shape.head_size,)}
    return shapes


def _bias_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    matrices = {name: size for name, size in _layer_shapes(shape).items() if len(size) == 2}
    return {name.replace(".weight", ".bias"): size[:1] for name, size in matrices.items()}

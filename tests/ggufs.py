"""Writes small GGUF files with the `gguf` package, llama.cpp's own, from seeded or given weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import quantize
from tokenizers import pre_tokenizers

from hybrid_llm.backends.models.gguf.blocks import read_dense
from hybrid_llm.backends.models.gguf.reader import KINDS, Gguf

BLOCKS = {kind.name: kind.block for kind in KINDS.values()}
K_SIZES = {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTROLS = ("<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
SIZES = {"layers": 2, "hidden": 256, "inner": 512, "heads": 4, "kv_heads": 2, "head_size": 64, "vocab": 320}

MINIMA = frozenset({"Q4_1", "Q5_1", "Q4_K", "Q5_K"})
"""Types whose blocks have minima, which the edge keeps to 1/200 of a step."""


def byte_tokens(size: int) -> tuple[list[str], list[int], list[str]]:
    """Tokens, their types and merges of a byte-level vocabulary with *size* ids."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens, merges = [*CONTROLS, *letters], []
    for left in "aeiou":
        for right in "nrst":
            tokens.append(left + right)
            merges.append(f"{left} {right}")
    count = len(tokens)
    tokens += [f"[unused {index}]" for index in range(size - count)]
    types = [3] * len(CONTROLS) + [1] * (count - len(CONTROLS)) + [5] * (size - count)
    return tokens, types, merges


def random_blocks(kind: str, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Valid blocks of a K type, which the package can read but not write: random codes, weights around zero."""
    raw = rng.integers(0, 256, (rows * columns // 256, K_SIZES[kind]), dtype=np.uint8)
    scale = rng.uniform(0.5, 1.5, (len(raw), 1))
    if kind == "Q6_K":
        raw[:, 192:208] = rng.integers(-16, 16, (len(raw), 16), dtype=np.int8).view(np.uint8)
        raw[:, 208:210] = (scale / 3000).astype("<f2").view(np.uint8)
    else:
        middle = 7.5 if kind == "Q4_K" else 15.5
        scales = np.concatenate([scale / (200 * middle), scale / 200], axis=1)
        raw[:, 0:4] = scales.astype("<f2").view(np.uint8)
    return raw.reshape(rows, -1)


def quantised_k(values: np.ndarray, kind: str) -> np.ndarray:
    """*values* in a K type, which the package cannot write: scales by the largest value, codes by rounding."""
    supers = values.astype(np.float32).reshape(-1, 256)
    data = _six_bits(supers) if kind == "Q6_K" else _with_minima(supers, 4 if kind == "Q4_K" else 5)
    return data.reshape(len(values), -1)


def _six_bits(supers: np.ndarray) -> np.ndarray:
    groups = supers.reshape(len(supers), 16, 16)
    wanted = np.abs(groups).max(axis=-1) / 31
    d = _half(wanted.max(axis=-1) / 127)
    scales = np.rint(_ratio(wanted, d[:, None])).clip(0, 127).astype(np.int8)
    codes = np.rint(_ratio(groups, (d[:, None] * scales)[..., None])).clip(-32, 31) + 32
    codes = codes.astype(np.uint8).reshape(len(supers), 2, 4, 32)
    low = np.stack([codes[:, :, 0] & 15 | codes[:, :, 2] << 4, codes[:, :, 1] & 15 | codes[:, :, 3] << 4], axis=2)
    high = sum((codes[:, :, part] >> 4) << (2 * part) for part in range(4))
    parts = [low.reshape(-1, 128), high.reshape(-1, 64), scales.view(np.uint8), _bytes(d)]
    return np.concatenate([part.astype(np.uint8) for part in parts], axis=1)


def _with_minima(supers: np.ndarray, bits: int) -> np.ndarray:
    groups, top = supers.reshape(len(supers), 8, 32), (1 << bits) - 1
    least = np.minimum(groups.min(axis=-1), 0)
    wanted = (groups.max(axis=-1) - least) / top
    d, dmin = _half(wanted.max(axis=-1) / 63), _half((-least).max(axis=-1) / 63)
    scales = np.rint(_ratio(wanted, d[:, None])).clip(0, 63).astype(np.uint8)
    minima = np.rint(_ratio(-least, dmin[:, None])).clip(0, 63).astype(np.uint8)
    shifted = groups + (dmin[:, None] * minima)[..., None]
    codes = np.rint(_ratio(shifted, (d[:, None] * scales)[..., None])).clip(0, top).astype(np.uint8)
    pairs = codes.reshape(len(supers), 4, 2, 32)
    parts = [_bytes(d), _bytes(dmin), _packed_scales(scales, minima)]
    if bits == 5:
        parts.append(sum((codes[:, group] >> 4) << group for group in range(8)))
    parts.append((pairs[:, :, 0] & 15 | (pairs[:, :, 1] & 15) << 4).reshape(-1, 128))
    return np.concatenate([part.astype(np.uint8) for part in parts], axis=1)


def _packed_scales(scales: np.ndarray, minima: np.ndarray) -> np.ndarray:
    low = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    middle = minima[:, :4] | (minima[:, 4:] >> 4) << 6
    return np.concatenate([low, middle, scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4], axis=1)


def _half(values: np.ndarray) -> np.ndarray:
    return values.astype("<f2").astype(np.float32)


def _bytes(values: np.ndarray) -> np.ndarray:
    return values.astype("<f2")[:, None].view(np.uint8)


def _ratio(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.where(scale > 0, values / np.where(scale > 0, scale, 1), 0)


def encoded(values: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, Kind]:
    """*values* in the type *kind*; "random Q4_K" is random blocks of their shape instead."""
    if kind.startswith("random "):
        name = kind.removeprefix("random ")
        return random_blocks(name, *values.shape, rng), Kind[name]
    if kind in K_SIZES:
        return quantised_k(values, kind), Kind[kind]
    if kind == "F32":
        return values.astype(np.float32), Kind.F32
    return quantize(values.astype(np.float32), Kind[kind]), Kind[kind]


def write_file(
    path: Path,
    architecture: str,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    kind: Callable[[str], str] = lambda name: "F32",
) -> Path:
    """Write *tensors* and *metadata*, keys without the architecture where they begin with a dot."""
    writer, rng = GGUFWriter(path, architecture), np.random.default_rng(1)
    for key, value in metadata.items():
        _add(writer, f"{architecture}{key}" if key.startswith(".") else key, value)
    for name, values in tensors.items():
        data, code = encoded(values, kind(name), rng) if values.ndim == 2 else (values.astype(np.float32), Kind.F32)
        writer.add_tensor(name, data, raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def tokenizer_metadata(size: int, **changes: Any) -> dict[str, Any]:
    """A byte-level vocabulary; *changes* replace entries, and None removes one."""
    tokens, types, merges = byte_tokens(size)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.chat_template": TEMPLATE,
    }
    metadata |= {f"tokenizer.{key}": value for key, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


def llama_metadata(**changes: Any) -> dict[str, Any]:
    """Of the small Llama of `llama_tensors`; *changes* have underscores for dots."""
    return {
        ".block_count": SIZES["layers"],
        ".embedding_length": SIZES["hidden"],
        ".feed_forward_length": SIZES["inner"],
        ".context_length": 512,
        ".attention.head_count": SIZES["heads"],
        ".attention.head_count_kv": SIZES["kv_heads"],
        ".attention.layer_norm_rms_epsilon": 1e-5,
        ".rope.freq_base": 10_000.0,
        **changes,
    }


def llama_tensors(seed: int = 0, *, tied: bool = False) -> dict[str, np.ndarray]:
    """Random weights of a small Llama."""
    rng = np.random.default_rng(seed)
    hidden, inner = SIZES["hidden"], SIZES["inner"]
    queries, keys = SIZES["heads"] * SIZES["head_size"], SIZES["kv_heads"] * SIZES["head_size"]
    shapes = {"token_embd": (SIZES["vocab"], hidden), "output_norm": (hidden,)}
    shapes |= {} if tied else {"output": (SIZES["vocab"], hidden)}
    for layer in range(SIZES["layers"]):
        name = f"blk.{layer}."
        shapes |= {f"{name}attn_norm": (hidden,), f"{name}ffn_norm": (hidden,)}
        shapes |= {f"{name}attn_q": (queries, hidden), f"{name}attn_k": (keys, hidden), f"{name}attn_v": (keys, hidden)}
        shapes |= {f"{name}attn_output": (hidden, queries), f"{name}ffn_down": (hidden, inner)}
        shapes |= {f"{name}ffn_gate": (inner, hidden), f"{name}ffn_up": (inner, hidden)}
    values = {f"{name}.weight": rng.normal(0, 0.06, size) for name, size in shapes.items()}
    return {name: 1 + value if name.endswith("norm.weight") else value for name, value in values.items()}


def small_llama(path: Path, kind: str = "Q4_0", *, tied: bool = False, **tokenizer: Any) -> Path:
    """A small Llama whose matrices are all of one type."""
    metadata = llama_metadata() | tokenizer_metadata(SIZES["vocab"], **tokenizer)
    return write_file(path, "llama", llama_tensors(tied=tied), metadata, lambda name: kind)


def requantised(source: Path, path: Path, kind: str) -> Path:
    """Write the Llama in *source* to *path* with matrices of type *kind*, or Q8_0 where its blocks do not fit."""
    with Gguf(source) as file:
        tensors = {name: read_dense(file, tensor).reshape(tensor.shape) for name, tensor in file.tensors.items()}
        metadata = {
            key.removeprefix("llama"): list(value) if isinstance(value, np.ndarray) else value
            for key, value in file.metadata.items()
            if key != "general.architecture"
        }
    metadata["tokenizer.ggml.token_type"] = [int(value) for value in metadata["tokenizer.ggml.token_type"]]
    return write_file(
        path,
        "llama",
        tensors,
        metadata,
        lambda name: kind if tensors[name].shape[-1] % BLOCKS[kind] == 0 else "Q8_0",
    )

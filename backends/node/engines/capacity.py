"""How many tokens a slot holds: the model's context window, or what fits into the memory.

What the weights and the KV cache take is known before the weights are read, from their headers and from a model without
weights: a node that is too large for its machine refuses to start, instead of being killed later.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, Final

import psutil
import torch
from safetensors import safe_open

from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines import weight_files
from hybrid_llm.backends.node.engines.layers import read_layers
from hybrid_llm.core.errors import ConfigError

_KV_SHARE: Final = 0.25
"""Share of the free memory for the KV cache, unless its size is configured."""
_LEAST_CONTEXT: Final = 32
"""Smallest useful slot, tokens."""
_DEFAULT_WINDOW: Final = 2048
_WINDOWS: Final = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "seq_length", "n_positions")
_CGROUPS: Final = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Limit and use of a container, version 2 and 1, under /sys/fs/cgroup."""


def check_memory(config: EngineConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Check that weights and KV cache fit into the free memory, before anything is loaded.

    Raises:
        ConfigError: they do not; the message says which setting to change.
    """
    free, weights = free_memory(device), _weights_bytes(config.model, dtype)
    if weights > free:
        smaller = "a smaller model" if dtype.itemsize < 4 else "a smaller model or dtype bf16"
        raise ConfigError(
            f"the weights take {_gigabytes(weights)} in {str(dtype).removeprefix('torch.')}, and {_gigabytes(free)} of "
            f"memory are free: use {smaller}, or free memory",
            path=str(config.model),
        )
    try:
        each = bytes_per_token(_without_weights(config.model, dtype), dtype)
    except Exception:  # noqa: BLE001 what fails without weights, in any way, is checked with them
        return
    _check_cache(config, each, free - weights)


def bytes_per_token(model: Any, dtype: torch.dtype) -> int:
    """Bytes that one token takes in the KV cache.

    Raises:
        UnsupportedModel: the layers do not say what they store.
    """
    return int(sum(layer.elements for layer in read_layers(model).values()) * dtype.itemsize)


def slot_tokens(config: EngineConfig, model: Any, each: int, *, slots: int) -> int:
    """Tokens for each of *slots*: the model's context window, or an equal share of the KV cache.

    *each* has the bytes of one token, 0 if unknown.

    Raises:
        ConfigError: they are too few, or do not fit into the free memory.
    """
    free = free_memory(model.device)
    _check_cache(config, each, free)
    window = context_window(model.config)
    tokens = config.kv_tokens or (int(free * _KV_SHARE) // each if each else slots * window)
    capacity = min(window, tokens // slots)
    if capacity < _LEAST_CONTEXT:
        raise ConfigError(
            f"{tokens} KV tokens in {slots} slots leave {capacity} tokens per request, fewer than {_LEAST_CONTEXT}: "
            "raise kv_tokens (--kv-tokens) or lower max_slots (--slots)"
        )
    return capacity


def context_window(config: Any) -> int:
    """Tokens of the longest text that a model with the transformers configuration *config* is made for.

    The configuration of YaRN holds what it stretches: the window before, and a factor.
    """
    text = config.get_text_config()
    window: int = next((size for name in _WINDOWS if (size := getattr(text, name, None))), _DEFAULT_WINDOW)
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "yarn":
        window = max(window, int(rope.get("original_max_position_embeddings", 0) * rope.get("factor", 1.0)))
    return window


def free_memory(device: torch.device) -> int:
    """Bytes of memory that are free on *device*, within the limit of the container on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    for names in _CGROUPS:
        try:
            limit, used = (int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii")) for name in names)
        except (OSError, ValueError):  # no such group, or `max`
            continue
        free = min(free, max(0, limit - used))
    return free


def _check_cache(config: EngineConfig, each: int, free: int) -> None:
    tokens = config.kv_tokens or config.max_slots * _LEAST_CONTEXT
    if tokens * each <= free:
        return
    remedy = (
        f"lower kv_tokens (--kv-tokens) to {free // each} or less" if config.kv_tokens else "lower max_slots (--slots)"
    )
    raise ConfigError(
        f"{tokens} tokens of KV cache take {_gigabytes(tokens * each)}, and beside the weights {_gigabytes(free)} of "
        f"memory are free: {remedy}"
    )


def _without_weights(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def _weights_bytes(folder: Path, dtype: torch.dtype) -> int:
    numbers: int = 0
    for path in weight_files(folder):
        with safe_open(path, framework="np") as file:
            numbers += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping
    return int(numbers * dtype.itemsize)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"

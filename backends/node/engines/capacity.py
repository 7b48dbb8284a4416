"""How many tokens the KV memory holds, and how many of them one request may have.

What the weights, those of adapters and the KV cache take is known before they are read, from their headers and from a
model without weights: a node that is too large for its machine refuses to start, instead of being killed later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import psutil
import torch

from hybrid_llm.backends.adapters import adapter_weights
from hybrid_llm.backends.node.engine import KV_BLOCK, EngineConfig
from hybrid_llm.backends.node.engines import read_shapes, weight_files
from hybrid_llm.backends.node.engines.layers import read_layers
from hybrid_llm.backends.node.engines.lora_files import compute_dtype
from hybrid_llm.core.errors import ConfigError

_KV_SHARE: Final = 0.25
"""Share of the free memory for the KV cache, unless its size is configured."""
_LEAST_CONTEXT: Final = 32
"""Smallest useful context, tokens."""
_DEFAULT_WINDOW: Final = 2048
_WINDOWS: Final = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "seq_length", "n_positions")
_CGROUPS: Final = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Limit and use of a container, version 2 and 1, under /sys/fs/cgroup."""


def check_memory(config: EngineConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Check that weights, adapters and KV cache fit into the free memory, before anything is loaded.

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
    adapters = adapter_bytes(config, dtype, device)
    if weights + adapters > free:
        raise ConfigError(
            f"{len(config.adapters)} adapters take {_gigabytes(adapters)}, and beside the weights "
            f"{_gigabytes(free - weights)} of memory are free: serve fewer adapters (--adapter), or of lower rank"
        )
    try:
        each = bytes_per_token(_without_weights(config.model, dtype), dtype)
    except Exception:  # noqa: BLE001 what fails without weights, in any way, is checked with them
        return
    _check_cache(config, each, free - weights - adapters)


def adapter_bytes(config: EngineConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes of all adapters beside a model of *dtype* on *device*: rank times inputs and outputs, of each module.

    Raises:
        ConfigError: the weights of one are missing or truncated.
    """
    shapes = (
        shape
        for folder in config.adapters.values()
        for name, shape in read_shapes(adapter_weights(folder)).items()
        if ".lora_" in name
    )
    return _bytes(shapes, compute_dtype(device, dtype))


def bytes_per_token(model: Any, dtype: torch.dtype) -> int:
    """Bytes that one token takes in the KV cache.

    Raises:
        UnsupportedModel: the layers do not say what they store.
    """
    return int(sum(layer.elements for layer in read_layers(model).values()) * dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the KV memory holds, in tokens: *total*, in whole blocks, and the *window* of one prompt and its answer."""

    total: int
    window: int


def capacity(config: EngineConfig, model: Any, each: int, *, slots: int) -> Capacity:
    """The KV memory of *slots* requests, of which a token takes *each* bytes, 0 if unknown.

    Raises:
        ConfigError: it is too small, or does not fit into the free memory.
    """
    free = free_memory(model.device)
    _check_cache(config, each, free)
    longest = context_window(model.config)
    longest = min(longest, config.context_window or longest)
    useful = slots * -(-longest // KV_BLOCK) * KV_BLOCK
    tokens = config.kv_tokens or (min(useful, int(free * _KV_SHARE) // each) if each else useful)
    total = tokens // KV_BLOCK * KV_BLOCK
    window = min(longest, total)
    if window < _LEAST_CONTEXT:
        raise ConfigError(
            f"{tokens} KV tokens leave {window} tokens per request, fewer than {_LEAST_CONTEXT}: "
            "raise kv_tokens (--kv-tokens) or context_window (--context-window)"
        )
    return Capacity(total, window)


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
    tokens = config.kv_tokens or _LEAST_CONTEXT
    if tokens * each <= free:
        return
    remedy = f"lower kv_tokens (--kv-tokens) to {free // each} or less" if config.kv_tokens else "use a smaller model"
    raise ConfigError(
        f"{tokens} tokens of KV cache take {_gigabytes(tokens * each)}, and beside all weights {_gigabytes(free)} of "
        f"memory are free: {remedy}"
    )


def _without_weights(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def _weights_bytes(folder: Path, dtype: torch.dtype) -> int:
    shapes = (shape for path in weight_files(folder) for shape in read_shapes(path).values())
    return _bytes(shapes, dtype)


def _bytes(shapes: Iterable[Sequence[int]], dtype: torch.dtype) -> int:
    return int(sum(prod(shape) for shape in shapes) * dtype.itemsize)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"

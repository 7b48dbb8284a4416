"""What vLLM is told of a node's configuration. Runs in vLLM's Python."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.vllm.adapters import adapter_args
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.limits import LOGPROBS

_DTYPES: Final = {"bf16": "bfloat16", "fp32": "float32"}
_KV_SHARE: Final = 4
"""On a CPU the KV cache takes one part in this many of the free memory, where its size is not configured."""


def engine_args(config: EngineConfig, *, device: str, free_memory: int, known: Collection[str]) -> dict[str, Any]:
    """The arguments of `AsyncEngineArgs`, whose names are *known*, on vLLM's *device*, such as `cuda`.

    *free_memory* is that of the machine, in bytes.

    Raises:
        ConfigError: the device is another, an option of `config.options` is unknown or ours to set, or vLLM does not
            take an adapter.
    """
    if config.device not in ("auto", device, *([f"{device}:0"] if device != "cpu" else [])):
        raise ConfigError(f"--device {config.device}: this vLLM computes on {device}; choose {device} or auto")
    fixed = _fixed(config, device)
    given = _given(config.options, known, fixed)
    found = {**_defaults(config, device, free_memory), **given, **fixed}
    unknown = sorted(found.keys() - set(known))
    if unknown:
        raise ConfigError(f"this vLLM lacks the options {', '.join(unknown)}: install another version of it")
    return found


def _fixed(config: EngineConfig, device: str) -> dict[str, Any]:
    """What `serve` has options for, and what the promises of a node rest on."""
    return {
        "model": str(config.model),
        "tokenizer": str(config.model),
        "skip_tokenizer_init": not has_tokenizer(config.model),
        "trust_remote_code": False,
        "max_num_seqs": config.max_slots,
        "max_num_queued_reqs": config.max_slots + config.max_waiting,
        "enable_prefix_caching": config.reuse_prefixes,
        "scheduling_policy": "priority",
        "generation_config": "vllm",
        "max_logprobs": int(LOGPROBS.most),
        "logprobs_mode": "raw_logprobs",
        "structured_outputs_config": {"backend": "guidance"},
        "enable_log_requests": False,
        "disable_log_stats": True,
        **adapter_args(config.adapters, device),
    }


def _defaults(config: EngineConfig, device: str, free_memory: int) -> dict[str, Any]:
    """What an option of vLLM's own may replace."""
    found: dict[str, Any] = {"dtype": _dtype(config, device), "load_format": "safetensors"}
    found["max_model_len"] = config.context_window or -1
    if device == "cpu":
        found["kv_cache_memory_bytes"] = free_memory // _KV_SHARE
        found["max_num_batched_tokens"] = config.max_slots + config.prefill_budget
    return found


def has_tokenizer(folder: Path) -> bool:
    """Whether the model has what grammars need."""
    return (folder / "tokenizer.json").is_file()


def _dtype(config: EngineConfig, device: str) -> str:
    if config.dtype in _DTYPES:
        return _DTYPES[config.dtype]
    if device != "cpu":
        return "auto" if _stored(config.model) != "float32" else "bfloat16"
    return _stored(config.model)


def _stored(folder: Path) -> str:
    """The precision of the weights; the folder is checked before."""
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str(stored.get("dtype") or stored.get("torch_dtype") or "float32").removeprefix("torch.")


def _given(options: Mapping[str, str], known: Collection[str], fixed: Collection[str]) -> dict[str, Any]:
    for name in options:
        if name in fixed:
            raise ConfigError(f"--engine-option {name}: the node sets this itself; leave it out")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; they are the fields of its AsyncEngineArgs"
            raise ConfigError(f"--engine-option {name}: this vLLM has no such option{hint}")
    return {name: _value(text) for name, text in options.items()}


def _value(text: str) -> Any:
    """*text* as JSON, or else as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text

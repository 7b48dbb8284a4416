"""From a node's configuration to a running `AsyncLLM`. Runs in vLLM's Python."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.node.engine import EngineConfig, EngineInfo
from hybrid_llm.backends.node.vllm.options import engine_args, has_tokenizer
from hybrid_llm.core.errors import ConfigError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

_LEAST: Final = (0, 32)
"""The oldest vLLM that runs here."""


def load_llm(config: EngineConfig, progress: Callable[[str], None], stats: Callable[..., Any]) -> AsyncLLM:
    """Import vLLM and load the model; *stats* makes what vLLM logs its statistics with.

    Raises:
        ConfigError: there is no vLLM here, or an old one, or it cannot serve the model; the message says what to do.
    """
    progress("importing vLLM")
    _check_version()
    args = _args(config)
    progress("loading the weights")
    try:
        return _start(config, args, stats)
    except Exception as error:  # whatever stands in the way of vLLM, in its own words
        raise ConfigError(
            f"vLLM cannot serve {config.model} ({_words(error)}): what it logged before says more",
            path=str(config.model),
        ) from error


def info_of(config: EngineConfig, llm: AsyncLLM) -> EngineInfo:
    """What *llm* serves."""
    model = llm.model_config
    return EngineInfo(
        engine="vllm",
        model=config.model.resolve().name,
        architecture=str(model.architecture),
        vocab_size=model.get_vocab_size(),
        context_window=model.max_model_len,
        slots=config.max_slots,
        kv_tokens=_kv_tokens(llm),
        device=str(llm.vllm_config.device_config.device_type),
        dtype=str(model.dtype).removeprefix("torch."),
        output_schema=has_tokenizer(config.model),
        logprobs=True,
        penalties=True,
        adapters=tuple(config.adapters),
    )


def _kv_tokens(llm: AsyncLLM) -> int:
    """Tokens that the KV cache of *llm* holds: its first block is never used."""
    cache = llm.vllm_config.cache_config
    return int(max(0, (cache.num_gpu_blocks or 0) - 1) * (cache.block_size or 0))


def end_id(llm: AsyncLLM) -> int | None:
    """The token that ends a text for the tokenizer, which alone may follow a whole document; None without one."""
    found = getattr(llm.tokenizer, "eos_token_id", None)
    return found if isinstance(found, int) else None


def _check_version() -> None:
    name = "--engine-python"
    if find_spec("vllm") is None:
        raise ConfigError(f"{name}: {sys.executable} has no vLLM: `{sys.executable} -m pip install vllm`")
    try:
        import vllm
    except Exception as error:  # built for another torch, or half installed
        raise ConfigError(f"{name}: the vLLM of {sys.prefix} cannot be imported ({_words(error)})") from error
    found = str(getattr(vllm, "__version__", "0"))
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < _LEAST:
        least = ".".join(map(str, _LEAST))
        raise ConfigError(f"{name}: {sys.prefix} has vLLM {found}, and the engine vllm needs {least} or newer")


def _args(config: EngineConfig) -> dict[str, Any]:
    try:
        import psutil
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
    except Exception as error:
        raise ConfigError(f"the vLLM of {sys.prefix} cannot be imported ({_words(error)}): install it anew") from error
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    free = int(psutil.virtual_memory().available)
    return engine_args(config, device=str(current_platform.device_type), free_memory=free, known=known)


def _start(config: EngineConfig, args: dict[str, Any], stats: Callable[..., Any]) -> AsyncLLM:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    settings = AsyncEngineArgs(**args).create_engine_config()
    if config.kv_tokens:
        _limit_cache(settings, config.kv_tokens)
    return AsyncLLM.from_vllm_config(settings, stat_loggers=[stats], disable_log_stats=True)


def _limit_cache(settings: VllmConfig, tokens: int) -> None:
    """Let the KV cache hold *tokens*: the size of its blocks is known only now."""
    cache = settings.cache_config
    cache.num_gpu_blocks_override = 1 - (-tokens // cache.block_size)


def _words(error: BaseException) -> str:
    """The class of *error*, and what it says in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]

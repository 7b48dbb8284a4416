"""LoRA adapters beside the model, chosen by request. Runs in vLLM's Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.adapters import ADAPTER_NAME
from hybrid_llm.backends.chat_files import file_error
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""The sizes of what vLLM reserves for an adapter."""
_PATTERNS: Final = ("rank_pattern", "alpha_pattern")


def adapter_args(adapters: Mapping[str, Path], device: str) -> dict[str, Any]:
    """The arguments of `AsyncEngineArgs` for *adapters*, folders by name, which were checked by `check_adapters`.

    On a CPU, vLLM 0.32 computes a request without an adapter, beside one that has some, with the last slot for adapters
    (`lora/ops/torch_ops`: its number is -1). That slot is left empty, and adds nothing.

    Raises:
        ConfigError: vLLM would compute one of them wrong, or not at all.
    """
    if not adapters:
        return {}
    largest = max(map(_rank, adapters.values()))
    reserved = next((rank for rank in _RANKS if rank >= largest), None)
    if reserved is None:
        raise ConfigError(f"vLLM takes adapters of rank {_RANKS[-1]} at most, and one has {largest}: merge it instead")
    slots = len(adapters) + (device == "cpu")
    return {"enable_lora": True, "max_loras": slots, "max_lora_rank": reserved}


def _rank(folder: Path) -> int:
    path = folder / ADAPTER_NAME
    found = read_json(path)
    assert isinstance(found, dict)
    if pattern := next((name for name in _PATTERNS if found.get(name)), None):
        raise file_error(path, f"has a `{pattern}`, which vLLM ignores: merge it into its base (`models merge`)")
    if type(rank := found.get("r")) is not int or rank < 1:
        raise file_error(path, "has no rank `r`: save it with peft")
    return rank


async def load_adapters(llm: AsyncLLM, adapters: Mapping[str, Path]) -> dict[str, LoRARequest]:
    """Load *adapters*, and return what names them in a request.

    Raises:
        ConfigError: one of them does not fit the model.
    """
    from vllm.lora.request import LoRARequest

    found = {
        name: LoRARequest(lora_name=name, lora_int_id=number, lora_path=str(folder))
        for number, (name, folder) in enumerate(adapters.items(), 1)
    }
    for name, request in found.items():
        try:
            await llm.add_lora(request)
        except Exception as error:  # in the words of the process that loads it
            reason = f"vLLM cannot load the adapter {name} ({type(error).__name__}): what it logged says more"
            raise ConfigError(reason, path=str(adapters[name])) from error
    return found

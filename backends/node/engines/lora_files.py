"""The weights of LoRA adapters, read from the files that peft saves. Nothing in them is run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hybrid_llm.backends.adapters import ADAPTER_NAME, WEIGHTS_NAME, check_base
from hybrid_llm.backends.chat_files import file_error
from hybrid_llm.backends.lora import MERGE, read_settings

_KEY: Final = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?:lora_(?:embedding_)?(?P<side>[AB])(?:\.weight)?|(?P<base>base_layer)\.weight)"
)
"""What peft calls a weight of the adapter, or a copy of the base's."""
_NUMBERS: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterWeights:
    """One adapter: for each module A, of shape (rank, in), and B times its scale, (out, rank)."""

    path: Path
    modules: dict[str, tuple[torch.Tensor, torch.Tensor]]

    def take(self, name: str, module: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of *module*, whose *name* this is, which are removed from here; of rank 0 where it has none.

        Raises:
            ConfigError: *module* is no linear layer or embedding of their shape, or they are infinite as they are used.
        """
        size = _size(module)
        if size is None:
            raise self._misfit(f"{name} of the model is a {type(module).__name__}, which no adapter is computed beside")
        own = module.weight
        dtype = compute_dtype(own.device, own.dtype)
        down, up = self.modules.pop(name, (torch.empty(0, size[0]), torch.empty(size[1], 0)))
        if (down.shape[1], up.shape[0], down.shape[0]) != (*size, up.shape[1]):
            raise self._misfit(f"its weights for {name} have other shapes than the model's")
        found = down.to(own.device, dtype), up.to(own.device, dtype)
        if not all(bool(each.isfinite().all()) for each in found):  # 0 times them is NaN, in rows of other adapters too
            raise file_error(self.path, f"has weights for {name} that `lora_alpha` makes infinite: tune it again")
        return found

    def _misfit(self, reason: str) -> Exception:
        return file_error(self.path / WEIGHTS_NAME, f"does not fit the model, {reason}: name its own base as --model")


def compute_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What adapters of a model of *dtype* are computed in: fp32 on a CPU, whose small products are slower in bf16."""
    return torch.float32 if device.type == "cpu" else dtype


def read_adapter(folder: Path, base: Path, model: Any) -> AdapterWeights:
    """The adapter in *folder*, which belongs to *model*, that of the folder *base*.

    Raises:
        ConfigError: it cannot be read, is of a kind that only works merged, or belongs to another model.
    """
    settings = read_settings(folder)
    check_base(folder, base)
    path = folder / WEIGHTS_NAME
    known, modules = dict(model.named_modules()), {}
    for name, own in _by_module(path).items():
        module = known.get(name)
        if module is None or {"A", "B"} - own.keys() or own["A"].ndim != 2 or own["B"].ndim != 2 or not len(own["A"]):
            raise file_error(path, f"does not fit the model, which has no `{name[:80]}` of its kind: name its own base")
        if "base" in own and not _is_weight(own["base"], module):
            raise file_error(path, f"has other weights of the base's `{name[:80]}`: name its own base, or {MERGE}")
        modules[name] = (own["A"].float(), own["B"].float() * settings.scale(name, len(own["A"])))
    if not modules:
        raise file_error(path, "has no weights: tune the adapter again")
    if settings.rank > (largest := max(len(down) for down, _ in modules.values())):
        reason = f"declares the rank {settings.rank:.4g}, but no weights have more than {largest}"
        raise file_error(folder / ADAPTER_NAME, f"{reason}: tune the adapter again")
    return AdapterWeights(path=folder, modules=modules)


def _by_module(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The weights in the file: module -> A, B, and what is the base's own."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise file_error(path, f"cannot be read ({type(error).__name__}): copy or tune the adapter again") from None
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise file_error(path, f"has `{key[:80]}`, which is no weight of LoRA: {MERGE}")
        if tensor.dtype not in _NUMBERS:
            raise file_error(path, f"has weights of {tensor.dtype}, as no adapter has: {MERGE}")
        if not bool(tensor.isfinite().all()):
            raise file_error(path, f"has numbers in `{key[:80]}` that are not finite: tune the adapter again")
        modules.setdefault(found["module"], {})[found["side"] or "base"] = tensor
    return modules


def _is_weight(copy: torch.Tensor, module: Any) -> bool:
    own = getattr(module, "weight", None)
    if own is None or own.shape != copy.shape:
        return False
    plain = own.to_dense() if own.is_mkldnn else own  # `kernels.py` packs weights
    return bool(torch.equal(copy.to(own.device, own.dtype), plain))


def _size(module: Any) -> tuple[int, int] | None:
    """Inputs and outputs of *module*; the inputs of an embedding are its ids."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, torch.nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    return (module.nx, module.nf) if isinstance(module, Conv1D) else None

"""What the configuration of a LoRA adapter says, as peft saves it, as far as a node computes it beside its base.

https://huggingface.co/docs/peft/package_reference/lora. No torch here: an adapter that cannot be served is refused
before a model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.adapters import ADAPTER_NAME
from hybrid_llm.backends.chat_files import file_error
from hybrid_llm.core.jsontext import read_json

_COMPUTED: Final = frozenset(
    {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias", "init_lora_weights"}
)
_WITHOUT_EFFECT: Final = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "inference_mode",
        "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size",
        "revision", "target_modules", "task_type",
    }
)  # fmt: skip
"""Keys that only training reads, or that only choose modules, which the names of the weights name too."""
_EXPLODES: Final = re.compile(r"\)\??[*+{]")
"""A repeated group, whose repeats may be matched in 2 ** length ways."""
_CHOOSE: Final = ("target_modules", "exclude_modules")
"""Keys that may hold a regular expression."""
_STRONGEST: Final = 1e30
"""An alpha beyond it is no strength of an adapter: weights in fp32 become infinite."""
_KEEPS_BASE: Final = (True, False, "gaussian", "eva", "orthogonal")
"""How weights may have been begun: other methods change those of the base."""
MERGE: Final = "merge it into its base instead: `hybrid-llm models merge`"
"""What to do with an adapter that is not served beside its base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """How strongly the weights of an adapter count."""

    alpha: float
    alphas: Mapping[str, float]
    """Regular expression of the end of a module's name -> its alpha."""
    stabilised: bool
    """By the square root of the rank (rsLoRA)."""
    rank: int
    """The largest that is declared: peft makes room for it."""

    def scale(self, module: str, rank: int) -> float:
        """What the product of the weights of *module* is multiplied by."""
        found = (alpha for name, alpha in self.alphas.items() if re.fullmatch(rf"(.*\.)?({name})", module))
        return next(found, self.alpha) / (rank**0.5 if self.stabilised else rank)


def read_settings(folder: Path) -> LoraSettings:
    """The settings of the adapter in *folder*.

    Raises:
        ConfigError: it is no adapter of LoRA, or one that only works merged into its base.
    """
    path = folder / ADAPTER_NAME
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise file_error(path, f"cannot be read ({type(error).__name__}): give the folder of an adapter") from None
    if not isinstance(found, dict) or found.get("peft_type") != "LORA":
        raise file_error(path, "is not of LoRA: a node serves no other adapters")
    if (reason := _obstacle(found)) is not None:
        raise file_error(path, f"has {reason}, which is not computed beside a base: {MERGE}")
    alphas, ranks = found.get("alpha_pattern") or {}, found.get("rank_pattern") or {}
    if not isinstance(alphas, dict) or not isinstance(ranks, dict):
        raise file_error(path, "has no table as `alpha_pattern` or `rank_pattern`: save it with peft")
    chosen = (text for key in _CHOOSE if isinstance(text := found.get(key), str))
    if not all(map(_is_pattern, (*alphas, *ranks, *chosen))):
        raise file_error(
            path, "has a pattern that is no regular expression, or repeats a group: list the modules' names"
        )
    if not all(map(_is_strength, (found.get("lora_alpha"), *alphas.values()))):
        raise file_error(path, "has no finite number as `lora_alpha`, or in `alpha_pattern`: save it with peft")
    declared = [found.get("r", 8), *ranks.values()]  # 8 is the default of peft
    if not all(type(rank) is int and rank > 0 for rank in declared):
        raise file_error(path, "has no whole number above 0 as `r`, or in `rank_pattern`: save it with peft")
    return LoraSettings(
        alpha=float(found["lora_alpha"]),
        alphas={name: float(alpha) for name, alpha in alphas.items()},
        stabilised=bool(found.get("use_rslora")),
        rank=max(declared),
    )


def _is_pattern(text: str) -> bool:
    """Whether *text* is a regular expression that ends soon, by itself and as the end of a module's name."""
    try:
        re.compile(rf"(.*\.)?({text})")
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return not _EXPLODES.search(text)


def _is_strength(alpha: object) -> bool:
    return isinstance(alpha, int | float) and not isinstance(alpha, bool) and abs(alpha) < _STRONGEST  # false for NaN


def _obstacle(found: dict[str, Any]) -> str | None:
    """The first setting that a node does not compute."""
    if found.get("bias", "none") != "none":
        return "a `bias`"
    if (begun := found.get("init_lora_weights", True)) not in _KEEPS_BASE:
        return f"weights begun by {str(begun)[:40]!r} (`init_lora_weights`)"
    others = (key for key, value in found.items() if value and key not in _COMPUTED | _WITHOUT_EFFECT)
    return next((f"`{key[:40]}`" for key in others), None)

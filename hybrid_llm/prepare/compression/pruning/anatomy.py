"""Where the layers, heads and inner units of an architecture are, and which axes of its weights they span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError

Axes = tuple[str, ...]
"""What each axis of a weight spans: `width`, `heads`, `groups` (heads of keys and values), `inner`, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """One family of architectures.

    Attributes:
        stack: the path of the list of layers.
        attention: in a layer, the product that reads the output of all heads.
        inner: in a layer, the product that reads the inner units.
        norms: in a layer, modules whose outputs are the channels of the model's width.
        axes: the end of a module's path -> its axes; the longest end that fits counts.
        free_heads: whether the size of a head is independent of the width.
    """

    stack: str
    attention: str
    inner: str
    norms: tuple[str, ...]
    axes: Mapping[str, Axes]
    free_heads: bool

    def layers(self, model: Any) -> list[Any]:
        """The layers of *model*."""
        return list(model.get_submodule(self.stack))

    def axes_of(self, name: str) -> Axes:
        """The axes of the weight or bias *name*.

        Raises:
            ConfigError: the architecture has a weight that is not known here.
        """
        module, _, kind = name.rpartition(".")
        ends = [end for end in self.axes if module == end or module.endswith("." + end)]
        if not ends:
            raise ConfigError(f"{name} is a weight that structured pruning does not know")
        found = self.axes[max(ends, key=len)]
        return found[:1] if kind == "bias" else found


_DECODER: Final = Anatomy(
    stack="model.layers",
    attention="self_attn.o_proj",
    inner="mlp.down_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
    free_heads=True,
    axes={
        "embed_tokens": ("", "width"),
        "lm_head": ("", "width"),
        "q_proj": ("heads", "width"),
        "k_proj": ("groups", "width"),
        "v_proj": ("groups", "width"),
        "o_proj": ("width", "heads"),
        "gate_proj": ("inner", "width"),
        "up_proj": ("inner", "width"),
        "down_proj": ("width", "inner"),
        "input_layernorm": ("width",),
        "post_attention_layernorm": ("width",),
        "q_norm": ("",),
        "k_norm": ("",),
        "model.norm": ("width",),
    },
)
_BERT: Final = Anatomy(
    stack="bert.encoder.layer",
    attention="attention.output.dense",
    inner="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    free_heads=False,
    axes={
        "word_embeddings": ("", "width"),
        "position_embeddings": ("", "width"),
        "token_type_embeddings": ("", "width"),
        "LayerNorm": ("width",),
        "query": ("heads", "width"),
        "key": ("groups", "width"),
        "value": ("groups", "width"),
        "attention.output.dense": ("width", "heads"),
        "intermediate.dense": ("inner", "width"),
        "output.dense": ("width", "inner"),
        "pooler.dense": ("width", "width"),
        "classifier": ("", "width"),
    },
)
_FAMILIES: Final[Mapping[str, Anatomy]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _DECODER),
    "bert": _BERT,
}


def anatomy_of(model: Any) -> Anatomy:
    """The anatomy of *model*.

    Raises:
        ConfigError: its architecture cannot be pruned in whole parts.
    """
    kind = str(model.config.model_type)
    if kind not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise ConfigError(f"models of the type {kind} cannot be pruned in whole parts; these can: {known}")
    return _FAMILIES[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many parts a model has; `groups` are its heads of keys and values, in an encoder its heads."""

    layers: int
    groups: int
    inner: int
    width: int

    @classmethod
    def of(cls, model: Any) -> Size:
        """The size of *model*."""
        config = model.config
        groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers, groups=groups, inner=config.intermediate_size, width=config.hidden_size
        )

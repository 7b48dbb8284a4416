"""Takes a model apart: the same architecture with the parts that are kept, so that transformers loads it plainly."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.compression.pruning.anatomy import Anatomy, Size, anatomy_of
from hybrid_llm.prepare.compression.pruning.importance import Importance

_LAYER: Final = re.compile(r"\.(?P<number>\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The numbers of the parts that are kept, in order; `groups` and `inner` are those of each layer that is kept."""

    layers: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    inner: tuple[tuple[int, ...], ...]
    width: tuple[int, ...]


def choose_kept(importance: Importance, size: Size) -> Kept:
    """The most important parts, as many as *size* has."""
    layers = _best(importance.layers, size.layers)
    return Kept(
        layers=layers,
        groups=tuple(_best(importance.groups[layer], size.groups) for layer in layers),
        inner=tuple(_best(importance.inner[layer], size.inner) for layer in layers),
        width=_best(importance.width, size.width),
    )


def check_size(model: Any, size: Size) -> None:
    """Check that *model* can be cut to *size*.

    Raises:
        ConfigError: it has fewer parts, or its architecture does not allow these numbers together.
    """
    has = Size.of(model)
    for name in ("layers", "groups", "inner", "width"):
        asked, there = getattr(size, name), getattr(has, name)
        if not 1 <= asked <= there:
            raise ConfigError(f"{name}: {asked} is not from 1 to {there}, which the model has")
    heads = size.groups * _heads_each(model)
    if not anatomy_of(model).free_heads and heads * _head_size(model) != size.width:
        message = f"{size.groups} heads of {_head_size(model)} channels do not make a width of {size.width}"
        raise ConfigError(f"{message}: in this architecture one follows from the other; set width and heads together")
    if size.width % heads:
        raise ConfigError(f"width: {size.width} is no multiple of the {heads} heads, as transformers asks for")


def cut(model: Any, kept: Kept) -> Any:
    """A new model with the parts of *model* that are *kept*."""
    anatomy = anatomy_of(model)
    made = type(model)(_config(model, kept))
    state = {}
    for name, value in model.state_dict().items():
        renamed, layer = _place(name, anatomy, kept)
        if renamed:
            state[renamed] = _sliced(value, anatomy.axes_of(name), model, kept, layer)
    made.load_state_dict(state)
    made.tie_weights()
    if getattr(model, "generation_config", None) is not None:
        made.generation_config = copy.deepcopy(model.generation_config)
    return made.eval()


def _config(model: Any, kept: Kept) -> Any:
    config = copy.deepcopy(model.config)
    groups, inner, each = len(kept.groups[0]), len(kept.inner[0]), _heads_each(model)
    if anatomy_of(model).free_heads:
        config.head_dim = _head_size(model)
        config.num_key_value_heads = groups
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in kept.layers]
    if isinstance(getattr(config, "max_window_layers", None), int):
        config.max_window_layers = min(config.max_window_layers, len(kept.layers))
    config.num_hidden_layers, config.intermediate_size = len(kept.layers), inner
    config.num_attention_heads, config.hidden_size = groups * each, len(kept.width)
    return config


def _place(name: str, anatomy: Anatomy, kept: Kept) -> tuple[str, int]:
    """The name in the new model, empty if its layer is gone, and the number of the layer in the new model."""
    if not name.startswith(anatomy.stack + "."):
        return name, 0
    match = _LAYER.search(name, len(anatomy.stack))
    assert match is not None
    number = int(match["number"])
    if number not in kept.layers:
        return "", 0
    at = kept.layers.index(number)
    return f"{name[: match.start()]}.{at}.{name[match.end() :]}", at


def _sliced(value: Any, axes: Sequence[str], model: Any, kept: Kept, layer: int) -> Any:
    import torch

    for axis, spans in enumerate(axes):
        if spans:
            value = value.index_select(axis, torch.tensor(indices_of(spans, model, kept, layer)))
    return value.clone()


def indices_of(spans: str, model: Any, kept: Kept, layer: int) -> list[int]:
    """The numbers along an axis that *spans* parts of *model*, of those that stay in *layer* of the new model."""
    match spans:
        case "width":
            return list(kept.width)
        case "inner":
            return list(kept.inner[layer])
    size = _head_size(model) * (_heads_each(model) if spans == "heads" else 1)
    return [group * size + i for group in kept.groups[layer] for i in range(size)]


def _head_size(model: Any) -> int:
    config = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _heads_each(model: Any) -> int:
    """Heads that share one head of keys and values."""
    return int(model.config.num_attention_heads // Size.of(model).groups)


def _best(scores: Sequence[float], count: int) -> tuple[int, ...]:
    """The numbers of the *count* highest scores, in order; of equal ones the first."""
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return tuple(sorted(ranked[:count]))

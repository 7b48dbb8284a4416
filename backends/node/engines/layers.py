"""Asks a model what each of its layers attends to, in one forward pass over two tokens that computes no attention.

transformers builds the mask of each kind of layer by calling the function that is registered for the attention in use,
with a rule: which query sees which key. Ours returns the rule itself, and each layer gets it in place of a mask. So
windows, chunks of attention and whatever comes are read from the model's own code, whatever its configuration says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import unwrap
from typing import Any

import torch

from hybrid_llm.backends.node.engines.attention import FULL, UnsupportedModel, Window

_ASKING = "hybrid_llm_layers"
_SAMPLES = 64
"""Positions whose whole mask is compared with what was read from a few of its values."""
_SHORT = 5
_SIZES = ("sliding_window", "attention_chunk_size")
"""Where configurations have the size of windows, in tokens."""
Rule = Callable[[Any, Any, torch.Tensor, torch.Tensor], torch.Tensor]
"""Whether a query sees a key: (batch index, head index, positions of queries, positions of keys) -> bool."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer attends to, and how much it stores."""

    rule: Rule
    elements: int
    """Numbers in its key and value of one token."""


def read_layers(model: Any) -> dict[int, Layer]:
    """What each layer of *model* does, by its index; the model may be on the device `meta`, without weights.

    Raises:
        UnsupportedModel: a layer does not use the interface, or the forward pass fails.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionMaskInterface.register(_ASKING, lambda *_, mask_function, **__: mask_function)
    AttentionInterface.register(_ASKING, _note_layer)
    layers: dict[int, Layer] = {}
    original = model.config._attn_implementation
    model.set_attn_implementation(_ASKING)
    try:
        ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False, logits_to_keep=1, layers=layers)
    except UnsupportedModel:
        raise
    except Exception as error:  # an unsupported architecture may fail in any way
        raise UnsupportedModel(f"its forward fails with {type(error).__name__}") from error
    finally:
        model.set_attn_implementation(original)
    if not layers:
        raise UnsupportedModel("its attention does not use the interface of transformers")
    return layers


def windows_of(layers: Mapping[int, Layer], capacity: int, device: torch.device) -> dict[int, Window]:
    """The window of each layer, by its index, for texts of *capacity* tokens; equal ones are one object.

    Raises:
        UnsupportedModel: a layer does not see a run of tokens that ends with the query.
    """
    found: dict[int, Window] = {}
    for index, layer in layers.items():
        first = _first_seen(layer.rule, capacity, device)
        window = Window(first) if any(first) else FULL
        found[index] = next((known for known in found.values() if known == window), window)
    return found


@contextmanager
def shortened_windows(model: Any) -> Iterator[None]:
    """Meanwhile the windows of *model* are a few tokens wide, so that a short text exceeds them."""
    text = model.config.get_text_config()
    own = {name: size for name in _SIZES if isinstance(size := getattr(text, name, None), int) and size > _SHORT}
    try:
        for name in own:
            setattr(text, name, _SHORT)
        yield
    finally:
        for name, size in own.items():
            setattr(text, name, size)


def _note_layer(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    *,
    layers: dict[int, Layer] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Note what a layer does, and return zeros for its output."""
    if layers is None or not callable(attention_mask):
        raise UnsupportedModel("its attention does not use the interface of transformers, or has its own mask")
    if "get_seq_length" in unwrap(type(module).forward).__code__.co_names:
        raise UnsupportedModel("its attention counts tokens by itself, and not by their positions")
    elements = key.shape[1] * key.shape[3] + value.shape[1] * value.shape[3]
    layers[module.layer_idx] = Layer(attention_mask, elements)
    return query.new_zeros((1, query.shape[2], query.shape[1], value.shape[3])), None


def _first_seen(rule: Rule, capacity: int, device: torch.device) -> list[int]:
    """The first position that each of *capacity* positions sees.

    Raises:
        UnsupportedModel: a position does not see all from there up to itself, and nothing else.
    """
    zero = torch.zeros((), dtype=torch.long, device=device)
    positions = torch.arange(capacity, device=device)
    low, first = torch.zeros_like(positions), positions.clone()
    while bool((low < first).any()):  # a binary search, for all positions at once
        middle = (low + first) // 2
        seen = rule(zero, zero, positions, middle)
        first = torch.where(seen, middle, first)
        low = torch.where(seen, low, middle + 1)
    samples = torch.linspace(0, capacity - 1, min(_SAMPLES, capacity), device=device).long()[:, None]
    expected = (positions >= first[samples]) & (positions <= samples)
    if not torch.equal(rule(zero, zero, samples, positions[None]).expand_as(expected), expected):
        raise UnsupportedModel("a token of it does not attend to a run of tokens that ends with itself")
    found: list[int] = first.tolist()
    return found

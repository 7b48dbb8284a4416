"""Whether the sizes that a `config.json` declares are those of its weights: a model is made of the former first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_LAYERS: Final = re.compile(r"(num|n)(_\w+)?_layers?|(en|de)coder_layers")
_WIDTHS: Final = frozenset(
    {"hidden_size", "intermediate_size", "vocab_size", "type_vocab_size", "n_embd", "d_model", "d_ff", "ffn_dim"}
)
_POSITIONS: Final = frozenset({"max_position_embeddings", "n_positions"})
_LEARNT: Final = re.compile(r"position_embedding|embed_positions|\bwpe\b")
"""Weights of positions; without them a model computes its positions, and takes no memory for them."""
_SENSES: Final = re.compile(r"vision|visual|image|audio")
"""In the names of weights that read pictures or sounds, whose positions are not those of texts."""
Shape = Sequence[int]


def undeclared(config: Mapping[str, Any], weights: Mapping[str, Shape]) -> str:
    """The key of *config* whose number is beyond all *weights*, name -> shape; empty where each can be."""
    if not weights:
        return ""
    widest = max((size for shape in weights.values() for size in shape), default=1)
    learnt = any(_LEARNT.search(name) and not _SENSES.search(name) for name in weights)
    for key, number in _numbers(config):
        most = len(weights) if _LAYERS.fullmatch(key) else widest
        bounded = _LAYERS.fullmatch(key) or key in _WIDTHS or (learnt and key in _POSITIONS)
        if bounded and not 0 <= number <= most:
            return key
    labels = config.get("id2label")
    return "id2label" if isinstance(labels, Mapping) and len(labels) > widest else ""


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The whole numbers of *config*, and of the configurations in it."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield key, value

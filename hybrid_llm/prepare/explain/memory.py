"""How many inputs a model reads at a time while it is explained: attention and gradients are held for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hybrid_llm.prepare.hub_folder import NotEnoughMemory

_MOST_ROWS: Final = 16
_SHARE: Final = 0.5
"""Of the free memory."""
_ATTENTION: Final = 3
"""Copies of the attention that a layer holds for its gradients: scores, probabilities, and their dropout."""
_STATES: Final = 24
"""Vectors of the hidden size that a layer holds for each token."""
_FLOAT: Final = 4
"""Bytes."""


def bytes_for(tokens: int, config: Any) -> int:
    """Memory that one input of *tokens* takes in a model of this configuration, about."""
    heads, size = config.num_attention_heads, config.hidden_size
    layer = tokens * tokens * heads * _ATTENTION + tokens * size * _STATES
    vocabulary = getattr(config, "vocab_size", 0)
    return int(_FLOAT * (config.num_hidden_layers * layer + 2 * tokens * vocabulary))


def rows_for(tokens: int, config: Any, free: int, folder: Path) -> int:
    """How many inputs fit into the *free* bytes, at most 16.

    Raises:
        NotEnoughMemory: not even one does.
    """
    needed = bytes_for(tokens, config)
    rows = int(free * _SHARE) // needed
    if rows < 1:
        what = f"explaining a text of {tokens:,} tokens takes {needed / 1e9:.1f} GB of memory"
        message = f"{what}, and {free / 1e9:.1f} GB are free: shorten the text, or free memory"
        raise NotEnoughMemory(message, needed=needed, free=free, path=str(folder))
    return min(_MOST_ROWS, rows)

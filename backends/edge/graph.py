"""What a session reports about its graph, checked against `genai_config.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.edge.folder import ModelLayout
from hybrid_llm.backends.edge.runtime import load_runtime
from hybrid_llm.core.errors import ConfigError

_DTYPES: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """What the session reports about its tensors."""

    run_options: Callable[[], Any]
    kv_dtype: np.dtype[Any]
    logits_dtype: np.dtype[Any]
    all_logits: bool
    """The graph returns logits of every position, not only of the last."""
    has_positions: bool
    hidden_size: int
    """Numbers of a hidden state; 0 if the graph does not return them."""
    all_hidden: bool
    """The graph returns the hidden state of every position, not only of those of the logits."""


def inspect(session: Any, layout: ModelLayout, path: Path) -> Graph:
    """Check the graph's tensors against `genai_config.json`: same names, none left over, same sizes."""
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    needed = {layout.input_ids, layout.attention_mask, *layout.pasts}
    has_positions = layout.position_ids in inputs
    needed |= {layout.logit_rows} if layout.logit_rows is not None else set()
    allowed = needed | ({layout.position_ids} if has_positions else set())
    if not needed <= set(inputs) <= allowed or not {layout.logits, *layout.presents} <= set(outputs):
        raise _mismatch(path, "its inputs and outputs are not those of a decoder with a key-value cache")
    kinds = {inputs[name].type for name in layout.pasts} | {outputs[name].type for name in layout.presents}
    logits = outputs[layout.logits]
    if len(kinds) != 1 or not kinds <= set(_DTYPES) or logits.type not in _DTYPES:
        raise _mismatch(path, "its cache or logits are neither float32 nor float16")
    if logits.shape[-1] != layout.vocab_size:
        raise _mismatch(path, f"its vocabulary is {logits.shape[-1]}, in genai_config.json it is {layout.vocab_size}")
    if any(inputs[name].shape[1] != layout.kv_heads for name in layout.pasts):
        raise _mismatch(path, "the number of its key-value heads is not that of genai_config.json")
    hidden = outputs.get(layout.hidden_states)
    if layout.hidden_states is not None and (hidden is None or hidden.type != "tensor(float)"):
        raise _mismatch(path, "its hidden states, which genai_config.json names, are no output in float32")
    return Graph(
        run_options=load_runtime().RunOptions,
        kv_dtype=_DTYPES[kinds.pop()],
        logits_dtype=_DTYPES[logits.type],
        all_logits=logits.shape[1] != 1 and layout.logit_rows is None,
        has_positions=has_positions,
        hidden_size=0 if hidden is None else hidden.shape[-1],
        all_hidden=hidden is not None and hidden.shape[1] != 1 and hidden.shape[1] != logits.shape[1],
    )


def probe(session: Any, layout: ModelLayout, graph: Graph, path: Path) -> None:
    """Run one token with an empty cache: the graph's shapes are symbolic, and only a run shows the head size."""
    one = np.ones((1, 1), dtype=np.int64)
    feeds: dict[str, NDArray[Any]] = {layout.input_ids: one, layout.attention_mask: one}
    if layout.position_ids is not None and graph.has_positions:
        feeds[layout.position_ids] = np.zeros_like(one)
    if layout.logit_rows is not None:
        feeds[layout.logit_rows] = np.ones(1, dtype=np.int64)
    empty = np.zeros(layout.kv_shape(0), dtype=graph.kv_dtype)
    feeds |= dict.fromkeys(layout.pasts, empty)
    try:
        logits, key = session.run([layout.logits, layout.presents[0]], feeds)
    except Exception as error:  # onnxruntime has one unrelated exception class per status
        raise _mismatch(path, f"it fails on its first token ({type(error).__name__})") from error
    expected = layout.kv_shape(layout.rows_per_token)
    if key.shape != expected:
        raise _mismatch(path, f"its cache has the shape {key.shape}, by genai_config.json it is {expected}")
    if not np.isfinite(logits).all():
        raise _mismatch(path, "its logits are not finite")


def _mismatch(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path}: {what}; convert the model again", path=str(path))

"""The proof, at load, that the packed engine computes what the model itself computes; else it is not used.

What each layer attends to is read from the model for every position (`layers.py`). Here logits are compared: of two
texts, read as chunks of prompts and then token by token, both in each step, beside a token at the last position, which
must not matter to them (a rotary embedding may depend on the longest text of a step). Meanwhile windows are a few
tokens wide, so that the texts exceed them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hybrid_llm.backends.node.engine import KV_BLOCK
from hybrid_llm.backends.node.engines.attention import UnsupportedModel, Window
from hybrid_llm.backends.node.engines.blocks import Table
from hybrid_llm.backends.node.engines.layers import read_layers, shortened_windows, windows_of
from hybrid_llm.backends.node.engines.runners import PackedRunner
from hybrid_llm.backends.node.engines.sequence import Segment

_LENGTHS = (16, 11)
_CHUNKS = ((0, 3), (3, 8))
"""The parts of each text that are read as a prompt; the rest is read token by token."""
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Relative difference of logits up to which two computations count as equal, by their rounding."""


def packed_runner(model: Any, *, blocks: int, window: int) -> PackedRunner:
    """The runner of *model* for texts of *window* tokens, proved and active; otherwise its attention is what it was.

    Raises:
        UnsupportedModel: it would compute something else than the model, or cannot be proved not to.
    """
    original = model.config._attn_implementation
    try:
        windows = windows_of(read_layers(model), window, model.device)
        with shortened_windows(model):
            _check_logits(model, windows, blocks=blocks, longest=window)
        runner = PackedRunner(model, windows, blocks=blocks)
        runner.activate()
    except Exception as error:  # an unsupported architecture may fail in any way
        model.set_attn_implementation(original)
        if isinstance(error, UnsupportedModel):
            raise
        raise UnsupportedModel(f"its forward fails with {type(error).__name__}") from error
    return runner


def _check_logits(model: Any, windows: Mapping[int, Window], *, blocks: int, longest: int) -> None:
    short = windows_of(read_layers(model), longest, model.device)
    last = max(_LENGTHS) - 1
    if any(window.firsts and not short[layer].first(last) for layer, window in windows.items()):
        raise UnsupportedModel("its window cannot be shortened for the check")
    random = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    texts = [torch.randint(vocabulary, (length,), generator=random).tolist() for length in _LENGTHS]
    expected = [_own_logits(model, text) for text in texts]
    runner = PackedRunner(model, short, blocks=blocks)
    runner.activate()
    for text, theirs, ours in zip(texts, expected, _packed_logits(runner, texts, longest), strict=True):
        difference = float((ours - theirs[-len(ours) :]).norm() / theirs[-len(ours) :].norm())
        if not difference <= _TOLERANCE.get(model.dtype, 5e-2):
            raise UnsupportedModel(f"its logits for {len(text)} tokens differ by {difference:.1e} from the model's own")


def _own_logits(model: Any, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([text], device=model.device), use_cache=False).logits[0].float()
    return logits


def _packed_logits(runner: PackedRunner, texts: list[list[int]], longest: int) -> list[torch.Tensor]:
    """The logits of each text after its last chunk."""
    far = Segment(table=Table(blocks=range(-(-longest // KV_BLOCK))), start=longest - 1, ids=[0], complete=False)
    tables = [Table(blocks=(block,)) for block in range(len(texts))]
    for begin, end in _CHUNKS:
        chunks = [
            Segment(table=table, start=begin, ids=text[begin:end], complete=False)
            for table, text in zip(tables, texts, strict=True)
        ]
        runner.forward([far, *chunks])
    found: list[list[torch.Tensor]] = [[] for _ in texts]
    for position in range(_CHUNKS[-1][1], max(map(len, texts))):
        steps = {
            index: Segment(table=tables[index], start=position, ids=text[position : position + 1], complete=True)
            for index, text in enumerate(texts)
            if position < len(text)
        }
        for index, logits in zip(steps, runner.forward([*steps.values(), far]).float(), strict=True):
            found[index].append(logits)
    return [torch.stack(logits) for logits in found]

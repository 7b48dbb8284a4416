"""Compares an imported model with a NumPy computation of the same GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.edge.scheduling import BORDER
from hybrid_llm.backends.models.gguf.blocks import Floats
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.reference import reference_logits
from hybrid_llm.backends.models.gguf.shape import Shape
from hybrid_llm.backends.models.perplexity import log_probabilities
from hybrid_llm.core.request import Message, Request

EXACT_LIMIT: Final = 0.1
"""Of the largest difference, in standard deviations of a position's logits, where both compute in float32. Rounding
makes 0.0001 to 0.002, minima in digits 0.005 to 0.02; a wrong rotation, window, scale or norm makes more than 0.5."""
FAST_LIMIT: Final = 0.05
"""Of the mean Kullback-Leibler divergence, in nats, where activations are rounded to int8: 0.001 to 0.005 is usual."""
_STEPS: Final = 8
_LONGEST_WINDOW: Final = 1100
_TEXTS: Final = (
    (
        "What is the capital of France, and which river runs through it?",
        "The capital is Paris, on the Seine.",
    ),
    ("List three things that a good report needs.", "A good report needs a question, facts and a conclusion."),
)
_PASSAGE: Final = "The river rises in the hills and runs through two towns before it meets the sea. "

Texts = Sequence[tuple[Sequence[int], int]]
"""Token ids, and the first position whose logits are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The agreement of two computations over *positions* positions, those after a prefill and step by step."""

    positions: int
    largest_difference: float
    """Of any two logits, in standard deviations of their position's logits."""
    divergence: float
    """Mean Kullback-Leibler divergence in nats."""
    top1_agreement: float

    def as_dict(self) -> dict[str, Any]:
        """The form in the manifest."""
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()}


def proof_texts(model: EdgeModel, shape: Shape) -> Texts:
    """Conversations as the model's chat template writes them, and a text longer than its attention window.

    None that does not fit the model's context.
    """
    texts: list[list[int]] = []
    for question, answer in _TEXTS:
        prompt = model.tokenizer.encode(Request(messages=(Message(role="user", content=question),)))
        texts.append(prompt + _ids(model, answer)[:_STEPS])
    window = max(shape.windows)
    if 0 < window <= _LONGEST_WINDOW and window + 2 * _STEPS < shape.context:
        passage = _ids(model, _PASSAGE)
        length = window + _STEPS
        texts.append((texts[0][:1] + passage * (length // len(passage) + 1))[:length])
    return [(ids, _first(len(ids))) for ids in texts if len(ids) <= shape.context]


def _first(length: int) -> int:
    """The last position before a border, where the edge's loop divides a text anyway, and not behind the prompt's."""
    prompt = length - _STEPS
    return max(prompt - prompt % BORDER if prompt >= BORDER else prompt, 1) - 1


def compare_exactly(model: EdgeModel, texts: Texts, expected: Sequence[Floats]) -> Proof:
    """Compare a model that computes in float32, where a step is slow: each text in two runs, one behind the other."""
    run = _of_the_graph if model.layout.rows_per_token == 1 else _of_the_loop
    ours = [run(model, [ids[: first + 1], ids[first + 1 :]]) for ids, first in texts]
    return _agreement(np.concatenate(ours), np.concatenate([rows[[0, -1]] for rows in expected]))


def compare_steps(model: EdgeModel, texts: Texts, expected: Sequence[Floats]) -> Proof:
    """Compare a model as it runs in use: the prompt of each text at once, then token by token."""
    ours = [_of_the_loop(model, [ids[:-_STEPS], *([token] for token in ids[-_STEPS:])]) for ids, _ in texts]
    return _agreement(np.concatenate(ours), np.concatenate([rows[-_STEPS - 1 :] for rows in expected]))


def expected_logits(file: Gguf, shape: Shape, texts: Texts) -> list[Floats]:
    """The reference's logits."""
    return reference_logits(file, shape, texts)


def _ids(model: EdgeModel, text: str) -> list[int]:
    return list(model.tokenizer.tokenizer.encode(text, add_special_tokens=False).ids)


def _of_the_loop(model: EdgeModel, runs: Sequence[Sequence[int]]) -> Floats:
    """The logits after each of *runs*, which are parts of one text, from the edge's own loop."""
    sequence = model.sequence(sum(map(len, runs)))
    return np.stack([sequence.append(ids).copy() for ids in runs])


def _of_the_graph(model: EdgeModel, runs: Sequence[Sequence[int]]) -> Floats:
    """The same from the graph alone, for a cache with one row a token.

    The loop divides a long text, and in float32 each part takes about as long as the whole, which is for windows only.
    """
    layout, session = model.layout, model.sessions.session()
    empty = np.zeros((1, layout.kv_heads, 0, layout.head_size), dtype=np.float32)
    caches, length, rows = dict.fromkeys(layout.pasts, empty), 0, []
    for ids in runs:
        length += len(ids)
        mask = np.ones((1, length), dtype=np.int64)
        feeds = {layout.input_ids: np.array([ids], dtype=np.int64), layout.attention_mask: mask, **caches}
        logits, *presents = session.run([layout.logits, *layout.presents], feeds)
        caches = dict(zip(layout.pasts, presents, strict=True))
        rows.append(logits[0, -1])
    return np.stack(rows)


def _agreement(ours: Floats, expected: Floats) -> Proof:
    spread = expected.std(axis=1, keepdims=True) + 1e-9
    left, right = log_probabilities(expected), log_probabilities(ours)
    return Proof(
        positions=len(ours),
        largest_difference=float((np.abs(ours - expected) / spread).max()),
        divergence=float((np.exp(left) * (left - right)).sum(axis=1).mean()),
        top1_agreement=float((ours.argmax(axis=1) == expected.argmax(axis=1)).mean()),
    )

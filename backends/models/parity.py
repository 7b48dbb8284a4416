"""Compares a converted model with its original: both read the same tokens, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models.perplexity import LONGEST, TEXT, perplexity
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Message, Request

if TYPE_CHECKING:
    from numpy.typing import NDArray


_QUESTIONS = (
    "What is the capital of France, and which river runs through it?",
    "List three things that a good report needs.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The minimum agreement of a conversion. A wrong graph has a correlation near 0."""

    top1_agreement: float
    logit_correlation: float
    perplexity_ratio: float = math.inf
    """After by before the conversion, at most."""


FLOORS: Mapping[str, Floor] = {
    "fp32": Floor(top1_agreement=0.99, logit_correlation=0.999, perplexity_ratio=1.001),
    "int8": Floor(top1_agreement=0.0, logit_correlation=0.98, perplexity_ratio=1.05),
    "int4": Floor(top1_agreement=0.0, logit_correlation=0.8, perplexity_ratio=1.3),
}
"""By precision, for trained weights. Quantisation is judged by perplexity: a good model may change many top tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The agreement of a converted model with its original over *positions* decode steps with teacher forcing."""

    positions: int
    top1_agreement: float
    """Share of positions at which both rank the same token first."""
    logit_correlation: float
    """Mean Pearson correlation of the two models' logits."""
    perplexity_before: float = math.nan
    """Of the original, on a short text."""
    perplexity_after: float = math.nan
    reference: str = "transformers, float32, greedy"

    def as_dict(self) -> dict[str, Any]:
        """The form in the manifest."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


def measure_parity(source: Path, folder: Path, *, steps: int = 32) -> tuple[Parity, int]:
    """Compare the model in *folder* with its original in *source*; return the parity and the number of parameters.

    transformers answers each question greedily with *steps* tokens; the converted model reads these tokens one at a
    time, as in decoding, and its logits are compared with those of transformers at every position.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    edge = EdgeModel(folder)
    reference = AutoModelForCausalLM.from_pretrained(
        str(source), dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()
    ours, theirs = [], []
    for question in _QUESTIONS:
        prompt = edge.tokenizer.encode(Request(messages=(Message(role="user", content=question),)))
        answer, logits = _reference_answer(reference, prompt, steps)
        theirs.append(logits)
        ours.append(_forced_logits(edge, prompt, answer))
    parity = _compare(np.concatenate(ours), np.concatenate(theirs))
    before, after = _perplexities(reference, edge)
    return replace(parity, perplexity_before=before, perplexity_after=after), int(reference.num_parameters())


def check_parity(parity: Parity, floor: Floor) -> None:
    """Raise ConfigError if *parity* is below *floor*: the model must not be used."""
    agreement, correlation = floor.top1_agreement, floor.logit_correlation
    if parity.top1_agreement >= agreement and parity.logit_correlation >= correlation:
        if not parity.perplexity_after > floor.perplexity_ratio * parity.perplexity_before:
            return
        raise ConfigError(
            f"the converted model is worse than the original: perplexity {parity.perplexity_after:.2f}, it was "
            f"{parity.perplexity_before:.2f}, and may rise by {floor.perplexity_ratio - 1:.0%}. Try a higher "
            "precision, or convert a GGUF file of this model, whose weights are not quantised again"
        )
    raise ConfigError(
        f"the converted model differs from the original: same top token at {parity.top1_agreement:.0%} of positions "
        f"(needs {agreement:.0%}), correlation of logits {parity.logit_correlation:.3f} (needs {correlation}). "
        "Try a higher precision; if fp32 fails too, the builder does not support this architecture."
    )


def _perplexities(reference: Any, edge: EdgeModel) -> tuple[float, float]:
    """Of both models on the same text."""
    import torch

    ids = edge.tokenizer.tokenizer.encode(TEXT, add_special_tokens=False).ids[:LONGEST]
    with torch.no_grad():
        theirs = reference(torch.tensor([ids[:-1]])).logits[0].float().numpy()
    sequence = edge.sequence(len(ids))
    ours = np.stack([sequence.append([token]).copy() for token in ids[:-1]])
    return perplexity(theirs, ids), perplexity(ours, ids)


def _reference_answer(model: Any, prompt: list[int], steps: int) -> tuple[list[int], NDArray[np.float32]]:
    import torch

    inputs = torch.tensor([prompt])
    with torch.no_grad():
        out = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    answer = out.sequences[0, len(prompt) :].tolist()
    return answer, torch.cat(out.logits).float().numpy()


def _forced_logits(edge: EdgeModel, prompt: list[int], answer: list[int]) -> NDArray[np.float32]:
    sequence = edge.sequence(len(prompt) + len(answer))
    rows = [sequence.append(prompt).copy()]
    rows += [sequence.append([token]).copy() for token in answer[:-1]]
    return np.stack(rows)


def _compare(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Parity:
    agreement = float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    left, right = (rows - rows.mean(axis=1, keepdims=True) for rows in (ours, theirs))
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    correlation = float(((left * right).sum(axis=1) / np.maximum(norms, 1e-12)).mean())
    return Parity(positions=len(ours), top1_agreement=agreement, logit_correlation=correlation)

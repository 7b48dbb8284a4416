"""Compares a converted encoder with its original, on short texts and on texts as long as the model reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hybrid_llm.backends.encoder.model import Encoder, log_shares
from hybrid_llm.backends.models.perplexity import TEXT
from hybrid_llm.core.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST: Final = 64
"""Rows that are compared at least."""
_MOST: Final = 256
_LENGTHS: Final = (16, 32, 64, 128, 256)
"""Tokens of the rows that texts are joined to, besides the longest that the model reads."""
_TIE: Final = 0.02
"""Probabilities nearer to each other than this are a tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderParity:
    """How a converted encoder agrees with its original on *labels* labels, of *texts* texts or of their tokens."""

    texts: int
    labels: int
    agreement: float
    """Share of the labels that are the same, but for ties."""
    mean_shift: float
    """Mean difference of the probability of a label."""
    logit_difference: float
    """Largest difference of two logits, in standard deviations of the original's."""
    reference: str = "transformers, float32"


@dataclass(frozen=True, slots=True)
class _Floor:
    agreement: float
    mean_shift: float
    logit_difference: float


_FLOORS: Final = {"fp32": _Floor(1.0, 0.005, 0.05), "int8": _Floor(0.95, 0.05, np.inf)}
"""By precision; float32 differs by the order of sums, and by the approximation of GELU in onnxruntime."""


def measure(model: Any, encoder: Encoder, texts: Sequence[str] = ()) -> EncoderParity:
    """Let both read *texts*, by default clauses and sentences of Darwin's.

    Each text is read alone; then some are joined to rows of 16 tokens to as many as the model reads at once.
    """
    import torch

    ours: list[NDArray[Any]] = []
    theirs: list[NDArray[Any]] = []
    count = 0
    for ids in _rows(encoder, texts or _builtin()):
        with torch.no_grad():
            row = torch.tensor([ids])
            logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits
        theirs.append(logits.numpy().reshape(-1, logits.shape[-1]))
        ours.append(encoder.run([ids]).reshape(-1, logits.shape[-1]))
        count += 1
    return _compare(np.concatenate(ours), np.concatenate(theirs), count)


def require(parity: EncoderParity, precision: str) -> None:
    """Raise ConfigError if the converted model must not be used."""
    floor = _FLOORS[precision]
    if (
        parity.agreement >= floor.agreement
        and parity.mean_shift <= floor.mean_shift
        and parity.logit_difference <= floor.logit_difference
    ):
        return
    found = f"{parity.agreement:.1%} of {parity.labels} labels are the same, probabilities differ by "
    found += f"{parity.mean_shift:.4f} on average, logits by {parity.logit_difference:.3f} standard deviations at most"
    advice = "try --precision fp32, or --data with texts of the model's task"
    if precision == "fp32":
        advice = "the converter does not support this architecture"
    raise ConfigError(f"the result differs from the original: {found}; {advice}")


def _compare(ours: NDArray[Any], theirs: NDArray[Any], texts: int) -> EncoderParity:
    mine, reference = np.exp(log_shares(ours)), np.exp(log_shares(theirs))
    first = reference.argmax(-1)[:, None]
    return EncoderParity(
        texts=texts,
        labels=len(mine),
        agreement=float((mine.max(-1) - np.take_along_axis(mine, first, -1)[:, 0] <= _TIE).mean()),
        mean_shift=float(np.abs(mine - reference).mean()),
        logit_difference=float(np.abs(ours - theirs).max() / max(float(theirs.std()), 1e-9)),
    )


def _rows(encoder: Encoder, texts: Sequence[str]) -> Iterator[list[int]]:
    """Token ids of each text, spread over all of them where there are many, and of joined texts of each length."""
    chosen = texts[:: max(1, len(texts) // _MOST)][:_MOST]
    for text in chosen:
        yield encoder.windows(text)[0].ids
    lengths = [length for length in _LENGTHS if length < encoder.width] + [encoder.width]
    for number in range(max(len(lengths), _LEAST - len(chosen))):
        yield _joined(encoder, texts, number, lengths[number % len(lengths)])


def _joined(encoder: Encoder, texts: Sequence[str], start: int, length: int) -> list[int]:
    """Token ids of texts from *start* on, round and round, to a row of about *length*."""
    joined, at = "", start
    while True:
        joined = f"{joined} {texts[at % len(texts)]}"
        ids: list[int] = encoder.windows(joined)[0].ids
        if len(ids) >= length or at - start > length:
            return ids
        at += 1


def _builtin() -> list[str]:
    return [clause for clause in re.split(r"[.,;:]\s", TEXT) if clause.strip()]

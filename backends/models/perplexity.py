"""Perplexity on a short text: what a conversion costs in quality, before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

TEXT: Final = (
    "When on board H.M.S. Beagle, as naturalist, I was much struck with certain facts in the distribution of the "
    "inhabitants of South America, and in the geological relations of the present to the past inhabitants of that"
    " continent. These facts seemed to me to throw some light on the origin of species, that mystery of "
    "mysteries, as it has been called by one of our greatest philosophers. On my return home, it occurred to me, "
    "in 1837, that something might perhaps be made out on this question by patiently accumulating and reflecting "
    "on all sorts of facts which could possibly have any bearing on it. After five years' work I allowed myself "
    "to speculate on the subject, and drew up some short notes; these I enlarged in 1844 into a sketch of the "
    "conclusions, which then seemed to me probable: from that period to the present day I have steadily pursued "
    "the same object. I hope that I may be excused for entering on these personal details, as I give them to show"
    " that I have not been hasty in coming to a decision."
)
"""Charles Darwin, On the Origin of Species, 1859: in the public domain."""
LONGEST: Final = 256
"""Tokens of the text that are read."""


def perplexity(logits: NDArray[np.float32], ids: Sequence[int]) -> float:
    """The perplexity of *ids* after the first; *logits*, shape (len(ids) - 1, vocabulary), are those before each."""
    chosen = log_probabilities(logits)[np.arange(len(ids) - 1), np.asarray(ids[1:])]
    return math.exp(-float(chosen.mean()))


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logarithms of the probabilities, of the shape of *logits*: (positions, vocabulary)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float32)

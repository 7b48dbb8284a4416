"""The model's own log-probabilities at one position, from its logits before anything changes them."""

from __future__ import annotations

import math

import numpy as np

from hybrid_llm.backends.edge.model import Logits
from hybrid_llm.backends.token_names import TokenScores


class Scoring:
    """Scores one position with its *count* likeliest tokens. *logits* is copied: drawing a token modifies it."""

    def __init__(self, logits: Logits, count: int) -> None:
        self._logits = logits.copy()
        self._count = min(count, len(logits))

    def of(self, token_id: int) -> TokenScores:
        """The scores where *token_id* was chosen; of equally likely tokens it is the first."""
        logits = self._logits
        highest = float(logits.max())
        total = highest + math.log(np.exp(logits - highest).sum(dtype=np.float64))
        top = [(token, float(logits[token]) - total) for token in self._likeliest(token_id)]
        return TokenScores(float(logits[token_id]) - total, tuple(top))

    def _likeliest(self, chosen: int) -> list[int]:
        if not self._count:
            return []
        least = np.partition(self._logits, -self._count)[-self._count]
        ids = np.flatnonzero(self._logits >= least)
        order = np.lexsort((ids != chosen, -self._logits[ids]))  # the last key counts most
        likeliest: list[int] = ids[order][: self._count].tolist()
        return likeliest

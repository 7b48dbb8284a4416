"""The log-probability of a continuation behind a context, tokenised as lm-eval does it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hybrid_llm.prepare.evaluation.decoders import Scorer


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The natural logarithm of the probability, and whether greedy decoding would give the continuation."""

    total: float
    is_greedy: bool


def loglikelihood(scorer: Scorer, context: str, continuation: str) -> Likelihood:
    """The log-probability of *continuation* behind *context*; what does not fit the window is cut off at its left."""
    if not context.strip():
        context, before = "", context
        return _scored(scorer, [scorer.prefix_id], scorer.encode(before + continuation, special=False).ids)
    spaces = len(context) - len(context.rstrip())
    if spaces:  # a tokenizer puts a space before the word that follows it
        continuation, context = context[-spaces:] + continuation, context[:-spaces]
    whole = scorer.encode(context + continuation, special=False).ids
    size = len(scorer.encode(context, special=False).ids)
    return _scored(scorer, list(whole[:size]), whole[size:])


def _scored(scorer: Scorer, context: list[int], ids: tuple[int, ...]) -> Likelihood:
    if not ids:
        return Likelihood(0.0, True)
    cut = [*context, *ids][-(scorer.window + 1) :]
    first = max(1, len(cut) - len(ids))
    scores = scorer.scores(cut, first)
    return Likelihood(math.fsum(score.logprob for score in scores), all(score.is_greedy for score in scores))

"""The model's own log-probabilities of drawn tokens, from its logits before penalty, temperature, filters, grammar."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hybrid_llm.backends.token_names import TokenScores


def score(logits: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[TokenScores]:
    """The scores of each row of *logits*, shape (rows, vocab), in which *tokens* were drawn.

    *counts* has how many of the likeliest tokens to give for each; of equal ones, the drawn one is the first.
    """
    own = logits.float()
    totals = own.logsumexp(-1)
    drawn = own.gather(-1, torch.tensor(tokens, device=own.device)[:, None])[:, 0] - totals
    top = own.topk(min(max(counts), own.shape[-1]), -1)
    rows = zip(
        tokens, counts, drawn.tolist(), top.indices.tolist(), (top.values - totals[:, None]).tolist(), strict=True
    )
    return [_scores(token, chosen, list(zip(ids, values, strict=True))[:n]) for token, n, chosen, ids, values in rows]


def _scores(token: int, chosen: float, top: list[tuple[int, float]]) -> TokenScores:
    if top and chosen >= top[-1][1] and token not in dict(top):  # one of several that are equally likely
        top[-1] = (token, chosen)
    ordered = sorted(top, key=lambda each: (-each[1], each[0] != token, each[0]))
    return TokenScores(chosen, tuple(ordered))

"""How good a model is on held-out rows: exact means over all their labels, in one process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from hybrid_llm.core.lifetime import native
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.hub_folder import ModelKind
from hybrid_llm.prepare.tuning.conversations import IGNORED, Conversations
from hybrid_llm.prepare.tuning.plan import Plan
from hybrid_llm.prepare.tuning.training import Collator

_LARGEST: Final = 700.0
"""The largest loss whose exponential is a number."""


def measure(plan: Plan, model: Any, tokenizer: Any, split: str) -> dict[str, float]:
    """The metrics of *model* on the rows of *split*.

    Of language models `loss` (nats for each token that is learnt) and `perplexity`; of classifiers `loss` and
    `accuracy` (of texts, or of tokens); of preferences `preferred`, the share of pairs whose chosen answer is likelier,
    per token, than the rejected one.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    with torch.inference_mode(), native:
        if plan.format is DataFormat.PREFERENCE:
            return {"preferred": _preferred(plan, model, tokenizer, split, device)}
        return _labels(plan, model, tokenizer, split, device)


def _labels(plan: Plan, model: Any, tokenizer: Any, split: str, device: Any) -> dict[str, float]:
    from torch.nn.functional import cross_entropy

    collate = Collator(tokenizer.pad_token_id or 0, plan.kind)
    options = {"use_cache": False} if plan.kind is ModelKind.CAUSAL else {}  # with one, packed rows are one text
    loss, right, count = 0.0, 0, 0
    for rows in _batches(plan.dataset(split), plan.options.rows):
        batch = {name: each.to(device) for name, each in collate(rows).items()}
        labels = batch.pop("labels")
        logits = model(**batch, **options).logits.float()
        if plan.kind is ModelKind.CAUSAL:
            logits, labels = logits[:, :-1], labels[:, 1:]
        logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        loss += float(cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
        right += int(((logits.argmax(-1) == labels) & (labels != IGNORED)).sum())
        count += int((labels != IGNORED).sum())
    mean = loss / max(1, count)
    if plan.kind is ModelKind.CAUSAL:
        return {"loss": mean, "perplexity": math.exp(min(mean, _LARGEST))}
    return {"loss": mean, "accuracy": right / max(1, count)}


def _preferred(plan: Plan, model: Any, tokenizer: Any, split: str, device: Any) -> float:
    conversations = Conversations(tokenizer, plan.model)
    rows, preferred = plan.dataset(split), 0
    for row in rows:
        scores = [
            _answer_score(model, *conversations.encode(row["prompt"], row[name]), device)
            for name in ("chosen", "rejected")
        ]
        preferred += scores[0] > scores[1]
    return preferred / len(rows)


def _answer_score(model: Any, ids: list[int], labels: list[int] | None, device: Any) -> float:
    """The mean logarithm of the probability of a token of the answer; of the whole where its beginning is hidden."""
    import torch

    logits = model(input_ids=torch.tensor([ids], device=device)).logits[0, :-1].float().log_softmax(-1)
    targets = torch.tensor((labels or ids)[1:], device=device)
    learnt = targets != IGNORED
    return float(logits[learnt].gather(1, targets[learnt].unsqueeze(1)).mean())


def _batches(dataset: Any, size: int) -> Iterator[list[Any]]:
    rows = iter(dataset)
    while batch := [row for _, row in zip(range(size), rows, strict=False)]:
        yield batch

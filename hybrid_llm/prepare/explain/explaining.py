"""Explains one answer by every method, and measures how far each explanation holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from hybrid_llm.prepare.explain.faithfulness import Judge
from hybrid_llm.prepare.explain.methods import METHODS, NotApplicable
from hybrid_llm.prepare.explain.results import Attribution, Explanation
from hybrid_llm.prepare.explain.subject import Question, Subject, open_subject


def explain(
    folder: Path,
    question: Question,
    *,
    methods: Sequence[str] = tuple(METHODS),
    steps: int = 64,
    orders: int = 10,
    seed: int = 0,
    report: Callable[[str, float], None] = lambda what, share: None,  # noqa: ARG005
) -> Explanation:
    """Explain what the model of *folder* answers.

    Args:
        folder: A Hugging Face folder of a decoder or a classifier of texts.
        question: The text and the target.
        methods: Names of `METHODS`.
        steps: Of integrated gradients, to begin with.
        orders: How many random orders the methods are compared with.
        seed: Of these orders.
        report: Called with what is being done, and the share that is done.

    Raises:
        ConfigError: the folder is unusable, or a library is missing.
        InvalidRequest: the text or the target is unusable.
    """
    report("loading", 0.0)
    subject = open_subject(folder, question)
    report("random orders", 0.1)
    judge = Judge(subject, orders, seed)
    found: list[Attribution] = []
    omitted: dict[str, str] = {}
    for number, name in enumerate(methods):
        report(name, 0.3 + 0.7 * number / len(methods))
        try:
            scores = METHODS[name](subject, steps)
        except NotApplicable as error:
            omitted[name] = str(error)
            continue
        faithfulness = judge.judge(scores.pieces)
        found.append(
            Attribution(method=name, scores=scores.pieces, faithfulness=faithfulness, convergence=scores.convergence)
        )
    return Explanation(
        model=folder.resolve().name,
        kind=subject.kind.value,
        target=subject.target,
        probability=_probability(subject, subject.ids),
        neutral=_probability(subject, subject.neutral),
        neutral_token=subject.neutral_token,
        pieces=subject.pieces,
        attributions=tuple(found),
        random=judge.random,
        omitted=omitted,
    )


def _probability(subject: Subject, ids: object) -> float:
    import torch

    with torch.no_grad():
        return math.exp(float(subject.log_probability(ids)))

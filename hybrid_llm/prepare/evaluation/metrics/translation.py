"""BLEU and chrF of sacrebleu, and ROUGE of rouge-score: their own numbers of each item, and their own figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np

from hybrid_llm.prepare.evaluation.answers import Answer, Item
from hybrid_llm.prepare.evaluation.metrics.metric import ItemMean, Numbers, Setting
from hybrid_llm.prepare.libraries import needs


class Corpus:
    """A corpus metric of sacrebleu, from 0 to 100, with its standard settings; no answer counts as an empty one.

    sacrebleu's own significance tests use the same sums of the items' numbers.
    """

    scale: Final = 100.0
    higher: Final = True

    def __init__(self, name: str) -> None:
        self._name = name

    def numbers(self, items: Sequence[Item], answers: Sequence[Answer], setting: Setting) -> Numbers:  # noqa: ARG002
        """The counts that sacrebleu sums."""
        hypotheses = ["" if answer.error else answer.text for answer in answers]
        most = max(len(item.references) for item in items)
        references = [[item.references[n] if n < len(item.references) else None for item in items] for n in range(most)]
        counts = _sacrebleu(self._name)._extract_corpus_statistics(hypotheses, references)
        return np.array(counts, dtype=np.float64)

    def figure(self, total: Numbers) -> float:
        """The score of the corpus."""
        score = _sacrebleu(self._name)._compute_score_from_stats([int(count) for count in total])
        return float(score.score)


class Rouge(ItemMean):
    """The mean F-measure of rouge-score with stemming, of the best reference."""

    def __init__(self, name: str) -> None:
        self._name = name

    def score(self, item: Item, answer: Answer, setting: Setting) -> float:  # noqa: ARG002
        """The F-measure."""
        return float(_rouge(self._name).score_multi(item.references, answer.text)[self._name].fmeasure)


@cache
def _sacrebleu(name: str) -> Any:
    with needs("prepare"):
        from sacrebleu.metrics import BLEU, CHRF
    return {"bleu": BLEU, "chrf": CHRF}[name]()


@cache
def _rouge(name: str) -> Any:
    with needs("prepare"):
        from rouge_score.rouge_scorer import RougeScorer
    return RougeScorer([name], use_stemmer=True)


BLEU: Final = Corpus("bleu")
CHRF: Final = Corpus("chrf")
ROUGE1: Final = Rouge("rouge1")
ROUGE2: Final = Rouge("rouge2")
ROUGEL: Final = Rouge("rougeL")

"""Metrics of labels: accuracy, F1, the confusion matrix, and calibration."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

BINS: Final = 10
"""Of a reliability diagram, each of the same width (Guo et al., On Calibration of Modern Neural Networks, 2017)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """How often each label was predicted where another one holds. A prediction may be none of the labels.

    Attributes:
        counts: row by row the labels that hold, column by column those that were predicted; the last column counts
            predictions that are no label.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def total(self) -> int:
        """The number of texts."""
        return sum(map(sum, self.counts))

    @property
    def accuracy(self) -> float:
        """The share of texts whose prediction is right."""
        return sum(self.counts[i][i] for i in range(len(self.labels))) / self.total if self.total else math.nan

    @property
    def f1_by_label(self) -> dict[str, float]:
        """Label -> the harmonic mean of its precision and recall; 0 for one that neither holds nor was predicted."""
        found = {}
        for i, label in enumerate(self.labels):
            right = self.counts[i][i]
            either = sum(self.counts[i]) + sum(row[i] for row in self.counts)
            found[label] = 2 * right / either if either else 0.0
        return found

    @property
    def f1_macro(self) -> float:
        """The mean F1 of the labels, as of scikit-learn with all labels named."""
        by_label = self.f1_by_label
        return sum(by_label.values()) / len(by_label)

    @property
    def f1_micro(self) -> float:
        """F1 over all decisions together: that of the accuracy, unless some predictions are no label."""
        right = sum(self.counts[i][i] for i in range(len(self.labels)))
        predicted = sum(sum(row[:-1]) for row in self.counts)
        return 2 * right / (predicted + self.total) if self.total else math.nan


def confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str] = ()) -> Confusion:
    """Count *predicted* against *gold*; by default the labels are those of *gold*, sorted.

    Raises:
        ValueError: the two differ in length, or a label of *gold* is not among *labels*.
    """
    labels = tuple(labels) or tuple(sorted(set(gold)))
    columns = {label: number for number, label in enumerate(labels)}
    if missing := set(gold) - set(columns):
        raise ValueError(f"{len(missing)} labels of the texts are not among the {len(labels)} known labels")
    counted = Counter((columns[g], columns.get(p, len(labels))) for g, p in zip(gold, predicted, strict=True))
    rows = tuple(tuple(counted[i, j] for j in range(len(labels) + 1)) for i in range(len(labels)))
    return Confusion(labels=labels, counts=rows)


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """The share of texts whose prediction is right."""
    return confusion(gold, predicted).accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Predictions of similar confidence: how many, their mean confidence, and the share that is right."""

    count: int
    confidence: float
    accuracy: float


def reliability(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> tuple[Bin, ...]:
    """A reliability diagram: predictions in *bins* of the same width; a bin holds its upper edge, not its lower one."""
    found: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for pair in zip(confidences, right, strict=True):
        found[min(bins - 1, max(0, math.ceil(pair[0] * bins) - 1))].append(pair)
    return tuple(_bin(pairs) for pairs in found)


def _bin(pairs: Sequence[tuple[float, bool]]) -> Bin:
    if not pairs:
        return Bin(count=0, confidence=0.0, accuracy=0.0)
    confidence = math.fsum(confidence for confidence, _ in pairs) / len(pairs)
    return Bin(count=len(pairs), confidence=confidence, accuracy=sum(right for _, right in pairs) / len(pairs))


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error (Naeini et al., 2015): the mean gap of confidence and accuracy, 0 to 1."""
    total = sum(each.count for each in bins)
    gaps = math.fsum(each.count * abs(each.confidence - each.accuracy) for each in bins)
    return gaps / total if total else math.nan


def as_json(found: Confusion) -> dict[str, Any]:
    """For a report or a card."""
    return {"labels": list(found.labels), "counts": [list(row) for row in found.counts]}

"""Confidence intervals by bootstrap, and paired ones for differences (Koehn, EMNLP 2004)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from hybrid_llm.prepare.evaluation.metrics.metric import Metric, Numbers

RESAMPLES: Final = 1000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure, and the interval that holds it with 95 % confidence: the percentiles of its resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """By how much the second figure exceeds the first, with its interval, on the same resamples of the items.

    Attributes:
        p: the two-sided p-value of there being no difference: twice the share of resamples on the other side of 0.
    """

    value: float
    low: float
    high: float
    p: float


class Resamples:
    """Which items each resample draws, with replacement; the same for all subjects of a task."""

    def __init__(self, items: int, seed: int, count: int = RESAMPLES) -> None:
        rng = np.random.default_rng(seed)
        self._counts = rng.multinomial(items, np.full(items, 1 / items), size=count).astype(np.float64)

    def figures(self, metric: Metric, numbers: Numbers) -> Numbers:
        """The figure of each resample."""
        return np.array([metric.figure(total) for total in self._counts @ numbers])

    def estimate(self, metric: Metric, numbers: Numbers) -> Estimate:
        """The figure of all items, with its interval."""
        low, high = _interval(self.figures(metric, numbers))
        return Estimate(value=metric.figure(numbers.sum(axis=0)), low=low, high=high)

    def difference(self, metric: Metric, first: Numbers, second: Numbers) -> Difference:
        """The figure of *second* less that of *first*, both of the same items."""
        gaps = self.figures(metric, second) - self.figures(metric, first)
        value = metric.figure(second.sum(axis=0)) - metric.figure(first.sum(axis=0))
        low, high = _interval(gaps)
        gaps = gaps[np.isfinite(gaps)]
        p = min(1.0, 2 * min((gaps <= 0).mean(), (gaps >= 0).mean())) if len(gaps) else math.nan
        return Difference(value=value, low=low, high=high, p=float(p))


def _interval(figures: Numbers) -> tuple[float, float]:
    figures = figures[np.isfinite(figures)]
    if not len(figures):
        return math.nan, math.nan
    edge = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(figures, [edge, 100 - edge])
    return float(low), float(high)


def mcnemar(first: Numbers, second: Numbers) -> float:
    """The exact two-sided p-value of McNemar's test for items that are right or wrong, from an `ItemMean`'s numbers."""
    only_first = int(((first[:, 0] == 1) & (second[:, 0] == 0)).sum())
    only_second = int(((first[:, 0] == 0) & (second[:, 0] == 1)).sum())
    either = only_first + only_second
    tail = sum(math.comb(either, k) for k in range(min(only_first, only_second) + 1)) / 2**either
    return float(min(1.0, 2 * tail))

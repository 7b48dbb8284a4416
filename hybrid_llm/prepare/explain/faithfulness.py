"""Whether an order of tokens predicts what the model does: deletion and insertion curves beside random orders.

Petsiuk, Das and Saenko (2018, RISE). Deletion replaces tokens by the neutral one, the most important first: the
probability of the target should fall at once. Insertion puts them back into the neutral input: it should rise at once.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from hybrid_llm.prepare.explain.results import Curve, Faithfulness, Random
from hybrid_llm.prepare.explain.subject import Subject

_POINTS: Final = 20
"""Points of a curve after the first."""


class Judge:
    """Compares orders of the pieces of one subject with *orders* random ones, drawn by *seed*."""

    def __init__(self, subject: Subject, orders: int, seed: int) -> None:
        self._subject = subject
        count = len(subject.free)
        points = min(count, _POINTS)
        self._counts = sorted({round(count * point / points) for point in range(points + 1)})
        draw = random.Random(seed)  # noqa: S311  # no secret
        drawn = [draw.sample(range(count), count) for _ in range(orders)]
        self._deletions = [self._curve(order, deletes=True) for order in drawn]
        self._insertions = [self._curve(order, deletes=False) for order in drawn]

    @property
    def random(self) -> Random:
        """The random orders."""
        return Random(
            orders=len(self._deletions),
            deletion=_mean(self._deletions),
            insertion=_mean(self._insertions),
            deletion_spread=statistics.pstdev(curve.area for curve in self._deletions),
            insertion_spread=statistics.pstdev(curve.area for curve in self._insertions),
        )

    def judge(self, scores: Sequence[float]) -> Faithfulness:
        """The curves of the order that *scores* give, the largest first."""
        order = sorted(range(len(scores)), key=lambda at: -scores[at])
        deletion, insertion = self._curve(order, deletes=True), self._curve(order, deletes=False)
        return Faithfulness(
            deletion=deletion,
            insertion=insertion,
            beats_deletion=_share(curve.area > deletion.area for curve in self._deletions),
            beats_insertion=_share(curve.area < insertion.area for curve in self._insertions),
        )

    def _curve(self, order: Sequence[int], *, deletes: bool) -> Curve:
        import torch

        changed = torch.zeros(len(self._counts), len(order), dtype=torch.bool)
        for row, count in enumerate(self._counts):
            changed[row, list(order[:count])] = True
        values = self._probabilities(changed if deletes else ~changed)
        shares = tuple(count / len(order) for count in self._counts)
        return Curve(shares=shares, values=values, area=_area(shares, values))

    def _probabilities(self, replaced: Any) -> tuple[float, ...]:
        import torch

        with torch.no_grad():
            found = [
                self._subject.log_probability(self._subject.with_neutral(rows)).exp()
                for rows in replaced.split(self._subject.rows)
            ]
        return tuple(torch.cat(found).tolist())


def _area(shares: Sequence[float], values: Sequence[float]) -> float:
    points = pairwise(zip(shares, values, strict=True))
    return sum((right - left) * (one + other) / 2 for (left, one), (right, other) in points)


def _mean(curves: Sequence[Curve]) -> Curve:
    values = tuple(statistics.fmean(column) for column in zip(*(curve.values for curve in curves), strict=True))
    return Curve(shares=curves[0].shares, values=values, area=statistics.fmean(curve.area for curve in curves))


def _share(held: Any) -> float:
    return statistics.fmean(map(float, held))

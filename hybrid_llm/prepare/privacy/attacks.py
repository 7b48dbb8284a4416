"""Membership inference: how well somebody with the model tells records that it was tuned on from others.

The loss attack ranks records by how sure the model is of them (Yeom et al. 2018, arXiv:1709.01604). The calibrated
attack first takes off how sure models are that have not seen the record (Watson et al. 2022, arXiv:2111.08440); with
one variance for all records it is the offline likelihood-ratio attack, LiRA (Carlini et al. 2022, arXiv:2112.03570).
An attack that fails is no proof of privacy: a stronger one may succeed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.core.errors import ConfigError

FALSE_POSITIVES: Final = 0.01
"""The rate of false positives at which true ones are counted: an attack is a danger if it is sure of a few records."""
_LEAST: Final = 20
_SMALLEST: Final = 1e-12
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval by bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """How well an attack does.

    Attributes:
        auc: area under the ROC curve; 0.5 is guessing.
        tpr: true positives at 1 % false positives; 0.01 is guessing.
        curve: points of the ROC curve: false positives, true positives.
    """

    name: str
    members: int
    non_members: int
    auc: Interval
    tpr: Interval
    curve: tuple[tuple[float, float], ...]


def confidence(losses: Sequence[float]) -> Scores:
    """The logit of the probability that a model gives to each record, from its loss: log(p / (1 - p))."""
    loss = np.maximum(np.asarray(losses, dtype=np.float64), _SMALLEST)
    logit: Scores = -loss - np.log(-np.expm1(-loss))
    return logit


def attack(name: str, members: Scores, non_members: Scores, *, seed: int, draws: int = 1000) -> Attack:
    """Measure an attack by its scores, which are higher for records that it takes for members.

    Raises:
        ConfigError: there are too few records, or a score is not a number.
    """
    if min(len(members), len(non_members)) < _LEAST:
        message = f"membership inference needs at least {_LEAST} members and non-members: give more data"
        raise ConfigError(f"{message} ({len(members)} and {len(non_members)})")
    if not (np.isfinite(members).all() and np.isfinite(non_members).all()):
        raise ConfigError("the model gives losses that are not numbers: tune it again with a smaller learning rate")
    random = np.random.default_rng(seed)
    return Attack(
        name=name,
        members=len(members),
        non_members=len(non_members),
        auc=_interval(area, members, non_members, random, draws),
        tpr=_interval(true_positives, members, non_members, random, draws),
        curve=_curve(members, non_members),
    )


def area(members: Scores, non_members: Scores) -> float:
    """The probability that a member has a higher score than a non-member; equal ones count half (Mann and Whitney)."""
    ordered = np.sort(non_members)
    below = np.searchsorted(ordered, members, side="left")
    equal = np.searchsorted(ordered, members, side="right") - below
    return float((below + equal / 2).mean() / len(ordered))


def true_positives(members: Scores, non_members: Scores, rate: float = FALSE_POSITIVES) -> float:
    """The share of members above a threshold that at most *rate* of the non-members pass."""
    allowed = int(rate * len(non_members))
    threshold = np.sort(non_members)[len(non_members) - 1 - allowed]
    return float((members > threshold).mean())


def _interval(
    measure: Callable[[Scores, Scores], float],
    members: Scores,
    non_members: Scores,
    random: np.random.Generator,
    draws: int,
) -> Interval:
    def once() -> float:
        return measure(random.choice(members, len(members)), random.choice(non_members, len(non_members)))

    low, high = np.percentile([once() for _ in range(draws)], [2.5, 97.5])
    return Interval(measure(members, non_members), float(low), float(high))


def _curve(members: Scores, non_members: Scores) -> tuple[tuple[float, float], ...]:
    thresholds = np.unique(np.concatenate([members, non_members]))[::-1]
    false = 1 - np.searchsorted(np.sort(non_members), thresholds, side="left") / len(non_members)
    true = 1 - np.searchsorted(np.sort(members), thresholds, side="left") / len(members)
    return tuple((float(x), float(y)) for x, y in zip(false, true, strict=True))

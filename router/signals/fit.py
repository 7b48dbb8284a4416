"""A positive quantity learnt online from three numbers: a slow line and a fast pace. It knows nothing of requests.

The value is `pace * (w0 + w1 x1 + w2 x2 + w3 x3)` with weights that are never negative, so that it never falls when a
feature rises.

- The *weights* minimise the forgetting sum of squared relative errors, by one sweep of coordinate descent over the
  normal equations for each observation, cut off at zero (Franc, Hlavac and Navara, 2005, for non-negative least
  squares). An error beyond `_HUBER` times the usual one counts linearly (Huber, 1964).
- The *pace* multiplies all of it, follows each error by `_BLEND` and leaks back to 1 as the weights take over: a device
  that is hot or busy is slower at everything.
- When the value is more than twice or less than half of what was expected `_PATIENCE` times in a row, the world has
  changed: most of the past is dropped, and the weights are found anew.

The arithmetic is written out for four weights: it runs in every request, and loops would take four times as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

Features = tuple[float, float, float]
"""Each from 0; what a fit does not need is 0."""
Weights = tuple[float, float, float, float]
"""Of a constant 1 and the features."""

_FORGET: Final = 0.97
_BLEND: Final = 0.3
_LEAK: Final = 0.99
_HUBER: Final = 3.0
_LEAST_CUT: Final = 0.7
"""An error up to this share of the value always moves the pace in full, so that a step is followed at once."""
_LEAST_SCALE: Final = 0.02
_DAMP: Final = 1e-3
_FAR_OFF: Final = 1.0
"""The value is twice what was expected; on the other side, half of it."""
_PATIENCE: Final = 3
_KEEP: Final = 0.3
_MOST: Final = 1e9
_SLOWEST: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitState:
    """What a fit has learnt, small enough to keep: weights with the pace in them, the usual relative error, a count."""

    weights: Weights
    scale: float
    count: int


class Fit:
    """One quantity. Reading is safe from any thread; the owner keeps two from learning at once.

    *floor* is the least value that relative errors are taken of: below it a difference is noise of the clock.
    """

    def __init__(self, weights: Weights, *, floor: float) -> None:
        self._line = weights
        self._pace = 1.0
        self._gram = (0.0,) * 10  # the upper triangle, row by row
        self._moment = (0.0,) * 4
        self._floor = floor
        self._scale = 0.5
        self._streak = 0
        self.count = 0
        self.weights = weights
        """What `predict` uses, the pace included: replaced as a whole, never changed."""

    def predict(self, features: Features) -> float:
        """The expected value, finite and from 0."""
        w0, w1, w2, w3 = self.weights
        x1, x2, x3 = features
        return min(_MOST, w0 + w1 * x1 + w2 * x2 + w3 * x3)

    def learn(self, features: Features, value: float) -> None:
        """Take one observation; what is no number is left out."""
        if not 0.0 <= value < math.inf:
            return
        x1, x2, x3 = features
        w0, w1, w2, w3 = self._line
        target = min(value, _MOST) / self._pace
        base = w0 + w1 * x1 + w2 * x2 + w3 * x3
        error = (target - base) / max(base, self._floor)
        usual = _HUBER * self._scale
        self._notice_change(error)
        self._accumulate(features, target, self._weight(base, target, abs(error), usual))
        w0, w1, w2, w3 = self._line = self._descend()
        pace = self._follow(error, usual)
        self.count += 1
        self.weights = (pace * w0, pace * w1, pace * w2, pace * w3)

    def learn_at_least(self, features: Features, least: float) -> None:
        """Take a censored observation: the value was *least* or more, which says nothing if that was expected."""
        if least > self.predict(features):
            self.learn(features, least)

    def _notice_change(self, error: float) -> None:
        """Drop most of what was learnt when everything is far off, to the same side, for some time."""
        side = (error > _FAR_OFF) - (error < -_FAR_OFF / (1.0 + _FAR_OFF))
        self._streak = self._streak + side if side * self._streak >= 0 and side else side
        if abs(self._streak) > _PATIENCE:
            a00, a01, a02, a03, a11, a12, a13, a22, a23, a33 = (_KEEP * value for value in self._gram)
            self._gram = (a00, a01, a02, a03, a11, a12, a13, a22, a23, a33)
            b0, b1, b2, b3 = (_KEEP * value for value in self._moment)
            self._moment = (b0, b1, b2, b3)

    def _weight(self, base: float, target: float, error: float, usual: float) -> float:
        """How much an observation counts: relative errors, Huber's cut, and less where the guess was far too high."""
        high, low = max(base, self._floor), max(target, self._floor)
        cut = usual / error if error > usual else 1.0
        return cut / (high * math.sqrt(high * low))

    def _accumulate(self, features: Features, y: float, weight: float) -> None:
        """Forget a little of the normal equations, and add one observation."""
        x1, x2, x3 = features
        u1, u2, u3 = weight * x1, weight * x2, weight * x3
        a00, a01, a02, a03, a11, a12, a13, a22, a23, a33 = self._gram
        self._gram = (
            _FORGET * a00 + weight,
            _FORGET * a01 + u1,
            _FORGET * a02 + u2,
            _FORGET * a03 + u3,
            _FORGET * a11 + u1 * x1,
            _FORGET * a12 + u1 * x2,
            _FORGET * a13 + u1 * x3,
            _FORGET * a22 + u2 * x2,
            _FORGET * a23 + u2 * x3,
            _FORGET * a33 + u3 * x3,
        )
        b0, b1, b2, b3 = self._moment
        self._moment = (
            _FORGET * b0 + weight * y,
            _FORGET * b1 + u1 * y,
            _FORGET * b2 + u2 * y,
            _FORGET * b3 + u3 * y,
        )

    def _descend(self) -> Weights:
        """One sweep: each weight in turn goes to its best value for the others, but not below 0."""
        a00, a01, a02, a03, a11, a12, a13, a22, a23, a33 = self._gram
        b0, b1, b2, b3 = self._moment
        w0, w1, w2, w3 = self._line
        damp = _DAMP * 0.25 * (a00 + a11 + a22 + a33) + 1e-30
        w0 = _limited(w0 + (b0 - a00 * w0 - a01 * w1 - a02 * w2 - a03 * w3) / (a00 + damp))
        w1 = _limited(w1 + (b1 - a01 * w0 - a11 * w1 - a12 * w2 - a13 * w3) / (a11 + damp))
        w2 = _limited(w2 + (b2 - a02 * w0 - a12 * w1 - a22 * w2 - a23 * w3) / (a22 + damp))
        w3 = _limited(w3 + (b3 - a03 * w0 - a13 * w1 - a23 * w2 - a33 * w3) / (a33 + damp))
        return w0, w1, w2, w3

    def _follow(self, error: float, usual: float) -> float:
        step = _BLEND * max(-_LEAST_CUT, min(max(_LEAST_CUT, usual), error))
        pace: float = min(_SLOWEST, max(1.0 / _SLOWEST, self._pace * (1.0 + step))) ** _LEAK
        self._pace = pace
        blend = max(0.1, 1.0 / (self.count + 2))
        self._scale = max(_LEAST_SCALE, self._scale + blend * (min(abs(error), 2.0 * usual) - self._scale))
        return pace

    @property
    def state(self) -> FitState:
        """What has been learnt so far."""
        return FitState(weights=self.weights, scale=self._scale, count=self.count)

    def resume(self, state: FitState) -> None:
        """Begin from what another process learnt; it counts as a first guess that new observations overrule."""
        self._line, self._pace, self._scale = state.weights, 1.0, max(_LEAST_SCALE, state.scale)
        self.weights, self.count = state.weights, state.count


def _limited(weight: float) -> float:
    return 0.0 if weight < 0.0 else min(weight, _MOST)

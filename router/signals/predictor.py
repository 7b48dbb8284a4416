"""Predicts how long each backend takes, learnt online from the calls so far; a few numbers, no history.

Time to first token grows with the prompt, the active requests and the requests in the queue; time per output token with
the prompt. Each is a `Fit`, and each prediction is compared with the time that was then measured, so that rules and
people see how far to trust it. Formulas and measured errors are in docs/prediction.md.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hybrid_llm.core.generation import Chunk, Usage
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState

Features = tuple[float, float, float]
"""Each at least 0; a feature that a fit does not use is 0."""
Weights = tuple[float, float, float, float]
"""Of the constant 1 and the three features."""

_MAX: Final = 1e9
"""Bound of every weight and prediction."""
_PER_TOKENS: Final = 100.0
"""The unit of the prompt feature, tokens: it keeps the weights of a fit in one order of magnitude."""
_MAX_COUNT: Final = 10_000_000
_TTFT_FLOOR_MS: Final = 1.0
_TPOT_FLOOR_MS: Final = 0.1
_ERROR_WEIGHT: Final = 0.1
"""Weight of a new error in the published mean."""
_SLOW_READER: Final = 0.5
"""Above this share of the waiting time spent in the reader, the times are the reader's own."""
# The constants of a fit; see its docstring.
_FORGET: Final = 0.97
_BLEND: Final = 0.3
_LEAK: Final = 0.99
_HUBER: Final = 3.0
_MIN_CUT: Final = 0.7
"""An error up to this share of the value always moves the pace in full, so that a step is followed at once."""
_MIN_SCALE: Final = 0.02
_DAMP: Final = 1e-3
_FAR_OFF: Final = 1.0
"""The value is twice what was expected; on the other side, half of it."""
_PATIENCE: Final = 3
_KEEP: Final = 0.3
_MAX_PACE: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitState:
    """What a fit has learnt: weights with the pace included, the usual relative error, and the number of values."""

    weights: Weights
    scale: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is assumed before the first call, ms."""

    ttft_ms: Weights
    """A constant, and per 100 prompt tokens, active request and queued request."""
    tpot_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a predictor has learnt, for the start of another process."""

    ttft: FitState
    tpot: FitState


PRIORS: Final = {
    Location.EDGE: Prior(ttft_ms=(30.0, 100.0, 10.0, 100.0), tpot_ms=15.0),
    Location.CLOUD: Prior(ttft_ms=(150.0, 20.0, 5.0, 50.0), tpot_ms=25.0),
}


class LatencyPredictor:
    """The two fits of one backend and their errors. Thread-safe."""

    def __init__(self, prior: Prior) -> None:
        self._ttft = Fit(prior.ttft_ms, floor=_TTFT_FLOOR_MS)
        self._tpot = Fit((prior.tpot_ms, 0.0, 0.0, 0.0), floor=_TPOT_FLOOR_MS)
        self._ttft_error = _Error()
        self._tpot_error = _Error()
        self._lock = threading.Lock()

    def ttft_ms(self, prompt_tokens: int, state: BackendState) -> float:
        """Expected time to the first token of a prompt of *prompt_tokens*, for the load in *state*, ms."""
        return self._ttft.predict(_ttft_features(prompt_tokens, state))

    def tpot_ms(self, prompt_tokens: int) -> float:
        """Expected time per further token, ms."""
        return self._tpot.predict(_tpot_features(prompt_tokens))

    def ttft_error_ms(self, predicted_ms: float) -> float:
        """Mean absolute error of the latest predictions of the first token, ms; *predicted_ms* before the first one."""
        return self._ttft_error.mean if self._ttft_error.count else predicted_ms

    def tpot_error_ms(self, predicted_ms: float) -> float:
        """Mean absolute error of the latest predictions of further tokens, ms; *predicted_ms* before the first one."""
        return self._tpot_error.mean if self._tpot_error.count else predicted_ms

    @property
    def predictions(self) -> int:
        """The number of predictions that have been compared with a measured time."""
        return self._ttft_error.count

    def observe(
        self,
        prompt_tokens: int,
        state: BackendState,
        *,
        ttft_ms: float,
        tpot_ms: float | None = None,
        computed: float = 1.0,
    ) -> None:
        """Learn from an answer.

        Args:
            prompt_tokens: Tokens of the whole prompt.
            state: The backend at the time of the decision, with the predictions that the errors are taken of.
            ttft_ms: Measured time to the first token, ms.
            tpot_ms: Measured time per further token, ms; None where unknown.
            computed: Share of the prompt that took the time; the rest was in the backend's prefix cache.
        """
        with self._lock:
            self._ttft_error.add(state.predicted_ttft_ms - ttft_ms)
            self._ttft.learn(_ttft_features(round(prompt_tokens * computed), state), ttft_ms)
            if tpot_ms is not None:
                self._tpot_error.add(state.predicted_tpot_ms - tpot_ms)
                self._tpot.learn(_tpot_features(prompt_tokens), tpot_ms)

    def missed(self, prompt_tokens: int, state: BackendState, *, after_ms: float) -> None:
        """Learn from an attempt that ended *after_ms* without a first token, which would have taken longer than that.

        If an even longer time was expected, nothing is learnt: so an immediate rejection teaches nothing.
        """
        with self._lock:
            if after_ms > state.predicted_ttft_ms:
                self._ttft_error.add(after_ms - state.predicted_ttft_ms)
            features = _ttft_features(prompt_tokens, state)
            if after_ms > self._ttft.predict(features):
                self._ttft.learn(features, after_ms)

    @property
    def learned(self) -> Learned:
        """A snapshot of what has been learnt."""
        with self._lock:
            return Learned(ttft=self._ttft.state, tpot=self._tpot.state)

    def resume(self, learned: Learned) -> None:
        """Start from what an earlier process or a calibration has learnt."""
        with self._lock:
            self._ttft.resume(learned.ttft)
            self._tpot.resume(learned.tpot)


class _Error:
    """The mean absolute error: of all values at first, of about the last ten later."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0

    def add(self, error: float) -> None:
        size = min(abs(error), _MAX)
        if not math.isnan(size):
            self.count += 1
            self.mean += max(_ERROR_WEIGHT, 1.0 / self.count) * (size - self.mean)


def _ttft_features(prompt_tokens: int, state: BackendState) -> Features:
    """Prompt, active requests, and turns to wait: the queued requests, and one more if no slot is free."""
    return _count(prompt_tokens) / _PER_TOKENS, _count(state.active), _count(state.queue + (state.load >= 1.0))


def _tpot_features(prompt_tokens: int) -> Features:
    return _count(prompt_tokens) / _PER_TOKENS, 0.0, 0.0


def _count(number: int) -> int:
    return 0 if number < 0 else min(number, _MAX_COUNT)


class Fit:
    """A positive quantity learnt online from three features: `pace * (w0 + w1 x1 + w2 x2 + w3 x3)`.

    - The *weights* are never negative, so that the value never falls when a feature rises. They minimise the
      exponentially forgetting sum of squared relative errors, by one sweep of coordinate descent over the normal
      equations per observation, cut off at zero (Franc, Hlavac and Navara, 2005, for non-negative least squares). An
      error above `_HUBER` times the usual one counts linearly (Huber, 1964).
    - The *pace* follows each error by `_BLEND` and leaks back to 1 as the weights take over: a device that is hot or
      busy is slower at everything.
    - If values are more than twice or less than half of what was expected more than `_PATIENCE` times in a row, most of
      the past is dropped and the weights are found anew.

    The arithmetic is written out for four weights because it runs in every request, where loops would take four times
    as long. Reading is thread-safe; learning is not. *floor* is the least value that relative errors are taken of:
    below it a difference is noise of the clock.
    """

    def __init__(self, weights: Weights, *, floor: float) -> None:
        self._line = weights
        self._pace = 1.0
        self._sums: tuple[float, ...] = (0.0,) * 14  # of the normal equations: the upper triangle by rows, the moments
        self._floor = floor
        self._scale = 0.5
        self._streak = 0
        self.count = 0
        self.weights = weights
        """The weights with the pace included. The tuple is replaced as a whole, so any thread may read it."""

    def predict(self, features: Features) -> float:
        """The expected value: finite, at least 0."""
        w0, w1, w2, w3 = self.weights
        x1, x2, x3 = features
        return min(_MAX, w0 + w1 * x1 + w2 * x2 + w3 * x3)

    def learn(self, features: Features, value: float) -> None:
        """Add one observation; NaN, infinite and negative values are ignored."""
        if not 0.0 <= value < math.inf:
            return
        x1, x2, x3 = features
        w0, w1, w2, w3 = self._line
        target = min(value, _MAX) / self._pace
        base = w0 + w1 * x1 + w2 * x2 + w3 * x3
        error = (target - base) / max(base, self._floor)
        usual = _HUBER * self._scale
        self._notice_change(error)
        self._accumulate(features, target, self._weight(base, target, abs(error), usual))
        w0, w1, w2, w3 = self._line = self._descend()
        pace = self._follow(error, usual)
        self.count += 1
        self.weights = (pace * w0, pace * w1, pace * w2, pace * w3)

    def _notice_change(self, error: float) -> None:
        """Drop most of the past after several large errors in a row in one direction."""
        side = (error > _FAR_OFF) - (error < -_FAR_OFF / (1.0 + _FAR_OFF))
        self._streak = self._streak + side if side * self._streak >= 0 and side else side
        if abs(self._streak) > _PATIENCE:
            self._sums = tuple([_KEEP * value for value in self._sums])

    def _weight(self, base: float, target: float, error: float, usual: float) -> float:
        """The weight of an observation: for relative errors, with Huber's cut, lower for far too high a guess."""
        high, low = max(base, self._floor), max(target, self._floor)
        cut = usual / error if error > usual else 1.0
        return cut / (high * math.sqrt(high * low))

    def _accumulate(self, features: Features, y: float, weight: float) -> None:
        """Let the normal equations decay, and add one observation."""
        x1, x2, x3 = features
        u1, u2, u3 = weight * x1, weight * x2, weight * x3
        products = (weight, u1, u2, u3, u1 * x1, u1 * x2, u1 * x3, u2 * x2, u2 * x3, u3 * x3)
        added = (*products, weight * y, u1 * y, u2 * y, u3 * y)
        self._sums = tuple([_FORGET * old + new for old, new in zip(self._sums, added, strict=True)])

    def _descend(self) -> Weights:
        """One sweep of coordinate descent: each weight in turn moves to its optimum given the others, at least 0."""
        a00, a01, a02, a03, a11, a12, a13, a22, a23, a33, b0, b1, b2, b3 = self._sums
        w0, w1, w2, w3 = self._line
        damp = _DAMP * 0.25 * (a00 + a11 + a22 + a33) + 1e-30
        w0 = _limited(w0 + (b0 - a00 * w0 - a01 * w1 - a02 * w2 - a03 * w3) / (a00 + damp))
        w1 = _limited(w1 + (b1 - a01 * w0 - a11 * w1 - a12 * w2 - a13 * w3) / (a11 + damp))
        w2 = _limited(w2 + (b2 - a02 * w0 - a12 * w1 - a22 * w2 - a23 * w3) / (a22 + damp))
        w3 = _limited(w3 + (b3 - a03 * w0 - a13 * w1 - a23 * w2 - a33 * w3) / (a33 + damp))
        return w0, w1, w2, w3

    def _follow(self, error: float, usual: float) -> float:
        step = _BLEND * max(-_MIN_CUT, min(max(_MIN_CUT, usual), error))
        pace: float = min(_MAX_PACE, max(1.0 / _MAX_PACE, self._pace * (1.0 + step))) ** _LEAK
        self._pace = pace
        blend = max(0.1, 1.0 / (self.count + 2))
        self._scale = max(_MIN_SCALE, self._scale + blend * (min(abs(error), 2.0 * usual) - self._scale))
        return pace

    @property
    def state(self) -> FitState:
        """A snapshot of what has been learnt."""
        return FitState(weights=self.weights, scale=self._scale, count=self.count)

    def resume(self, state: FitState) -> None:
        """Start from *state* as a first guess, which new observations overrule."""
        self._line, self._pace, self._scale = state.weights, 1.0, max(_MIN_SCALE, state.scale)
        self.weights, self.count = state.weights, state.count


def _limited(weight: float) -> float:
    return 0.0 if weight < 0.0 else min(weight, _MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The times of one finished attempt, ms from its call; None where unknown."""

    elapsed_ms: float
    ttft_ms: float | None = None
    """None where no token arrived: the first one would have taken at least *elapsed_ms*."""
    tpot_ms: float | None = None
    """None also where the reader was so slow that the times are its own."""
    computed: float = 1.0
    """The share of the prompt that was not in the backend's prefix cache; 1 where it does not report that."""


class Stopwatch:
    """Times one attempt as its chunks pass: the first token, and each further one unless the reader was slow."""

    __slots__ = ("_began", "_clock", "_first", "_held", "_last", "_usage", "tokens")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self._first = self._held = 0.0
        self.tokens = 0
        self._usage: Usage | None = None

    def received(self, chunk: Chunk) -> None:
        """*chunk* arrived and goes to the reader."""
        now = self._last = self._clock()
        if not self._first:
            self._first = now
        self.tokens += chunk.tokens
        if chunk.usage is not None:
            self._usage = chunk.usage

    @property
    def has_first(self) -> bool:
        """Whether a chunk has arrived."""
        return self._first > 0.0

    def resumed(self) -> None:
        """The reader wants the next chunk: the time since the last one was its own."""
        self._held += self._clock() - self._last

    def measured(self) -> Measured:
        """The times of the attempt, which is over."""
        elapsed_ms = (self._clock() - self._began) * 1e3
        if not self._first:
            return Measured(elapsed_ms=elapsed_ms)
        # A reader that has left never resumes, so the time after its last chunk is in neither number.
        waited = self._last - self._first - self._held
        fluent = self.tokens > 1 and self._held <= _SLOW_READER * waited
        usage = self._usage or Usage()
        is_cached = 0 < usage.cached_prompt_tokens <= usage.prompt_tokens
        return Measured(
            elapsed_ms=elapsed_ms,
            ttft_ms=(self._first - self._began) * 1e3,
            tpot_ms=(self._last - self._first) * 1e3 / (self.tokens - 1) if fluent else None,
            computed=1.0 - usage.cached_prompt_tokens / usage.prompt_tokens if is_cached else 1.0,
        )

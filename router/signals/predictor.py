"""How long a backend will take, learnt online from how long it took: no history is kept, only a few numbers.

Time to first token grows with the prompt, with the requests at work and with those that wait; time per output token
with the prompt. Each is a `Fit`, and each prediction is held against what then happened, so that rules and people see
how far to trust it. Formulas and measured errors are in docs/prediction.md.

Times one attempt at its stream: how long the first token took, and each further one. It changes nothing of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hybrid_llm.core.generation import Chunk, Usage
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState
from hybrid_llm.router.signals.fit import Features, Fit, FitState

_SCALE: Final = 100.0
_MANY: Final = 10_000_000
_BLEND: Final = 0.1
_TTFT_FLOOR_MS: Final = 1.0
_TPOT_FLOOR_MS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is assumed before the first call, ms: to start, per prompt token, per request at work, per one waiting."""

    base_ms: float
    per_prompt_token_ms: float
    per_active_ms: float
    per_waiting_ms: float
    tpot_ms: float


PRIORS: Final = {
    Location.EDGE: Prior(base_ms=30.0, per_prompt_token_ms=1.0, per_active_ms=10.0, per_waiting_ms=100.0, tpot_ms=15.0),
    Location.CLOUD: Prior(base_ms=150.0, per_prompt_token_ms=0.2, per_active_ms=5.0, per_waiting_ms=50.0, tpot_ms=25.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a predictor has learnt, to begin with in another process."""

    ttft: FitState
    tpot: FitState


class LatencyPredictor:
    """One backend's two fits and their errors. Safe to use from any thread."""

    def __init__(self, prior: Prior) -> None:
        per_prompt = prior.per_prompt_token_ms * _SCALE
        line = (prior.base_ms, per_prompt, prior.per_active_ms, prior.per_waiting_ms)
        self._ttft = Fit(line, floor=_TTFT_FLOOR_MS)
        self._tpot = Fit((prior.tpot_ms, 0.0, 0.0, 0.0), floor=_TPOT_FLOOR_MS)
        self._ttft_error = _Error()
        self._tpot_error = _Error()
        self._lock = threading.Lock()

    def ttft_ms(self, prompt_tokens: int, state: BackendState) -> float:
        """Expected time to the first token of a prompt of *prompt_tokens* for the backend as *state* shows it, ms."""
        return self._ttft.predict(_ttft_features(prompt_tokens, state))

    def tpot_ms(self, prompt_tokens: int) -> float:
        """Expected time per further token, ms."""
        return self._tpot.predict(_tpot_features(prompt_tokens))

    def ttft_error_ms(self, predicted_ms: float) -> float:
        """How far off the latest predictions of the first token were, ms in the mean; at first *predicted_ms*."""
        mean = self._ttft_error.mean
        return predicted_ms if mean is None else mean

    def tpot_error_ms(self, predicted_ms: float) -> float:
        """How far off the latest predictions of further tokens were, ms in the mean; at first *predicted_ms*."""
        mean = self._tpot_error.mean
        return predicted_ms if mean is None else mean

    @property
    def predictions(self) -> int:
        """How many predictions have been held against what happened."""
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
        """Learn from an answer. *state* is the backend as it was predicted for; *tpot_ms* None where it is not known.

        Of the prompt the share *computed* took the time; the backend had read the rest before. The errors are those of
        the predictions in *state*, made before anything of this answer was known.
        """
        with self._lock:
            self._ttft_error.take(state.predicted_ttft_ms - ttft_ms)
            self._ttft.learn(_ttft_features(round(prompt_tokens * computed), state), ttft_ms)
            if tpot_ms is not None:
                self._tpot_error.take(state.predicted_tpot_ms - tpot_ms)
                self._tpot.learn(_tpot_features(prompt_tokens), tpot_ms)

    def missed(self, prompt_tokens: int, state: BackendState, *, after_ms: float) -> None:
        """Learn from an attempt that had no first token *after_ms*: it would have taken longer than that.

        One that was expected to take longer still says nothing, so a refusal after a moment teaches nothing.
        """
        with self._lock:
            if after_ms > state.predicted_ttft_ms:
                self._ttft_error.take(after_ms - state.predicted_ttft_ms)
            self._ttft.learn_at_least(_ttft_features(prompt_tokens, state), after_ms)

    @property
    def learned(self) -> Learned:
        """What has been learnt so far."""
        with self._lock:
            return Learned(ttft=self._ttft.state, tpot=self._tpot.state)

    def resume(self, learned: Learned) -> None:
        """Begin from what was learnt before, here or by a calibration."""
        with self._lock:
            self._ttft.resume(learned.ttft)
            self._tpot.resume(learned.tpot)


class _Error:
    """The mean of absolute errors: of all at first, of the last ten or so later."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: float | None = None

    def take(self, error: float) -> None:
        size = min(abs(error), 1e9)
        if size != size:
            return
        self.count += 1
        mean = self.mean or 0.0
        self.mean = mean + max(_BLEND, 1.0 / self.count) * (size - mean)


def _ttft_features(prompt_tokens: int, state: BackendState) -> Features:
    """Prompt, requests at work, turns to wait: those that wait, and one more where no slot is free."""
    return _count(prompt_tokens) / _SCALE, _count(state.active), _count(state.queue + (state.load >= 1.0))


def _tpot_features(prompt_tokens: int) -> Features:
    return _count(prompt_tokens) / _SCALE, 0.0, 0.0


def _count(number: int) -> int:
    return 0 if number < 0 else min(number, _MANY)


_HELD_UP: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One attempt that is over, in ms from its call; None is what is not known."""

    elapsed_ms: float
    ttft_ms: float | None = None
    """None where no token came: the first one would have taken *elapsed_ms* or more."""
    tpot_ms: float | None = None
    """None too where the reader was so slow that the times are its own."""
    computed: float = 1.0
    """The share of the prompt that the backend had not read before; 1 where it does not tell."""


class Stopwatch:
    """Times one attempt as its chunks pass: the first token, and each further one unless the reader was slow."""

    __slots__ = ("_began", "_clock", "_first", "_held", "_last", "_tokens", "_usage")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self._first = self._held = 0.0
        self._tokens = 0
        self._usage: Usage | None = None

    def received(self, chunk: Chunk) -> None:
        """*chunk* has come, and goes to the reader."""
        self._last = self._clock()
        self._first = self._first or self._last
        self._tokens += chunk.tokens
        self._usage = chunk.usage or self._usage

    def resumed(self) -> None:
        """The reader asks for the next chunk: the time since the last one was its own."""
        self._held += self._clock() - self._last

    def measured(self) -> Measured:
        """What there is to learn now that the attempt is over, however it ended."""
        elapsed_ms = (self._clock() - self._began) * 1e3
        if not self._first:
            return Measured(elapsed_ms=elapsed_ms)
        # A reader that has left does not ask again, so the time after its last chunk is in neither number.
        waited = self._last - self._first - self._held
        fluent = self._tokens > 1 and self._held <= _HELD_UP * waited
        return Measured(
            elapsed_ms=elapsed_ms,
            ttft_ms=(self._first - self._began) * 1e3,
            tpot_ms=(self._last - self._first) * 1e3 / (self._tokens - 1) if fluent else None,
            computed=_computed(self._usage),
        )


def _computed(usage: Usage | None) -> float:
    if usage is None or not 0 < usage.cached_prompt_tokens <= usage.prompt_tokens:
        return 1.0
    return 1.0 - usage.cached_prompt_tokens / usage.prompt_tokens

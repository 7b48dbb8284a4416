"""How long a backend will take, learnt online from how long it took: no history is kept, only six numbers.

Time to first token is a line in the number of prompt tokens, fitted by recursive least squares with forgetting (Haykin,
*Adaptive Filter Theory*, ch. 10), so that it follows a device that heats up or a node that fills. Time per output token
is an exponentially weighted mean.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.types import Location

__all__ = ["PRIORS", "LatencyPredictor", "Prior"]

_FORGET: Final = 0.97
_BLEND: Final = 0.3
_SCALE: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is assumed before the first call: ms to start, ms per prompt token, ms per output token."""

    base_ms: float
    per_prompt_token_ms: float
    tpot_ms: float


PRIORS: Final = {
    Location.EDGE: Prior(base_ms=30.0, per_prompt_token_ms=1.0, tpot_ms=15.0),
    Location.CLOUD: Prior(base_ms=150.0, per_prompt_token_ms=0.2, tpot_ms=25.0),
}


class LatencyPredictor:
    """One backend's line and mean. Safe to use from any thread."""

    def __init__(self, prior: Prior) -> None:
        self._base = prior.base_ms
        self._slope = prior.per_prompt_token_ms * _SCALE
        self._tpot = prior.tpot_ms
        self._cov = (4.0, 0.0, 4.0)  # upper triangle of the inverse information matrix
        self._lock = threading.Lock()

    def ttft_ms(self, prompt_tokens: int) -> float:
        """Expected time to the first token of a prompt of *prompt_tokens*, ms."""
        return max(0.0, self._base + self._slope * prompt_tokens / _SCALE)

    @property
    def tpot_ms(self) -> float:
        """Expected time per further token, ms."""
        return self._tpot

    def observe(self, *, prompt_tokens: int, ttft_ms: float, tpot_ms: float | None) -> None:
        """Learn from one finished answer. *tpot_ms* is None where fewer than two tokens came."""
        with self._lock:
            self._learn_line(prompt_tokens / _SCALE, ttft_ms)
            if tpot_ms is not None:
                self._tpot += _BLEND * (tpot_ms - self._tpot)

    def _learn_line(self, x: float, y: float) -> None:
        a, b, c = self._cov
        px, py = a + b * x, b + c * x
        denominator = _FORGET + px + x * py
        gain_base, gain_slope = px / denominator, py / denominator
        error = y - (self._base + self._slope * x)
        self._base += gain_base * error
        self._slope = max(0.0, self._slope + gain_slope * error)
        self._cov = tuple(  # type: ignore[assignment]  # three numbers in, three out
            min(4.0, value)
            for value in (
                (a - gain_base * px) / _FORGET,
                (b - gain_base * py) / _FORGET,
                (c - gain_slope * py) / _FORGET,
            )
        )

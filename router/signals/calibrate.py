"""Measures a backend briefly, so that its first predictions are no guesses. It sends only the words of one fixed text.

Prompts of three lengths are answered three times each with a few tokens, after one warm-up answer. Of the three times
the median counts, because a device also does other things.
"""

from __future__ import annotations

import logging
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.protocols import Backend, Detector
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.core.signals import BackendState
from hybrid_llm.policies import Policy
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.signals.predictor import PRIORS, LatencyPredictor, Learned, Measured, Stopwatch
from hybrid_llm.router.signals.store import PredictionStore

_log = logging.getLogger("hybrid_llm")

TEXT: Final = "The river runs from the hills to the sea, and boats carry wood and grain along it. "
"""All that a calibration ever sends: these words, shuffled and repeated."""

_REPEATS: Final = (1, 4, 12)
_TOKENS: Final = 12
_ANSWERS: Final = 3
_DEADLINE_S: Final = 60.0
_PASSES: Final = 30
"""How often the predictor learns from the same measurements: it learns slowly, and there are no others here."""

Clear = Callable[[Request, Location], Cleared]


def calibrate(backend: Backend, clear: Clear, clock: Callable[[], float] = time.monotonic) -> Learned:
    """Measure *backend*.

    Args:
        backend: The backend to measure.
        clear: Clears a request for a location, as the privacy guard does.

    Raises:
        BackendError, SecurityError: the backend does not answer.
    """
    lengths = _fitting(backend)
    _measure(backend, lengths[0], clear, clock)
    measured = [_median(backend, repeats, clear, clock) for repeats in lengths]
    idle = BackendState(name=backend.name, location=backend.location)
    predictor = LatencyPredictor(PRIORS[backend.location])
    for _ in range(_PASSES):
        for tokens, ttft_ms, tpot_ms in measured:
            predictor.observe(tokens, idle, ttft_ms=ttft_ms, tpot_ms=tpot_ms)
    return predictor.learned


def _median(
    backend: Backend, repeats: int, clear: Clear, clock: Callable[[], float]
) -> tuple[int, float, float | None]:
    """Prompt tokens, and the median TTFT and TPOT of several answers, ms."""
    answers = [_measure(backend, repeats, clear, clock) for _ in range(_ANSWERS)]
    firsts = [seen.ttft_ms for _, seen in answers if seen.ttft_ms is not None]
    further = [seen.tpot_ms for _, seen in answers if seen.tpot_ms is not None]
    return answers[0][0], statistics.median(firsts), statistics.median(further) if further else None


def _fitting(backend: Backend) -> list[int]:
    """The lengths that fit the context window, at least the shortest."""
    window = backend.capabilities.context_window or _request(backend, _REPEATS[-1]).prompt_tokens + _TOKENS
    fitting = [n for n in _REPEATS if _request(backend, n).prompt_tokens + _TOKENS <= window]
    return fitting or [_REPEATS[0]]


def _request(backend: Backend, repeats: int) -> Request:
    message = Message(role="user", content=_text(repeats))
    request = Request(messages=(message,), task="calibrate", max_tokens=_TOKENS, deadline=_DEADLINE_S)
    return replace(request, prompt_tokens=backend.count_tokens(request))


def _text(repeats: int) -> str:
    """The words in a new order, so that no prefix cache holds them."""
    words = TEXT.split()
    return " ".join(random.sample(words, len(words)) * repeats)


def _measure(backend: Backend, repeats: int, clear: Clear, clock: Callable[[], float]) -> tuple[int, Measured]:
    request, watch = _request(backend, repeats), Stopwatch(clock)
    for chunk in backend.stream(clear(request, backend.location)):
        watch.received(chunk)
    return request.prompt_tokens, watch.measured()


def calibrate_missing(
    backends: Iterable[Backend],
    store: PredictionStore,
    policy: Policy,
    names: frozenset[str],
    detectors: Iterable[Detector] = (),
) -> None:
    """Measure and store those of *names* on the device without stored predictions; skip one that fails."""
    detectors = tuple(detectors)
    for backend in backends:
        if backend.name not in names or backend.location is not Location.EDGE or store.load(backend.name):
            continue
        try:
            store.save(backend.name, calibrate(backend, clear_under(policy, detectors)))
        except HybridLLMError as error:
            _log.warning("%s could not be calibrated: %s", backend.name, type(error).__name__)


def clear_under(policy: Policy, detectors: Iterable[Detector] = ()) -> Clear:
    """Clear requests for a calibration under *policy*, with the built-in detectors and those of the client."""
    guard = PrivacyGuard(detectors)
    return lambda request, location: guard.clear(guard.assess(request, policy), location)

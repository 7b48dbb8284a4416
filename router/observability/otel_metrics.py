"""The metrics of requests by the names of OpenTelemetry's conventions for generative AI, and a few of ours.

Names, units and buckets are those of `client-inference.md` and `gen-ai-token-metrics.md` in
https://github.com/open-telemetry/semantic-conventions-genai (October 2026). The old names are those of version 1.41 of
https://github.com/open-telemetry/semantic-conventions, which dashboards may still use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context

from hybrid_llm.core.telemetry import Names
from hybrid_llm.router.observability.hooks import RequestEvent

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, Meter

Attributes = Mapping[str, str | int]
SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Buckets of the client's times, seconds."""
TOKENS: Final = tuple(4**power for power in range(14))
"""Buckets of token counts, to 67,108,864."""
_NEW: Final = "gen_ai.client.inference"
_OLD: Final = "gen_ai.client.operation"
_BEGINNINGS: Final[Mapping[Names, tuple[str, ...]]] = {"new": (_NEW,), "old": (_OLD,), "both": (_NEW, _OLD)}


@dataclass(frozen=True, slots=True)
class _Times:
    """The three histograms of times under one beginning of their names."""

    duration: Histogram
    first_chunk: Histogram
    further_chunk: Histogram

    @classmethod
    def of(cls, meter: Meter, beginning: str) -> _Times:
        def seconds(name: str, about: str) -> Histogram:
            return meter.create_histogram(
                f"{beginning}.{name}", unit="s", description=about, explicit_bucket_boundaries_advisory=SECONDS
            )

        return cls(
            seconds("duration", "Duration of a request, from the call to the whole answer or the error."),
            seconds("time_to_first_chunk", "Time from the call to the first chunk of the answer."),
            seconds("time_per_output_chunk", "Time from one chunk of an answer to the next."),
        )


class Instruments:
    """What is counted of requests. Thread-safe."""

    def __init__(self, meter: Meter, names: Names) -> None:
        def count(name: str, about: str, unit: str = "{token}") -> Callable[..., None]:
            return meter.create_counter(name, unit=unit, description=about).add

        def tokens(name: str, about: str) -> Callable[..., None]:
            return meter.create_histogram(
                name, unit="{token}", description=about, explicit_bucket_boundaries_advisory=TOKENS
            ).record

        self._times = [_Times.of(meter, beginning) for beginning in _BEGINNINGS[names]]
        self._new, self._old = names != "old", names != "new"
        self._decisions = count("hybrid_llm.decisions", "Decisions, by policy, rule and first backend.", "{decision}")
        self._attempts = count("hybrid_llm.attempts", "Calls of backends, by outcome.", "{attempt}")
        if self._new:
            self._input = count(f"{_NEW}.usage.input_tokens", "Tokens of prompts, cached ones included.")
            self._output = count(f"{_NEW}.usage.output_tokens", "Tokens of answers, reasoning included.")
            self._cached = count(f"{_NEW}.usage.cache_read.input_tokens", "Tokens of prompts found in a cache.")
            self._reasoning = count(f"{_NEW}.usage.reasoning.output_tokens", "Tokens of reasoning.")
            self._inputs = tokens(f"{_NEW}.operation.input_tokens", "Tokens of the prompt of a request.")
            self._outputs = tokens(f"{_NEW}.operation.output_tokens", "Tokens of the answer to a request.")
        if self._old:
            self._usage = tokens("gen_ai.client.token.usage", "Tokens of prompts and answers.")

    def chunk_times(self, attributes: Attributes) -> Callable[[float], None]:
        """What records the seconds until each further chunk of one call; without exemplars, which would cost 4 us."""
        histograms, nowhere = [each.further_chunk for each in self._times], Context()

        def record(seconds: float) -> None:
            for each in histograms:
                each.record(seconds, attributes, nowhere)

        return record

    def take(self, event: RequestEvent, attributes: Attributes, error: str, context: Context | None) -> None:
        """Count a request that is over; *error* is `error.type`, empty for none."""
        self._take_decision(event)
        if event.cached:
            return
        ended = {**attributes, "error.type": error} if error else attributes
        for each in self._times:
            each.duration.record(event.timings.total_ms / 1e3, ended, context)
            if event.timings.ttft_ms:
                each.first_chunk.record(event.timings.ttft_ms / 1e3, attributes, context)
        if self._new:
            self._take_tokens(event, attributes, ended, context)
        if self._old and event.backend:
            for kind, number in (("input", event.usage.prompt_tokens), ("output", event.usage.completion_tokens)):
                self._usage(number, {**attributes, "gen_ai.token.type": kind}, context)

    def _take_decision(self, event: RequestEvent) -> None:
        decision = event.decision
        names = {"hybrid_llm.policy": decision.policy, "hybrid_llm.rule": decision.rule}
        self._decisions(1, names | {"hybrid_llm.backend": decision.first})
        for attempt in event.attempts:
            outcome = "cancelled" if attempt.error == "Cancelled" else attempt.error or "ok"
            self._attempts(1, {"hybrid_llm.backend": attempt.backend, "hybrid_llm.outcome": outcome})

    def _take_tokens(
        self, event: RequestEvent, attributes: Attributes, ended: Attributes, context: Context | None
    ) -> None:
        """Of a request that failed no backend has reported the usage, so that 0 is counted."""
        usage = event.usage
        counted = {**attributes, "gen_ai.token.modality": "text" if event.backend else "unknown"}
        read, written = (usage.prompt_tokens, usage.completion_tokens) if event.backend else (0, 0)
        self._input(read, counted, context)
        self._output(written, counted, context)
        if usage.cached_prompt_tokens:
            self._cached(usage.cached_prompt_tokens, counted, context)
        if usage.reasoning_tokens:
            self._reasoning(usage.reasoning_tokens, counted, context)
        self._inputs(read, ended, context)
        self._outputs(written, ended, context)

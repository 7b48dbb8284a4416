"""How well time to first token and time per token are predicted, beside floors, on recorded runs.

    python -m benchmarks predictor [--trace FILE] [--quick]

The runs are made here (see `_predictor_runs`): the embedded edge model and a node on loopback, with prompts of 2 to
512 tokens, 1 to 12 callers, queues, and two processes that burn the processors for a while. Each contender then
sees the same observations in the same order, and predicts each before it learns it. `--trace` stores or reuses a
recording.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks._predictor_runs import PHASES, SMALLEST, Observation, edge_run, load, node_run, save
from benchmarks._run import parsed, parser
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState
from hybrid_llm.router.signals.predictor import PRIORS, LatencyPredictor

FIRST = 30.0


class Contender(Protocol):
    """Predicts one number of an observation, then learns it."""

    def predict(self, seen: Observation) -> float: ...

    def learn(self, seen: Observation, value: float) -> None: ...


class LastValue:
    """Predicts the last value."""

    def __init__(self) -> None:
        self.value = FIRST

    def predict(self, seen: Observation) -> float:  # noqa: ARG002  # it looks at nothing
        return self.value

    def learn(self, seen: Observation, value: float) -> None:  # noqa: ARG002  # as above
        self.value = value


class Mean(LastValue):
    """Predicts the mean of all values so far."""

    count = 0

    def learn(self, seen: Observation, value: float) -> None:  # noqa: ARG002  # as above
        self.count += 1
        self.value += (value - self.value) / self.count


class MovingMean(LastValue):
    """The exponentially weighted mean, which was what version 0.1 used for time per token."""

    def learn(self, seen: Observation, value: float) -> None:  # noqa: ARG002  # as above
        self.value += 0.3 * (value - self.value)


class Recursive:
    """What version 0.1 used for the first token: a line in the prompt, by recursive least squares with forgetting."""

    def __init__(self) -> None:
        self.base, self.slope, self.cov = FIRST, 100.0, (4.0, 0.0, 4.0)

    def predict(self, seen: Observation) -> float:
        return max(0.0, self.base + self.slope * seen.prompt_tokens / 100.0)

    def learn(self, seen: Observation, value: float) -> None:
        x = seen.prompt_tokens / 100.0
        a, b, c = self.cov
        px, py = a + b * x, b + c * x
        denominator = 0.97 + px + x * py
        gain, tilt = px / denominator, py / denominator
        error = value - (self.base + self.slope * x)
        self.base += gain * error
        self.slope = max(0.0, self.slope + tilt * error)
        self.cov = (
            min(4.0, (a - gain * px) / 0.97),
            min(4.0, (b - gain * py) / 0.97),
            min(4.0, (c - tilt * py) / 0.97),
        )


class Ours:
    """`LatencyPredictor`, from its cold start."""

    def __init__(self, kind: str) -> None:
        self.predictor, self.kind = LatencyPredictor(PRIORS[Location.EDGE]), kind

    def predict(self, seen: Observation) -> float:
        if self.kind == "tpot":
            return self.predictor.tpot_ms(seen.prompt_tokens)
        return self.predictor.ttft_ms(seen.prompt_tokens, state_of(seen))

    def learn(self, seen: Observation, value: float) -> None:
        tpot_ms = value if self.kind == "tpot" else None
        self.predictor.observe(seen.prompt_tokens, state_of(seen), ttft_ms=seen.ttft_ms, tpot_ms=tpot_ms)


def state_of(seen: Observation) -> BackendState:
    return BackendState(name="backend", location=Location.EDGE, active=seen.active, queue=seen.queue, load=seen.load)


def score(run: Sequence[Observation], contender: Contender, kind: str) -> tuple[float, float, float]:
    """Mean absolute error in ms, mean and median absolute error in percent, each before the value was known."""
    errors, shares = [], []
    for seen in run:
        value = seen.ttft_ms if kind == "ttft" else seen.tpot_ms
        if value is None:
            continue
        error = abs(contender.predict(seen) - value)
        errors.append(error)
        shares.append(100.0 * error / max(value, 0.1))
        contender.learn(seen, value)
    return statistics.mean(errors), statistics.mean(shares), statistics.median(shares)


CONTENDERS: dict[str, dict[str, Callable[[], Contender]]] = {
    "ttft": {
        "hybrid-llm": lambda: Ours("ttft"),
        "version 0.1 (RLS on the prompt)": Recursive,
        "moving mean": MovingMean,
        "last value": LastValue,
        "global mean": Mean,
    },
    "tpot": {
        "hybrid-llm": lambda: Ours("tpot"),
        "version 0.1 (moving mean)": MovingMean,
        "last value": LastValue,
        "global mean": Mean,
    },
}


def cost_us(times: int) -> tuple[float, float]:
    """CPU of one prediction and of one observation, microseconds: the best of seven rounds."""
    predictor = LatencyPredictor(PRIORS[Location.EDGE])
    state = BackendState(name="edge", location=Location.EDGE, active=1, load=0.5, predicted_ttft_ms=30.0)

    def best(work: Callable[[], object]) -> float:
        rounds = []
        for _ in range(7):
            began = time.process_time()
            for _ in range(times):
                work()
            rounds.append((time.process_time() - began) / times * 1e6)
        return min(rounds)

    predicting = best(lambda: (predictor.ttft_ms(100, state), predictor.tpot_ms(100)))
    return predicting, best(lambda: predictor.observe(100, state, ttft_ms=20.0, tpot_ms=3.0))


def runs_of(options: argparse.Namespace) -> dict[str, list[Observation]]:
    if options.trace is not None and options.trace.exists():
        return load(options.trace)
    phases = SMALLEST if options.smoke else PHASES[:3] if options.quick else PHASES
    runs = {"edge": edge_run(phases), "node": node_run(phases)}
    if options.trace is not None:
        save(options.trace, runs)
    return runs


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--trace", type=Path, help="store the recording here, or reuse the one that is here")
    made.add_argument("--quick", action="store_true", help="three phases instead of seven")
    options = parsed(made)
    runs = runs_of(options)
    for kind, contenders in CONTENDERS.items():
        print(f"\n{kind.upper():34}" + "".join(f"{f'{name} ({len(run)} answers)':>34}" for name, run in runs.items()))
        print(f"{'':34}" + f"{'MAE':>12}{'MAPE':>10}{'median':>12}" * len(runs))
        for name, make in contenders.items():
            cells = [score(run, make(), kind) for run in runs.values()]
            print(f"{name:34}" + "".join(f"{mae:9.2f} ms{mape:8.0f} %{median:10.0f} %" for mae, mape, median in cells))
    predicting, observing = cost_us(50 if options.smoke else 5000)
    print(f"\nCPU: {predicting:.1f} us for one prediction of both, {observing:.1f} us to learn from one answer")


if __name__ == "__main__":
    main()

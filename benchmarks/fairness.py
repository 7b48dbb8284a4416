"""What one flooding client costs another on a node's engine, in the processor time until the other has its answer.

The control is a process that burns the same processor: the system gives it half, so an answer takes twice as long as
alone. Time of the processor, and not on the clock, is what neighbours on the machine distort least; each answer under a
flood is measured beside one on an engine without a flood.

python -m benchmarks fairness                # 16 prompts of 1,000 tokens, then 40 long answers, always kept queued
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks._run import ROOT, parsed, parser
from hybrid_llm.backends.node.engine import EngineConfig, EngineOutput, EngineRequest
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.engines.loop import LoopEngine

MODEL = ROOT / "examples" / "models" / "hybrid-demo-node"
BETWEEN = 5
"""Steps between an answer and the next request of the client that is measured: the flood has the engine alone."""


@dataclass(frozen=True, slots=True)
class Load:
    """*count* requests at a time, of so many tokens of *prompt* and of *answer*."""

    count: int
    prompt: int
    answer: int


HONEST = Load(1, 24, 24)
FLOODS = {"16 prompts of 1,000 tokens": Load(16, 1000, 4), "40 answers of 500 tokens": Load(40, 24, 500)}


class Trial:
    """One client asks again and again; the other keeps its requests queued."""

    def __init__(self, model: Path, flood: Load | None) -> None:
        self._engine: LoopEngine = load_engine(
            EngineConfig(model=model, threads=1, kv_tokens=16 * 2048, max_waiting=4096)
        )
        self._load = flood
        self._numbers = itertools.count()
        self._flood: set[str] = set()

    def seconds(self) -> float:
        """Seconds of the processor until the honest client has its next answer.

        A request comes, on average, in the middle of a step of the flood.
        """
        waited = [self._timed_step() for _ in range(BETWEEN if self._load else 0)]
        asked, begun = self._submit("honest", HONEST), time.process_time()
        while not any(output.last and output.request_id == asked for output in self._step()):
            pass
        return time.process_time() - begun + sum(waited[-1:]) / 2

    def _timed_step(self) -> float:
        begun = time.process_time()
        self._step()
        return time.process_time() - begun

    def _submit(self, client: str, load: Load) -> str:
        number = next(self._numbers)
        ids = tuple(5 + (number * 31 + position * 7) % 200 for position in range(load.prompt))
        request = EngineRequest(request_id=str(number), prompt_ids=ids, max_tokens=load.answer, client=client)
        self._engine.submit(request)
        return request.request_id

    def _step(self) -> list[EngineOutput]:
        while self._load and len(self._flood) < self._load.count:
            self._flood.add(self._submit("flood", self._load))
        outputs = self._engine.step()
        self._flood -= {output.request_id for output in outputs if output.last}
        return outputs


def measure(name: str, flood: Load, rounds: int) -> None:
    """Print the medians of *rounds* answers alone and beside *flood*."""
    alone, flooded = Trial(MODEL, None), Trial(MODEL, flood)
    for trial in (alone, flooded):
        trial.seconds()
    pairs = [(alone.seconds(), flooded.seconds()) for _ in range(rounds)]
    control, beside = (1e3 * statistics.median(each) for each in zip(*pairs, strict=True))
    control *= 2
    print(f"{name:28}{control / 2:9.0f} ms{control:9.0f} ms{beside:9.0f} ms{beside / control - 1:+9.0%}", flush=True)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=30)
    options = parsed(made)
    print(f"{'flood':28}{'alone':>12}{'control':>12}{'flooded':>12}{'':>9}")
    for name, flood in FLOODS.items():
        measure(name, flood, 2 if options.smoke else options.rounds)


if __name__ == "__main__":
    main()

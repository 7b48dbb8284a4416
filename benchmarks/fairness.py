"""What one flooding client costs another on a node's engine, in the processor time until the other has its answer.

The control is a process that burns the same processor: the system gives it half, so an answer takes twice as long as
alone. Time of the processor, and not on the clock, is what neighbours on the machine distort least; each answer under a
flood is measured beside one on an engine without a flood.

python -m benchmarks fairness                # 16 prompts of 1,000 tokens, then 40 long answers, always kept queued
python -m benchmarks fairness --grpc         # the same on a node, over gRPC, each client with a certificate of its own
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks._run import ROOT, parsed, parser
from benchmarks._served import Load, Served
from hybrid_llm.backends.node.engine import EngineConfig, EngineOutput, EngineRequest
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.engines.loop import LoopEngine

MODEL = ROOT / "examples" / "models" / "hybrid-demo-node"
BETWEEN = 5
"""Steps between an answer and the next request of the client that is measured: the flood has the engine alone."""


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


def measure(name: str, alone: Callable[[], float], flooded: Callable[[], float], rounds: int) -> None:
    """Print the medians of *rounds* answers *alone* and beside the flood *name*, each the seconds of one."""
    for first in (alone, flooded):
        first()
    pairs = [(alone(), flooded()) for _ in range(rounds)]
    control, beside = (1e3 * statistics.median(each) for each in zip(*pairs, strict=True))
    control *= 2
    print(f"{name:28}{control / 2:9.0f} ms{control:9.0f} ms{beside:9.0f} ms{beside / control - 1:+9.0%}", flush=True)


def in_process(name: str, flood: Load, options: argparse.Namespace) -> None:
    """Measure an engine in this process."""
    measure(name, Trial(MODEL, None).seconds, Trial(MODEL, flood).seconds, options.rounds)


def over_grpc(name: str, flood: Load, options: argparse.Namespace) -> None:
    """Measure `hybrid-llm serve`, its front and its engine together, with the clients in processes of their own."""
    with ExitStack() as stack:
        alone, flooded = (stack.enter_context(Served(MODEL)) for _ in range(2))
        flooded.flood(flood)
        measure(name, lambda: alone.seconds(HONEST), lambda: flooded.seconds(HONEST), options.rounds)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=30)
    made.add_argument("--grpc", action="store_true", help="through a node, over gRPC")
    made.add_argument("--only", choices=list(FLOODS), help="one of the floods")
    options = parsed(made)
    if options.smoke:
        options.rounds = 2
    print(f"{'flood':28}{'alone':>12}{'control':>12}{'flooded':>12}{'':>9}")
    for name, flood in FLOODS.items():
        if options.only in {None, name}:
            (over_grpc if options.grpc else in_process)(name, flood, options)


if __name__ == "__main__":
    main()

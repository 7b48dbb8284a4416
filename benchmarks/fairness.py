"""What one flooding client costs another on a node's engine, in the processor time until the other has its answer.

The control is a process that burns the same processor: the system gives it half, so an answer takes twice as long as
alone. Time of the processor, and not on the clock, is what neighbours on the machine distort least; each answer under a
flood is measured beside one on an engine without a flood.

python -m benchmarks fairness                # 16 prompts of 1,000 tokens, then 40 long answers, always kept queued
python -m benchmarks fairness --grpc         # the same on a node, over gRPC, each client with a certificate of its own
python -m benchmarks fairness --tenants      # three tenants beside the flood of a fourth, and beside its share
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
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
SMALLEST = {"2 prompts of 100 tokens": Load(2, 100, 4)}


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


@dataclass(frozen=True, slots=True)
class Tenants:
    """Three tenants that keep so many *requests* in flight, and a fourth one with its *share*; the *weights* of all."""

    requests: tuple[int, int, int]
    share: int
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)


TENANTS = {
    "2 requests each": Tenants((2, 2, 2), 2),
    "1 request each": Tenants((1, 1, 1), 1),
    "2, 1 and 1 requests": Tenants((2, 1, 1), 2),
    "4, 1 and 1 by weight, 0.5 floods": Tenants((4, 1, 1), 1, (4.0, 1.0, 1.0, 0.5)),
    "1 each, the one of weight 4 floods": Tenants((1, 1, 1), 4, (0.5, 1.0, 1.0, 4.0)),
}
FLOOD = Load(40, 40, 30)
"""What the fourth tenant keeps queued in place of its share."""


class Answers:
    """The answers of three tenants on an engine of some *slots*, whose clock is the time of the processor.

    All is measured on one engine: the memory that another one gets may make it some per cent slower.
    """

    def __init__(self, tenants: Tenants, slots: int) -> None:
        config = EngineConfig(model=MODEL, threads=1, max_slots=slots, kv_tokens=slots * 2048, max_waiting=4096)
        self._engine = load_engine(config)
        self._weights = tenants.weights
        self._requests = tenants.requests
        self._sent = [0] * 4
        self._flying: dict[str, tuple[int, float]] = {}
        self._now = 0.0

    def means(self, answers: int, *, fourth: int) -> list[float]:
        """The mean seconds of *answers* of each of the three, while the fourth keeps so many requests in flight."""
        took: list[list[float]] = [[], [], []]
        self._drop(fourth)
        begin = self._now
        while min(map(len, took)) < answers:
            self._fill(fourth)
            begun = time.process_time()
            outputs = self._engine.step()
            self._now += time.process_time() - begun
            for output in outputs:
                if output.last:
                    tenant, at = self._flying.pop(output.request_id)
                    if tenant < len(took) and at > begin:  # not what was asked before
                        took[tenant].append(self._now - at)
        return [statistics.fmean(each[:answers]) for each in took]

    def _drop(self, most: int) -> None:
        """Abort what the fourth tenant has in flight beyond *most*."""
        for request_id in [each for each, (tenant, _) in self._flying.items() if tenant == 3][most:]:
            self._engine.abort(request_id)
            del self._flying[request_id]

    def _fill(self, fourth: int) -> None:
        for tenant, wanted in enumerate((*self._requests, fourth)):
            for _ in range(wanted - sum(each == tenant for each, _ in self._flying.values())):
                self._submit(tenant)

    def _submit(self, tenant: int) -> None:
        self._sent[tenant] += 1
        number = 7 * self._sent[tenant] + 5 * tenant
        prompt, answer = (FLOOD.prompt, FLOOD.answer) if tenant == 3 else (5 + number % 40, 5 + number % 27)
        request = EngineRequest(
            request_id=f"{tenant} {self._sent[tenant]}",
            prompt_ids=tuple(5 + (number * 31 + position * 7) % 200 for position in range(prompt)),
            max_tokens=answer,
            client=str(tenant),
            weight=self._weights[tenant],
        )
        self._flying[request.request_id] = (tenant, self._now)
        self._engine.submit(request)


def beside_a_flood(name: str, tenants: Tenants, rounds: int, slots: int) -> None:
    """Print the mean time of an answer beside the share of the fourth tenant and its flood, and the worst."""
    tried = Answers(tenants, slots)
    pairs = [(tried.means(3, fourth=tenants.share), tried.means(3, fourth=FLOOD.count)) for _ in range(rounds + 1)][1:]
    control, beside = (
        [statistics.fmean(each) for each in zip(*runs, strict=True)] for runs in zip(*pairs, strict=True)
    )
    worst = max(after / before for before, after in zip(control, beside, strict=True)) - 1
    print(
        f"{name:36}{1e3 * statistics.fmean(control):9.0f} ms{1e3 * statistics.fmean(beside):9.0f} ms{worst:+9.0%}",
        flush=True,
    )


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
    made.add_argument("--tenants", action="store_true", help="three tenants beside a fourth that floods")
    made.add_argument("--slots", type=int, default=8, help="of the engine of --tenants")
    options = parsed(made)
    if options.smoke:
        options.rounds = 1
    if options.tenants:
        print(f"{'others':36}{'control':>12}{'flooded':>12}{'worst':>9}")
        for name, tenants in TENANTS.items():
            beside_a_flood(name, tenants, options.rounds, options.slots)
        return
    print(f"{'flood':28}{'alone':>12}{'control':>12}{'flooded':>12}{'':>9}")
    for name, flood in (SMALLEST if options.smoke else FLOODS).items():
        if options.smoke or options.only in {None, name}:
            (over_grpc if options.grpc else in_process)(name, flood, options)


if __name__ == "__main__":
    main()

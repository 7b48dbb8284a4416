"""What one flooding client costs another on a node's engine, in the processor time until the other has its answer.

The control is a process that burns the same processor: the system gives it half, so an answer takes twice as long as
alone. Time of the processor, and not on the clock, is what neighbours on the machine distort least.

python -m benchmarks fairness                # 16 prompts of 1,000 tokens, then 40 long answers, always kept queued
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial

from benchmarks._run import ROOT, parsed, parser
from hybrid_llm.backends.node.engine import EngineConfig, EngineOutput, EngineRequest
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.engines.loop import LoopEngine

MODEL = ROOT / "examples" / "models" / "hybrid-demo-node"
HONEST = (24, 24)
"""Tokens of prompt and of answer of the client that is measured."""
FLOODS = {"16 prompts of 1,000 tokens": (16, 1000, 4), "40 answers of 500 tokens": (40, 24, 500)}


class Trial:
    """One client asks again and again; the other keeps its requests queued."""

    def __init__(self, engine: LoopEngine) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        self._flood: set[str] = set()

    def _submit(self, client: str, prompt: int, answer: int) -> str:
        number = next(self._numbers)
        ids = tuple(5 + (number * 31 + position * 7) % 200 for position in range(prompt))
        request = EngineRequest(request_id=str(number), prompt_ids=ids, max_tokens=answer, client=client)
        self._engine.submit(request)
        return request.request_id

    def seconds(self, flood: tuple[int, int, int]) -> float:
        """Seconds of the processor until the honest client has its next answer; *flood*: requests, prompt, answer."""
        self._fill(flood)
        asked, begun = self._submit("honest", *HONEST), time.process_time()
        while not any(output.last and output.request_id == asked for output in self._step()):
            self._fill(flood)
        return time.process_time() - begun

    def _step(self) -> list[EngineOutput]:
        outputs = self._engine.step()
        self._flood -= {output.request_id for output in outputs if output.last}
        return outputs

    def _fill(self, flood: tuple[int, int, int]) -> None:
        count, prompt, answer = flood
        while len(self._flood) < count:
            self._flood.add(self._submit("flood", prompt, answer))

    def drain(self) -> None:
        """End what the flood has left."""
        for request_id in self._flood:
            self._engine.abort(request_id)
        self._flood.clear()


def median_ms(call: Callable[[], float], rounds: int) -> float:
    """Median of *rounds* calls, milliseconds."""
    return statistics.median(1e3 * call() for _ in range(rounds))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=60)
    options = parsed(made)
    rounds = 3 if options.smoke else options.rounds
    trial = Trial(load_engine(EngineConfig(model=MODEL, threads=1, kv_tokens=16 * 2048, max_waiting=4096)))
    none = (0, 0, 0)
    trial.seconds(none)
    alone = median_ms(partial(trial.seconds, none), rounds)
    print(f"{'alone':32}{alone:9.1f} ms", flush=True)
    print(f"{'control, half of a processor':32}{2 * alone:9.1f} ms", flush=True)
    for name, flood in FLOODS.items():
        flooded = median_ms(partial(trial.seconds, flood), rounds)
        print(f"{name:32}{flooded:9.1f} ms, {flooded / (2 * alone) - 1:+.0%} beside the control", flush=True)
        trial.drain()


if __name__ == "__main__":
    main()

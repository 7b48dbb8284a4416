"""Parts of a run in processes of their own, each with a world of its own, some beside each other."""

from __future__ import annotations

import _thread
import logging
import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Protocol

from tests.chaos.engines import DISK_FULL, ENGINES, SERVED
from tests.chaos.faults import Fault, RollingRestart
from tests.chaos.outages import OUTAGES, SETTINGS, Cost, Setting, cost
from tests.chaos.real import EngineKilled, EngineOutOfMemory, RealWorld
from tests.chaos.report import Row
from tests.chaos.suite import FAULTS, play
from tests.chaos.world import World


class RealRollingRestart(RollingRestart):
    """As `hybrid-llm serve` restarts, which loads a model first."""

    name = "rolling restart*"
    note = "* hybrid-llm serve"


REAL: tuple[type[Fault], ...] = (RealRollingRestart, EngineKilled, EngineOutOfMemory)
NAMES = tuple(kind.name for kind in (*FAULTS, *REAL))


@dataclass(frozen=True, slots=True)
class Rows:
    """Faults of the exact world, or of the real one, under traffic."""

    names: Sequence[str]
    requests: int
    seed: int
    real: bool

    def run(self) -> Iterator[Row]:
        kinds = [kind for kind in (REAL if self.real else FAULTS) if kind.name in self.names]
        with RealWorld(nodes=2) if self.real else World() as world:
            yield from play(world, kinds, requests=self.requests, seed=self.seed)


@dataclass(frozen=True, slots=True)
class Costs:
    """Every outage in one setting."""

    setting: Setting

    def run(self) -> Iterator[Cost]:
        if self.setting not in SERVED:
            with World(nodes=self.setting.nodes) as world:
                yield from (cost(world, outage, self.setting) for outage in OUTAGES)
            return
        with RealWorld(nodes=self.setting.nodes) as world:
            world.learn()
            for outage in ENGINES:
                if world.has_disk or outage is not DISK_FULL:
                    yield cost(world, outage, self.setting)


def rows(names: Sequence[str], *, requests: int, seed: int, jobs: int) -> Iterator[Row]:
    """Each of the faults *names*, as they end."""
    exact, real = ([kind.name for kind in kinds if kind.name in names] for kinds in (FAULTS, REAL))
    size = -(-len(exact) // jobs) or 1
    parts = [Rows(exact[first : first + size], requests, seed, False) for first in range(0, len(exact), size)]
    parts += [Rows([name], requests, seed, True) for name in real]
    yield from run_parts(parts, jobs)


def costs(jobs: int) -> Iterator[Cost]:
    """Every outage in every setting, as they end."""
    yield from run_parts([Costs(setting) for setting in (*SETTINGS, *SERVED)], jobs)


class Part(Protocol):
    """What a process of its own does. It can be pickled, as its results can."""

    def run(self) -> Iterator[object]: ...


def run_parts(parts: Sequence[Part], jobs: int) -> Iterator:
    """The results of all *parts*, *jobs* at a time, as they come.

    Raises:
        RuntimeError: the process of one ended with an error, which it has printed.
    """
    spawning = multiprocessing.get_context("spawn")
    results: SimpleQueue = spawning.SimpleQueue()

    def run(part: Part) -> None:
        process = spawning.Process(target=_work, args=(part, results))
        process.start()
        process.join()
        results.put(_Ended(process.exitcode or 0))

    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(run, part) for part in parts]
        while running:
            result = results.get()
            if not isinstance(result, _Ended):
                yield result
            elif result.code:
                raise RuntimeError(f"a part of the run ended with {result.code}")
            else:
                running.pop()


@dataclass(frozen=True, slots=True)
class _Ended:
    """A part has ended: its process had this exit code."""

    code: int


def _work(part: Part, results: SimpleQueue) -> None:
    logging.getLogger("hybrid_llm").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for result in part.run():
        results.put(result)


def _end_with_parent() -> None:
    """Clear up if the whole run is given up."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _thread.interrupt_main()

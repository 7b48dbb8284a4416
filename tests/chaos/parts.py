"""Runs parts of work in processes of their own, which import no more than their part needs."""

from __future__ import annotations

import _thread
import logging
import multiprocessing
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Protocol


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


@dataclass(frozen=True, slots=True)
class Counting:
    """A part with so many results, which then fails if it should."""

    results: int
    fails: bool = False

    def run(self) -> Iterator[int]:
        yield from range(self.results)
        if self.fails:
            sys.exit("as planted")

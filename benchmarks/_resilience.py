"""Shared by the benchmarks of resilience: clients, concurrent callers, tables."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from hybrid_llm.core.protocols import Backend
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors

NUMBERS = itertools.count(1_000_000)
MANY_FAILURES = "breaker: {failures: 1000}"


def client(backends: Sequence[Backend], resilience: str, **options: object) -> HybridLLM:
    """A client that prefers *backends* in that order."""
    locations = {backend.name: backend.location for backend in backends}
    rules = f"rules:\n  - prefer: [{', '.join(locations)}]\n"
    text = f"version: 1\nname: bench\n{rules}resilience: {{{resilience}}}\n"
    return HybridLLM(backends, parse_policy(text, backends=locations), sensors=FixedSensors(), **options)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def many(work: Callable[[int], float], count: int, workers: int = 16) -> list[float]:
    """The results of *count* calls of *work* in threads."""
    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(work, range(count)))


async def amany(work: Callable[[int], Awaitable[float]], count: int, workers: int = 16) -> list[float]:
    """The results of *count* calls of *work* in tasks."""
    free = asyncio.Semaphore(workers)

    async def one(number: int) -> float:
        async with free:
            return await work(number)

    return list(await asyncio.gather(*(one(number) for number in range(count))))


def row(name: str, *cells: object) -> None:
    print(f"  {name:<48}" + "".join(f"{_cell(cell):>14}" for cell in cells), flush=True)


def _cell(cell: object) -> str:
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)

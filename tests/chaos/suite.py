"""Plays one fault after the other under traffic, and judges what came of every request."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendOverloaded,
    DeadlineExceeded,
    HybridLLMError,
    SecurityError,
    StreamInterrupted,
)
from hybrid_llm.router.client import HybridLLM
from tests.chaos import faults
from tests.chaos.exact import prompt_of
from tests.chaos.report import Row, row
from tests.chaos.traffic import Case, Outcome, Traffic
from tests.chaos.world import World, eventually

FAULTS: tuple[type[faults.Fault], ...] = (
    faults.Nothing,
    faults.Kill,
    faults.Stop,
    faults.RollingRestart,
    faults.Cut,
    faults.Delay,
    faults.Reorder,
    faults.Garble,
    faults.HalfOpen,
    faults.Offline,
    faults.Refused,
    faults.Full,
    faults.AppExpired,
    faults.NodeExpired,
    faults.Swapped,
    faults.ClockJump,
    faults.DiskFull,
    faults.Closed,
)
"""Those of the exact world, in the order of the table."""


def play(world: World, kinds: Sequence[type[faults.Fault]], *, requests: int, seed: int = 0) -> Iterator[Row]:
    """Yield a row for each fault, after about *requests* requests under each."""
    random_, numbers = random.Random(seed), itertools.count()
    for kind in kinds:
        yield _play(world, kind(world, random_), world.cases(random_, numbers, requests), numbers)


@dataclass(frozen=True, slots=True)
class Scene:
    """A fault, and from when to when requests could meet it: until the nodes were in use again."""

    kind: type[faults.Fault]
    began: float
    ended: float

    def meant(self, outcome: Outcome) -> bool:
        """Whether the typed error of *outcome* had to be: nothing unharmed could answer, or there was no time."""
        if outcome.case.hurried and _is_out_of_time(outcome.error):
            return True
        if outcome.ended < self.began or outcome.began > self.ended:
            return False
        fault = self.kind
        if fault.ends_clients or (outcome.case.far and not fault.spares_node):
            return True
        if isinstance(outcome.error, SecurityError):
            return fault.distrusts
        return isinstance(outcome.error, StreamInterrupted) and fault.breaks and not outcome.continues


def _is_out_of_time(error: BaseException | None) -> bool:
    """A node whose queue is too long for the deadline refuses at once: nothing else may have failed."""
    if isinstance(error, AllBackendsFailed):
        return all(isinstance(each, BackendOverloaded | DeadlineExceeded) for each in error.failures.values())
    return isinstance(error, DeadlineExceeded)


def _play(world: World, fault: faults.Fault, cases: list[Case], numbers: Iterator[int]) -> Row:
    clients = fault.clients = [world.client(**fault.options()), world.client(hedge=world.hedge, **fault.options())]
    for client in clients:  # imports are no part of the fault
        eventually(lambda c=client: _answers(c, next(numbers)), 20.0)
    outcomes, scene, back_s = _under(fault, clients, cases, numbers)
    eventually(lambda: fault.unheard or _all_told(world, outcomes), 2.0)
    freed = {} if fault.unheard else world.freed()
    for client in clients:
        client.close()
    fault.end()
    return row(fault.name, outcomes, freed, back_s, fault.note, scene.meant)


def _under(
    fault: faults.Fault, clients: Sequence[HybridLLM], cases: list[Case], numbers: Iterator[int]
) -> tuple[list[Outcome], Scene, float | None]:
    """A tenth of the traffic before the fault, most of it under it, the rest afterwards."""
    traffic = Traffic(clients, fault.world.judge)
    before, during = len(cases) // 10, len(cases) * 7 // 10
    traffic.put(cases[:before])
    traffic.drain()
    began = time.monotonic()
    fault.inject()
    traffic.put(cases[before:during])
    traffic.drain()
    fault.heal()
    back_s = None
    if not fault.ends_clients:
        back_s = eventually(lambda: all(_answers(client, next(numbers)) for client in clients), fault.world.back_s)
    ended = math.inf if back_s is None else time.monotonic()
    traffic.put(cases[during:])
    traffic.drain()
    return traffic.finish(), Scene(type(fault), began, ended), back_s


def _answers(client: HybridLLM, number: int) -> bool:
    """Whether a node answers."""
    try:
        return client.generate(prompt_of(number, 2), max_tokens=8, deadline=5.0).backend == "cloud"
    except HybridLLMError:
        return False


def _all_told(world: World, outcomes: Sequence[Outcome]) -> bool:
    """Whether the nodes have noticed every caller that left them."""
    freed = world.freed()
    return all(o.case.prompt in freed for o in outcomes if o.left and o.first)

"""Mixed traffic for minutes, with faults now and then: what app and node hold is flat.

`python -m tests.chaos --soak 30m --rate 30 --curve DIR` samples memory, threads, descriptors and sockets every second,
and fits a line to the last half. Sync, async, streamed, hedged, abandoned and cancelled requests run at a steady rate
against real nodes; every answer is judged.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import psutil

from tests.chaos.curve import Sample
from tests.chaos.outages import BLACK_HOLE, ENGINE_FAILS, KILLED, REFUSED, RESET, STOPPED, Outage
from tests.chaos.traffic import Traffic
from tests.chaos.world import World

FAULTS = (RESET, REFUSED, STOPPED, ENGINE_FAILS, BLACK_HOLE)
"""What befalls the node that is measured. The other node is killed too, which begins its figures anew."""
_PAUSE_S = 6.0
"""Between the end of a fault and the next one."""
_FEW = 32
"""Requests that may wait to be begun; more are not put, so that a busy machine does not add them up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What is measured of a process, and by how much it may grow over half of a soak."""

    name: str
    read: Callable[[psutil.Process], float]
    allowed: float


def _rss_mb(process: psutil.Process) -> float:
    """Of a node with its engine; of the app alone, whose children are the nodes."""
    children = [] if process.pid == os.getpid() else process.children(recursive=True)
    return sum(each.memory_info().rss for each in [process, *children]) / 2**20


FIGURES = (
    Figure(name="RSS, MB", read=_rss_mb, allowed=6.0),
    Figure(name="threads", read=psutil.Process.num_threads, allowed=4.0),
    Figure(name="descriptors", read=psutil.Process.num_fds, allowed=10.0),
    Figure(name="sockets", read=lambda process: len(process.net_connections()), allowed=8.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """One figure of one process over the last half: its mean, and the growth of the fitted line over that time."""

    process: str
    figure: str
    first: float
    """The first sample of all."""
    mean: float
    growth: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        return self.growth <= self.allowed


@dataclass(slots=True, kw_only=True)
class Soak:
    """What came of one: the *trends*, and the requests by outcome."""

    seconds: float
    trends: Sequence[Trend]
    outcomes: Counter[str]
    faults: int
    examples: list[str] = field(default_factory=list)
    samples: Sequence[Sample] = ()
    """All that was measured, in the order of time."""

    @property
    def is_sound(self) -> bool:
        """Nothing was lost or wrong, and nothing grew."""
        return not self.outcomes["lost"] and not self.outcomes["wrong"] and all(each.is_flat for each in self.trends)

    def lines(self) -> Iterator[str]:
        """The result in Markdown."""
        counts = ", ".join(f"{count:,} {what}" for what, count in self.outcomes.most_common())
        yield f"{self.seconds:.0f} s, {self.faults} faults; requests: {counts}"
        yield from self.examples
        yield "| process | figure | first | mean of the last half | its growth, as fitted | may grow |"
        yield "|---|---|---|---|---|---|"
        for one in self.trends:
            mark = "" if one.is_flat else " **grows**"
            yield (
                f"| {one.process} | {one.figure} | {one.first:.0f} | {one.mean:.1f} | {one.growth:+.1f}{mark} "
                f"| {one.allowed:g} |"
            )


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """How much the line of least squares through *samples*, instants with values, rises from the first to the last."""
    count = len(samples)
    middle, mean = (sum(each[axis] for each in samples) / count for axis in (0, 1))
    spread = sum((instant - middle) ** 2 for instant, _ in samples)
    slope = sum((instant - middle) * (value - mean) for instant, value in samples) / spread if spread else 0.0
    return slope * (samples[-1][0] - samples[0][0])


@dataclass(slots=True, eq=False)
class _Samples:
    """The figures of some processes, by the second."""

    processes: dict[str, psutil.Process]
    began: float = field(default_factory=time.monotonic)
    all: list[Sample] = field(default_factory=list)

    def take(self, requests: int) -> None:
        """Measure, after so many *requests* have ended."""
        for (name, process), figure in itertools.product(self.processes.items(), FIGURES):
            with suppress(psutil.Error):  # a child ended while its memory was read
                value = figure.read(process)
                seconds = time.monotonic() - self.began
                self.all.append(
                    Sample(seconds=seconds, requests=requests, process=name, figure=figure.name, value=value)
                )

    def trends(self) -> list[Trend]:
        found = []
        for name, figure in itertools.product(self.processes, FIGURES):
            samples = [
                (each.seconds, each.value) for each in self.all if (each.process, each.figure) == (name, figure.name)
            ]
            half = samples[len(samples) // 2 :]
            found.append(
                Trend(
                    process=name,
                    figure=figure.name,
                    first=samples[0][1],
                    mean=sum(value for _, value in half) / len(half),
                    growth=growth(half),
                    allowed=figure.allowed,
                )
            )
        return found


def _count(traffic: Traffic, outcomes: Counter[str], examples: list[str]) -> None:
    """Judge what has ended, and forget it: the requests of a soak must not add up."""
    for outcome in traffic.take_ended():
        outcomes["requests"] += 1
        if outcome.lost or outcome.wrong:
            outcomes["lost" if outcome.lost else "wrong"] += 1
            examples += [f"{outcome.case} -> {outcome.error!r}"] if len(examples) < 5 else []
        elif outcome.left:
            outcomes["given up by the caller"] += 1
        elif outcome.error is not None:
            outcomes["typed errors"] += 1
        else:
            outcomes["answered"] += 1
            outcomes["of them continued"] += bool(outcome.generation and outcome.generation.continuations)


@dataclass(slots=True, eq=False)
class _Faults:
    """One fault after the other, each on one node, with calm in between."""

    world: World
    random: random.Random
    plan: Iterator[tuple[int, Outage]] = field(init=False)
    count: int = 0
    _running: tuple[int, Outage] | None = None
    _next: float = field(default_factory=lambda: time.monotonic() + _PAUSE_S / 2)

    def __post_init__(self) -> None:
        first = [(0, outage) for outage in FAULTS]
        self.plan = itertools.cycle([*first, (len(self.world.nodes) - 1, KILLED)])

    def step(self) -> None:
        """Begin or end a fault if it is time."""
        if time.monotonic() < self._next:
            return
        if self._running is None:
            self._running, self.count = next(self.plan), self.count + 1
            number, outage = self._running
            outage.begin(self.world, number)
            self._next = time.monotonic() + min(outage.seconds, 1.0)
        else:
            self.end()

    def end(self) -> None:
        """Make good what is wrong."""
        if self._running is not None:
            number, outage = self._running
            outage.end(self.world, number)
        self._running, self._next = None, time.monotonic() + _PAUSE_S * self.random.uniform(0.5, 1.5)


def soak(seconds: float, *, rate: float = 15.0, seed: int = 0, requests: int = 0) -> Soak:
    """Ask about *rate* requests a second for *seconds*, and on until *requests* have ended; measure app and node."""
    random_, numbers, outcomes = random.Random(seed), itertools.count(), Counter[str]()
    examples: list[str] = []
    with ExitStack() as stack:
        world = stack.enter_context(World(nodes=2))
        clients = [stack.enter_context(world.client()), stack.enter_context(world.client(hedge=world.hedge))]
        samples = _Samples({"app": psutil.Process(os.getpid()), "node": psutil.Process(world.nodes[0].pid)})
        traffic, faults = Traffic(clients, world.judge), _Faults(world, random_)
        began = time.monotonic()
        for beat in itertools.count(1):
            if traffic.waiting < _FEW:
                traffic.put(world.cases(random_, numbers, max(1, round(rate))))
            faults.step()
            _count(traffic, outcomes, examples)
            samples.take(outcomes["requests"])
            if time.monotonic() - began > seconds and outcomes["requests"] >= requests:
                break
            time.sleep(max(0.0, began + beat - time.monotonic()))
        faults.end()
        world.nodes[0].send(signal.SIGCONT)
        traffic.drain()
        traffic.finish()
        _count(traffic, outcomes, examples)
        outcomes["lost"] += len(traffic.outcomes)
    return Soak(
        seconds=time.monotonic() - began,
        trends=samples.trends(),
        outcomes=+outcomes,
        faults=faults.count,
        examples=examples,
        samples=samples.all,
    )

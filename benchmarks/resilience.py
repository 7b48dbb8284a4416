"""What faults cost: deadlines, outages, a lost network, hedging, overload.

    python -m benchmarks resilience [--full] [deadline | outage | offline | hedging | overload ...]

Nodes are real processes on loopback. Each figure stands beside its floor, or the same without the feature, of the same
run. `--full` uses the sizes of the published figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import psutil

from benchmarks._resilience import MANY_FAILURES, NUMBERS, amany, client, many, quantile, row
from benchmarks._run import parsed, parser
from hybrid_llm.core.errors import BackendOverloaded, HybridLLMError
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from tests.chaos.exact import ExactEdge, prompt_of
from tests.chaos.proxy import Weather
from tests.chaos.world import NodeOptions, World

# --- deadline


DEADLINE_S = 0.4


def deadline(count: int, *, smoke: bool) -> None:  # noqa: ARG001  # as the other parts
    """The engine of the node hangs while its server answers pings and handshakes, so only the deadline ends a call."""
    print(f"deadline of {DEADLINE_S:g} s, a node that hangs, {count} requests each: ms after the deadline")
    row("", "p50", "p99", "most")
    _floors(count)
    with World(nodes=2, options=NodeOptions(slots=64, first_s=60.0)) as world:
        for name, hedge in (("", ""), (", with a hedge that hangs too", "hedge_after: 50ms, ")):
            _deadline(world, f"{hedge}retries: 0, {MANY_FAILURES}", name, count)
        _stopped(world)


def _floors(count: int) -> None:
    async def task(_: int) -> float:
        began = time.monotonic()
        await asyncio.sleep(DEADLINE_S)
        return time.monotonic() - began - DEADLINE_S

    def thread(_: int) -> float:
        began = time.monotonic()
        time.sleep(DEADLINE_S)
        return time.monotonic() - began - DEADLINE_S

    _overruns("floor: time.sleep in 16 threads", many(thread, count))
    _overruns("floor: asyncio.sleep in 16 tasks", asyncio.run(amany(task, count)))


def _deadline(world: World, resilience: str, name: str, count: int) -> None:
    def sync(_: int) -> float:
        began = time.monotonic()
        with contextlib.suppress(HybridLLMError):
            llm.generate(prompt_of(next(NUMBERS), 3), deadline=DEADLINE_S)
            raise AssertionError("it answered")
        return time.monotonic() - began - DEADLINE_S

    async def task(_: int) -> float:
        began = time.monotonic()
        with contextlib.suppress(HybridLLMError):
            await llm.agenerate(prompt_of(next(NUMBERS), 3), deadline=DEADLINE_S)
            raise AssertionError("it answered")
        return time.monotonic() - began - DEADLINE_S

    size = min(count, 100)
    for kind, ask in (("generate", lambda: many(sync, size)), ("agenerate", lambda: asyncio.run(amany(task, size)))):
        overruns: list[float] = []
        for _ in range(count // size):  # a client each: the breaker has no say in this
            with client([world.pool()], resilience) as llm:
                overruns += ask()
        _overruns(f"{kind}{name}", overruns)


def _overruns(name: str, seconds: Sequence[float]) -> None:
    row(name, *(1e3 * value for value in (quantile(seconds, 0.5), quantile(seconds, 0.99), max(seconds))))


def _stopped(world: World) -> None:
    """How many requests the engines still work on, half a second after the last deadline."""
    time.sleep(0.5)
    states = [world.pool([proxy]) for proxy in world.proxies]
    active = sum(pool.probe().active for pool in states)
    row("requests in the engines half a second later", active)
    for pool in states:
        pool.close()


# --- outage


def outage(count: int, *, smoke: bool) -> None:  # noqa: ARG001  # as the other parts
    """Nothing listens: how many calls are made per request."""
    print("total outage: calls of the backend for each request (1: no retry)")
    row("", "requests", "calls/request")
    with World(nodes=1) as world:
        world.proxies[0].weather = Weather(refuse=True)
        cases = (
            (count, "retry_budget: 10%, breaker: {failures: 5, open: 1s}", "budget 10 %, breaker"),
            (min(count, 880), f"retry_budget: 10%, {MANY_FAILURES}", "budget 10 % (and ten to begin with), no breaker"),
            (min(count, 330), f"retry_budget: 100%, {MANY_FAILURES}", "without a budget, no breaker"),
        )
        for requests, resilience, name in cases:
            row(name, requests, f"{_outage(world, f'retries: 2, {resilience}', requests) / requests:.3f}")


def _outage(world: World, resilience: str, count: int) -> int:
    calls = 0

    def hook(event: RequestEvent) -> None:
        nonlocal calls
        calls += sum(attempt.elapsed_ms > 0.0 for attempt in event.attempts)

    with client([world.pool()], resilience, hooks=[hook]) as llm:
        for _ in range(count):
            with contextlib.suppress(HybridLLMError):
                llm.generate(prompt_of(next(NUMBERS), 3), deadline=5.0)
    return calls


# --- offline


def offline(count: int, *, smoke: bool) -> None:
    """The network drops everything: the device answers, and the nodes are found again."""
    print(f"offline, {count} requests in each phase: ms of an answer")
    row("", "p50", "p99", "from nodes")
    with World(nodes=1 if smoke else 3) as world:
        edge = ExactEdge()
        with client([edge], "retries: 0") as alone:
            row("the device alone", *_answers(alone, count))
        hedges = (("", ""), (", hedge_after 100ms", "hedge_after: 100ms, "))
        for name, hedge in hedges[: 1 if smoke else None]:
            _offline(world, name, hedge, count, watched_s=0.5 if smoke else 5.0)


def _offline(world: World, name: str, hedge: str, count: int, *, watched_s: float) -> None:
    with client([world.pool(), ExactEdge()], f"{hedge}retries: 1, breaker: {{failures: 5, open: 5s}}") as llm:
        row(f"online{name}", *_answers(llm, count))
        for proxy in world.proxies:
            proxy.weather = Weather(silent_up=True, silent_down=True)
        began = time.monotonic()
        row(f"the first 16 requests offline{name}", *_answers(llm, 16))
        noticed = time.monotonic() - began
        before, began = sum(proxy.connections for proxy in world.proxies), time.monotonic()
        row(f"then{name}", *_answers(llm, count))
        while time.monotonic() - began < watched_s:
            _answers(llm, 4)
        looks = sum(proxy.connections for proxy in world.proxies) - before
        rate = looks / (time.monotonic() - began)
        world.calm()
        began = time.monotonic()
        while _answers(llm, 1)[2] != 1 and time.monotonic() - began < 30.0:
            time.sleep(0.02)
        back = time.monotonic() - began
        tried = f"{rate:.1f} handshakes/s to {len(world.nodes)} nodes meanwhile"
        print(f"    first 16 took {noticed:.1f} s; {tried}; back in {back:.1f} s")


def _answers(llm: HybridLLM, count: int) -> tuple[float, float, int]:
    nodes = 0

    def ask(_: int) -> float:
        nonlocal nodes
        began = time.monotonic()
        reply = llm.generate(prompt_of(next(NUMBERS), 3), deadline=30.0)
        nodes += reply.backend == "cloud"
        return 1e3 * (time.monotonic() - began)

    times = many(ask, count, 4)
    return quantile(times, 0.5), quantile(times, 0.99), nodes


# --- hedging

SLOW = Weather(delay=(0.18, 0.22))


def hedging(count: int, *, smoke: bool) -> None:
    """Three nodes, one of them slow: always the same one, which the picker avoids, or another one each second."""
    print(f"one slow node in three (0.4 s more), {count} requests: ms to the first token")
    row("", "p50", "p99", "calls/request")
    for is_slow, name in ((_always_the_same, "the same is slow"), (_another_each_second, "another each second")):
        for hedge in ("hedge_after: 60ms, ",) if smoke else ("", "hedge_after: 60ms, ", "hedge_after: p95, "):
            with World(nodes=2 if smoke else 3) as world, is_slow(world):
                row(f"{name}, {hedge.rstrip(', ') or 'no hedging'}", *_first_tokens(world, hedge, count))


@contextlib.contextmanager
def _always_the_same(world: World) -> Iterator[None]:
    world.proxies[0].weather = SLOW
    yield


@contextlib.contextmanager
def _another_each_second(world: World) -> Iterator[None]:
    over = threading.Event()

    def change() -> None:
        for proxy in itertools.cycle(world.proxies):
            proxy.weather = SLOW
            if over.wait(1.0):
                return
            proxy.weather = Weather()

    thread = threading.Thread(target=change)
    thread.start()
    yield
    over.set()
    thread.join()


def _first_tokens(world: World, hedge: str, count: int) -> tuple[float, float, str]:
    calls = 0

    def hook(event: RequestEvent) -> None:
        nonlocal calls
        calls += len(event.attempts)

    def ask(_: int) -> float:
        began = time.monotonic()
        with llm.stream(prompt_of(next(NUMBERS), 3), deadline=20.0) as stream:
            next(stream)
            first = time.monotonic() - began
            for _ in stream:
                pass
        return 1e3 * first

    with client([world.pool()], f"{hedge}retries: 1, retry_budget: 20%", hooks=[hook]) as llm:
        many(ask, min(count, 60), 3)
        calls = 0
        times = many(ask, count, 3)
    return quantile(times, 0.5), quantile(times, 0.99), f"{calls / count:.2f}"


# --- overload


SERVICE_S = 0.1
SLOTS = 4


def overload(seconds: float, *, smoke: bool) -> None:
    """One node that can answer 40 requests a second; Poisson arrivals that do not wait for answers."""
    options = NodeOptions(slots=SLOTS, queue=64, first_s=SERVICE_S - 0.01, step_s=0.005)
    print(f"overload, {seconds:g} s each: a node of {SLOTS} slots, {SERVICE_S * 1e3:.0f} ms an answer, queue of 64")
    row("load", "answered/s", "p50 ms", "p99 ms", "refused/s", "refusal p99 ms", "RSS MiB")
    for load in (2.0,) if smoke else (0.5, 1.0, 2.0, 5.0):
        with World(nodes=1, options=options) as world, client([world.pool()], "retries: 0, " + MANY_FAILURES) as llm:
            _overload(world, llm, load, seconds, burst_s=0.2 if smoke else 3.0)


def _overload(world: World, llm: HybridLLM, load: float, seconds: float, *, burst_s: float) -> None:
    """The first *burst_s* seconds do not count: a burst may fill the queue."""
    answered: list[float] = []
    refused: list[float] = []

    async def ask() -> None:
        began = time.monotonic()
        try:
            await llm.agenerate(prompt_of(next(NUMBERS), 2), deadline=10.0)
            answered.append(1e3 * (time.monotonic() - began))
        except HybridLLMError as error:
            failures = getattr(error, "failures", {})
            assert any(isinstance(e, BackendOverloaded) for e in failures.values()), error
            refused.append(1e3 * (time.monotonic() - began))

    async def arrive() -> tuple[float, float]:
        draw, tasks = random.Random(1), set()
        due = began = time.monotonic()
        while due - began < seconds + burst_s:
            if due - began < burst_s:
                answered.clear(), refused.clear()
            due += draw.expovariate(load * SLOTS / SERVICE_S)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.add(asyncio.create_task(ask()))
        counts = len(answered) / seconds, len(refused) / seconds
        await asyncio.gather(*tasks)
        return counts

    goodput, refusals = asyncio.run(arrive())
    rss = psutil.Process(world.nodes[0].pid).memory_info().rss / 2**20
    times = quantile(answered, 0.5), quantile(answered, 0.99)
    row(f"{load:g} x", goodput, *times, refusals, quantile(refused, 0.99), rss)


PARTS: dict[str, tuple[Callable[..., None], int, int, int]] = {
    "deadline": (deadline, 4, 200, 1000),
    "outage": (outage, 4, 1000, 1000),
    "offline": (offline, 4, 100, 300),
    "hedging": (hedging, 4, 200, 1000),
    "overload": (overload, 1, 5, 15),
}
"""What is measured, and how much of it: with `--smoke`, by default, and with `--full`."""


def main() -> None:
    made = parser(__doc__)
    made.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    made.add_argument("--full", action="store_true", help="the sizes of the published figures")
    options = parsed(made)
    if unknown := set(options.parts) - PARTS.keys():
        made.error(f"there is no part {unknown.pop()!r}: {', '.join(PARTS)}")
    for name, (part, smoke, short, full) in PARTS.items():
        if not options.parts or name in options.parts:
            part(smoke if options.smoke else full if options.full else short, smoke=options.smoke)


if __name__ == "__main__":
    main()

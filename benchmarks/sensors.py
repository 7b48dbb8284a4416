"""What the signals cost: one sample of each source, the sampler's share of a processor, and `read()` for a request.

    python -m benchmarks sensors [--json FILE] [--seconds S]

Each source stands beside psutil's equivalent, in turns, as CPU time; `read()` beside reading an attribute. Medians.
Sources that this machine lacks are marked: they are read as often, and find nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import psutil

from benchmarks._run import parsed, parser, with_json, write
from hybrid_llm.router.signals import SystemSensors
from hybrid_llm.router.signals.source import Source
from hybrid_llm.router.signals.system import system_sources

ROUNDS, BLOCKS, READS = 300, 31, 20_000


def nothing() -> None:
    """Stands where psutil has no equivalent."""


PEERS: dict[str, Callable[[], object]] = {
    "MemorySource": lambda: (psutil.virtual_memory(), psutil.swap_memory()),
    "CpuSource": lambda: psutil.cpu_percent(interval=None),
    "OnlineSource": psutil.net_if_stats,
    "PowerSource": psutil.sensors_battery,
    "HeatSource": psutil.sensors_temperatures,
}
"""What an app would write with psutil; it knows no control groups, no pressure, no GPU and no route."""


def cpu_us(step: Callable[[], object]) -> float:
    """CPU time of this thread for one *step*, microseconds."""
    began = time.thread_time_ns()
    step()
    return (time.thread_time_ns() - began) / 1e3


def each_source(sources: Sequence[Source], rounds: int) -> dict[str, dict[str, object]]:
    """Name -> medians of ours and psutil's, in turns, and whether the machine has it."""
    found: dict[str, dict[str, object]] = {}
    for source in sources:
        name = type(source).__name__
        peer = PEERS.get(name, nothing)
        has = any(value is not None for value in source.read())
        pairs = [(cpu_us(source.read), cpu_us(peer)) for _ in range(rounds)]
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        found[name] = {"us": ours, "psutil_us": theirs if name in PEERS else None, "every_s": source.every, "has": has}
    return found


def sampler_share(seconds: float) -> float:
    """Share of one processor that a client's sampler takes at the default interval, percent."""
    sensors = SystemSensors()
    sensors.read()
    began, used = time.perf_counter(), time.process_time()
    until = began + seconds
    while time.perf_counter() < until:
        time.sleep(0.5)
        sensors.read()
    share = (time.process_time() - used) / (time.perf_counter() - began) * 100
    sensors.close()
    return share


def idle_share(seconds: float) -> float:
    """The same loop without a sampler, percent: the floor."""
    began, used = time.perf_counter(), time.process_time()
    while time.perf_counter() < began + seconds:
        time.sleep(0.5)
    return (time.process_time() - used) / (time.perf_counter() - began) * 100


def reading(blocks: int) -> tuple[float, float]:
    """Microseconds of `read()` on the path of a request, and of reading one attribute: medians over blocks."""
    sensors, floor = SystemSensors(), SimpleNamespace(latest=None)
    sensors.read()
    pairs = [(_block(sensors.read), _block(lambda: floor.latest)) for _ in range(blocks)]
    sensors.close()
    ours, attribute = (statistics.median(column) for column in zip(*pairs, strict=True))
    return ours, attribute


def _block(step: Callable[[], object]) -> float:
    began = time.thread_time_ns()
    for _ in range(READS):
        step()
    return (time.thread_time_ns() - began) / READS / 1e3


def main() -> None:
    made = with_json(parser(__doc__))
    made.add_argument("--seconds", type=float, default=20.0, help="how long the sampler is watched")
    options = parsed(made)
    rounds, blocks, watched = (3, 1, 0.1) if options.smoke else (ROUNDS, BLOCKS, options.seconds)
    sources = each_source(system_sources(), rounds)
    print(f"{'one sample, CPU time':24} {'us':>8} {'psutil us':>10} {'every s':>8}")
    for name, row in sources.items():
        theirs = f"{row['psutil_us']:10.1f}" if row["psutil_us"] is not None else f"{'-':>10}"
        print(f"{name:24} {row['us']:8.1f} {theirs} {row['every_s']:8g}{'' if row['has'] else '   (absent here)'}")
    share, floor = sampler_share(watched), idle_share(watched / 2)
    print(f"\nsampler: {share:.3f} % of one processor (without it {floor:.3f} %)")
    ours, attribute = reading(blocks)
    print(f"read(): {ours:.3f} us (target 1 us; reading an attribute through a function {attribute:.3f} us)")
    figures = {"sources": sources, "sampler_percent": share, "idle_percent": floor, "read_us": ours}
    write(options.json, figures)


if __name__ == "__main__":
    main()

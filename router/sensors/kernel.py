"""Processors, memory and pressure, as Linux counts them for this process's control groups and for the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from hybrid_llm.router.sensors.cgroup import ControlGroups
from hybrid_llm.router.sensors.files import Files
from hybrid_llm.router.sensors.source import MIB, Value, within

__all__ = ["CpuSource", "MemorySource", "PressureSource", "pressure_some_avg10"]

_FIRST_WINDOW_S: Final = 0.04
"""How long the first reading of the load takes: it is the difference of two."""
_IDLE_COLUMNS: Final = (3, 4)


class MemorySource:
    """`MemAvailable` of proc_meminfo(5), or what the tightest control group still allows, whichever is less."""

    gives = ("device.memory_available_mb", "device.memory_total_mb", "device.swap_available_mb")
    every = 1.0

    def __init__(self, files: Files) -> None:
        self._files = files
        self._groups = ControlGroups(files)

    def read(self) -> tuple[Value, ...]:
        """MiB available, MiB in all, MiB of swap; swap is None where there is none for this process."""
        table = dict(self._table())
        available = _least(table.get("MemAvailable"), self._groups.memory_left())
        total = _least(table.get("MemTotal"), self._groups.memory_limit())
        swap = _least(table.get("SwapFree"), self._groups.swap_left()) if table.get("SwapTotal") else None
        return _mib(available), _mib(total), _mib(swap)

    def _table(self) -> Iterator[tuple[str, int]]:
        """The lines of the file, in bytes."""
        path = "proc/meminfo"
        for line in (self._files.kept(path) or "").splitlines():
            name, _, rest = line.partition(":")
            if name in {"MemAvailable", "MemTotal", "SwapFree", "SwapTotal"}:
                kilobytes = self._files.whole(rest.strip().removesuffix(" kB"), path)
                if kilobytes is not None:
                    yield name, kilobytes * 1024

    def close(self) -> None:
        """Close the files."""
        self._files.close()


class CpuSource:
    """Share of the processors that this process may use which is busy.

    Under a limit of its control groups (`cpu.max`) it is what the group uses of its limit, the busiest group counting;
    what neighbours take from a group shows in `device.cpu_pressure`. Without a limit it is the share of time that the
    processors that the process may run on (affinity, cpusets) were not idle, from proc_stat(5).
    """

    gives = ("device.cpu_load",)
    every = 1.0

    def __init__(
        self,
        files: Files,
        *,
        clock: Callable[[], float] = time.perf_counter,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._files = files
        self._groups = ControlGroups(files)
        self._clock = clock
        self._pause = pause
        self._last: dict[str, tuple[float, float]] = {}
        self._load: float | None = None

    def read(self) -> tuple[Value, ...]:
        """The load since the last reading, 0 to 1; the first takes two readings, shortly one after the other."""
        if not self._last:
            self._last = dict(self._counters())
            self._pause(_FIRST_WINDOW_S)
        now = dict(self._counters())
        shares = [
            (busy - self._last[key][0]) / (whole - self._last[key][1])
            for key, (busy, whole) in now.items()
            if key in self._last and whole > self._last[key][1]
        ]
        if shares:
            self._load = max(0.0, min(1.0, max(shares)))
        if shares or now.keys() != self._last.keys():
            self._last = now
        return (self._load if now else None,)

    def _counters(self) -> Iterator[tuple[str, tuple[float, float]]]:
        """For each group with a limit, else for the machine: seconds that were used, of seconds that there were."""
        allowed = self._allowed()
        limited = False
        for limit, folder in self._groups.cpu_limits():
            used = self._groups.cpu_seconds(folder)
            if used is not None and not 0 < len(allowed) <= limit:
                limited = True
                yield f"{folder} {limit:g}", (used, self._clock() * limit)
        if not limited:
            yield from self._machine(allowed)

    def _allowed(self) -> frozenset[int]:
        """The processors that the process may run on: `Cpus_allowed_list` of proc_pid_status(5); empty if not told."""
        for line in (self._files.text("proc/self/status") or "").splitlines():
            name, _, ranges = line.partition(":")
            if name == "Cpus_allowed_list":
                return frozenset(self._numbers(ranges.strip()))
        return frozenset()

    def _numbers(self, ranges: str) -> Iterator[int]:
        """The numbers in a list such as `0-3,8`."""
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            if first.isdecimal() and (last or first).isdecimal() and len(part) < 16:
                yield from range(int(first), min(int(last or first), 1 << 14) + 1)

    def _machine(self, allowed: frozenset[int]) -> Iterator[tuple[str, tuple[float, float]]]:
        """The allowed processors together; all, where they are numbered anew (lxcfs)."""
        rows = dict(self._rows())
        chosen = [rows[f"cpu{number}"] for number in allowed if f"cpu{number}" in rows]
        chosen = chosen if len(chosen) == len(allowed) > 0 else [row for name, row in rows.items() if name == "cpu"]
        if chosen:
            whole = float(sum(sum(row[:8]) for row in chosen))
            idle = float(sum(row[column] for row in chosen for column in _IDLE_COLUMNS if column < len(row)))
            yield f"machine {sorted(allowed)}", (whole - idle, whole)

    def _rows(self) -> Iterator[tuple[str, list[int]]]:
        """The processors' lines: ticks of user, nice, system, idle, iowait, irq, softirq, steal, and guests again."""
        path = "proc/stat"
        for line in (self._files.kept(path) or "").splitlines():
            name, *columns = line.split()
            if not name.startswith("cpu"):
                return
            if not columns or not all(column.isdecimal() and len(column) < 20 for column in columns):
                self._files.damaged(path)
                return
            yield name, [int(column) for column in columns]

    def close(self) -> None:
        """Close the files."""
        self._files.close()


class PressureSource:
    """Pressure stall information of the process's own group, else of the machine: kernel documentation, accounting/psi.

    The own group's stalls count what any ancestor's limit and any neighbour do to it.
    """

    gives = ("device.memory_pressure", "device.cpu_pressure", "device.io_pressure")
    every = 1.0

    def __init__(self, files: Files) -> None:
        self._files = files
        self._groups = ControlGroups(files)

    def read(self) -> tuple[Value, ...]:
        """`some avg10` of memory, processors and input/output, percent of time."""
        return tuple(self._pressure(resource) for resource in ("memory", "cpu", "io"))

    def _pressure(self, resource: str) -> float | None:
        own = next(iter(self._groups.unified()), None)
        places = ([f"{own}/{resource}.pressure"] if own else []) + [f"proc/pressure/{resource}"]
        for place in places:
            text = self._files.kept(place)
            if text:
                found = pressure_some_avg10(text)
                if found is None:
                    self._files.damaged(place)
                return found
        return None

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def pressure_some_avg10(text: str) -> float | None:
    """The number after `some avg10=` in a PSI file; None if it is not there or no percentage."""
    kind, *words = text.partition("\n")[0].split() or ("",)
    for word in words:
        name, _, value = word.partition("=")
        if kind == "some" and name == "avg10" and value.replace(".", "", 1).isdecimal():
            return within(float(value), 0.0, 100.0)
    return None


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _mib(count: int | None) -> float | None:
    return None if count is None or count < 0 else count / MIB

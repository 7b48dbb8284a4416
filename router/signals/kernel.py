"""Processors, memory and pressure on Linux, for the control groups of this process and for the machine.

Control groups of version 1 and 2 are supported. A limit may be set on any ancestor, such as a Kubernetes pod or a
systemd slice, and the tightest one counts: cgroups(7), and the kernel's admin-guide/cgroup-v2.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.signals.source import MIB, Cached, Files, FileSource, Value, within

_UNLIMITED: Final = 1 << 60
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_SOME_AVG10: Final = re.compile(r"some (?:[^\n]* )?avg10=(\d+\.?\d*)(?!\S)", re.ASCII)
_FIRST_WINDOW_S: Final = 0.04
"""How long the first reading of the load takes, seconds: it is the difference of two readings."""
_IDLE_COLUMNS: Final = (3, 4)
"""Idle and iowait in the lines of /proc/stat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    """A mounted hierarchy: its group *root* appears at the folder *point*."""

    controllers: frozenset[str]
    """Empty for version 2."""
    root: str
    point: str


class ControlGroups:
    """The control groups of this process, searched for again each minute because a process can be moved."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._folders = Cached(self._find)

    def chain(self, controller: str) -> tuple[str, ...]:
        """The folders of the process's group for *controller* and of its ancestors, its own first; may be empty."""
        folders = self._folders.get()
        return folders.get(controller) or folders.get("", ())

    def unified(self) -> tuple[str, ...]:
        """The folders in the hierarchy of version 2, whichever version manages the controllers."""
        return self._folders.get().get("", ())

    def memory_left(self) -> int | None:
        """Bytes left below the tightest limit, reclaimable page cache counted as free; None without a limit."""
        return _least(*map(self._memory_left, self.chain("memory")))

    def _memory_left(self, folder: str) -> int | None:
        limit = self._memory_limit(folder)
        used = self._number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is None or used is None:
            return None
        name = "inactive_file" if folder in self.unified() else "total_inactive_file"
        cache = self._field(f"{folder}/memory.stat", name) or 0
        return max(0, limit - used + max(0, min(cache, used)))

    def memory_limit(self) -> int | None:
        """The tightest limit in bytes; None without one."""
        return _least(*map(self._memory_limit, self.chain("memory")))

    def _memory_limit(self, folder: str) -> int | None:
        """The limit of one group. `memory.high` counts too: the kernel slows down a process beyond it."""
        names = ("memory.max", "memory.high") if folder in self.unified() else ("memory.limit_in_bytes",)
        found = (self._files.number(f"{folder}/{name}", poll=True) for name in names)
        return min((limit for limit in found if limit is not None and 0 <= limit < _UNLIMITED), default=None)

    def swap_left(self) -> int | None:
        """Bytes of swap left below the tightest limit; None without a limit."""
        return _least(*map(self._swap_left, self.chain("memory")))

    def _swap_left(self, folder: str) -> int | None:
        limit = self._number(folder, "memory.swap.max", "memory.memsw.limit_in_bytes")
        used = self._number(folder, "memory.swap.current", "memory.memsw.usage_in_bytes")
        return None if limit is None or used is None or limit >= _UNLIMITED else max(0, limit - used)

    def cpu_limits(self) -> list[tuple[float, str]]:
        """Each limit, in processors, with the folder of its group; empty without one."""
        found = ((self._cpu_limit(folder), folder) for folder in self.chain("cpu"))
        return [(limit, folder) for limit, folder in found if limit is not None]

    def _cpu_limit(self, folder: str) -> float | None:
        """CFS bandwidth of one group: kernel documentation, scheduler/sched-bwc."""
        if folder in self.unified():
            path = f"{folder}/cpu.max"
            texts = (self._files.poll(path) or "max 0").split(" ")
            quota, period = (self._files.integer(text, path) for text in (texts[0], texts[-1]))
        else:
            quota, period = (
                self._files.number(f"{folder}/cpu.cfs_{name}_us", poll=True) for name in ("quota", "period")
            )
        return quota / period if quota and period and quota > 0 and period > 0 else None

    def cpu_seconds(self, folder: str) -> float | None:
        """Processor seconds that the group at *folder* and its children have used; None where unknown."""
        if folder in self.unified():
            used = self._field(f"{folder}/cpu.stat", "usage_usec")
            return None if used is None else used / 1e6
        nanos = self._files.number(f"{self._accounts(folder)}/cpuacct.usage", poll=True)
        return None if nanos is None else nanos / 1e9

    def _accounts(self, folder: str) -> str:
        """The folder with the accounts of the group at *folder*: version 1 may have a separate hierarchy for them."""
        limits, accounts = self.chain("cpu"), self.chain("cpuacct")
        above = len(limits) - limits.index(folder)
        return accounts[max(0, len(accounts) - above)] if accounts else folder

    def _number(self, folder: str, version_2: str, version_1: str) -> int | None:
        """The number in the file with the name of its version."""
        name = version_2 if folder in self.unified() else version_1
        return self._files.number(f"{folder}/{name}", poll=True)

    def _field(self, path: str, name: str) -> int | None:
        text = self._files.fields(path, " ").get(name)
        return None if text is None else self._files.integer(text, path)

    def _find(self) -> dict[str, tuple[str, ...]]:
        """Controller -> folders; the empty controller is version 2."""
        mounts = list(self._mounts())
        found: dict[str, tuple[str, ...]] = {}
        for line in (self._files.text("proc/self/cgroup") or "").splitlines():
            _, _, rest = line.partition(":")
            names, colon, path = rest.partition(":")
            controllers = frozenset(names.split(",")) if names else frozenset[str]()
            chain = self._climb(path, controllers, mounts) if colon else ()
            if chain:
                found.update(dict.fromkeys(controllers or {""}, chain))
        return found

    def _climb(self, path: str, controllers: frozenset[str], mounts: list[_Mount]) -> tuple[str, ...]:
        """The folders from the group *path* up to the mount point of its hierarchy.

        A group outside the mounted part, which a container without its own namespace sees, is the mount point itself.
        """
        for mount in mounts:
            if bool(mount.controllers) == bool(controllers) and mount.controllers >= controllers:
                parts = _below(path, mount.root)
                folders = ["/".join([mount.point, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
                return tuple(folder for folder in folders if self._files.exists(folder))
        return ()

    def _mounts(self) -> Iterator[_Mount]:
        """The mounted hierarchies, from proc_pid_mountinfo(5)."""
        for line in (self._files.text("proc/self/mountinfo") or "").splitlines():
            left, _, right = line.partition(" - ")
            here, there = left.split(" "), right.split(" ")
            if len(here) < 5 or len(there) < 3 or there[0] not in {"cgroup", "cgroup2"}:
                continue
            controllers = frozenset(there[2].split(",")) - {"rw", "ro"} if there[0] == "cgroup" else frozenset[str]()
            yield _Mount(controllers=controllers, root=_plain(here[3]), point=_plain(here[4]).strip("/"))


def _below(path: str, root: str) -> list[str]:
    """The parts of *path* below *root*; empty if it is not below."""
    inside = path if root == "/" else path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else ""
    parts = [part for part in inside.split("/") if part]
    return [] if ".." in parts else parts


def _plain(text: str) -> str:
    """*text* with the kernel's octal escapes, such as `\\040` for a space, decoded."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


class _GroupSource(FileSource):
    def __init__(self, files: Files) -> None:
        super().__init__(files)
        self._groups = ControlGroups(files)


class MemorySource(_GroupSource):
    """`MemAvailable` of proc_meminfo(5), or what the tightest control group leaves, whichever is less."""

    signals = ("device.memory_available_mb", "device.memory_total_mb", "device.swap_available_mb")

    def read(self) -> tuple[Value, ...]:
        """MiB available, MiB total, MiB of swap; swap is None where this process has none."""
        path = "proc/meminfo"
        table = self._files.fields(path, ":")

        def size(name: str) -> int | None:
            kilobytes = self._files.integer(table[name].removesuffix(" kB"), path) if name in table else None
            return None if kilobytes is None else kilobytes * 1024

        available = _least(size("MemAvailable"), self._groups.memory_left())
        total = _least(size("MemTotal"), self._groups.memory_limit())
        swap = _least(size("SwapFree"), self._groups.swap_left()) if size("SwapTotal") else None
        return _mib(available), _mib(total), _mib(swap)


class CpuSource(_GroupSource):
    """The share of the processors usable by this process that is busy.

    Under a limit of its control groups (`cpu.max`) this is the share of the limit that the busiest group uses; what
    neighbours take from a group shows in `device.cpu_pressure`. Without a limit it is the share of time that the
    processors on which the process may run (affinity, cpusets) were not idle, from proc_stat(5).
    """

    signals = ("device.cpu_load",)

    def __init__(
        self,
        files: Files,
        *,
        clock: Callable[[], float] = time.perf_counter,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(files)
        self._clock = clock
        self._pause = pause
        self._last: dict[str, tuple[float, float]] = {}
        self._load: float | None = None

    def read(self) -> tuple[Value, ...]:
        """The load since the last reading, 0 to 1; the first call reads twice in short succession."""
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
        """For each group with a limit, else for the machine: seconds used, and seconds available."""
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
        """The processors on which the process may run: `Cpus_allowed_list` of proc_pid_status(5); empty if unknown."""
        allowed: set[int] = set()
        for part in self._files.fields("proc/self/status", ":").get("Cpus_allowed_list", "").split(","):
            first, _, last = part.partition("-")  # as in `0-3,8`
            if first.isdecimal() and (last or first).isdecimal() and len(part) < 16:
                allowed.update(range(int(first), min(int(last or first), 1 << 14) + 1))
        return frozenset(allowed)

    def _machine(self, allowed: frozenset[int]) -> Iterator[tuple[str, tuple[float, float]]]:
        """The allowed processors together; all of them where lxcfs renumbers them."""
        rows = dict(self._rows())
        chosen = [rows[f"cpu{number}"] for number in allowed if f"cpu{number}" in rows]
        chosen = chosen if len(chosen) == len(allowed) > 0 else [row for name, row in rows.items() if name == "cpu"]
        if chosen:
            whole = float(sum(sum(row[:8]) for row in chosen))
            idle = float(sum(row[column] for row in chosen for column in _IDLE_COLUMNS if column < len(row)))
            yield f"machine {sorted(allowed)}", (whole - idle, whole)

    def _rows(self) -> Iterator[tuple[str, list[int]]]:
        """The processors' lines: ticks of user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice."""
        path = "proc/stat"
        for line in (self._files.poll(path) or "").splitlines():
            name, *columns = line.split()
            if not name.startswith("cpu"):
                return
            if not columns or not all(column.isdecimal() and len(column) < 20 for column in columns):
                self._files.malformed(path)
                return
            yield name, [int(column) for column in columns]


class PressureSource(_GroupSource):
    """Pressure stall information of the process's own group, else of the machine: kernel documentation, accounting/psi.

    The stalls of the group include those caused by limits of its ancestors and by neighbours.
    """

    signals = ("device.memory_pressure", "device.cpu_pressure", "device.io_pressure")

    def read(self) -> tuple[Value, ...]:
        """`some avg10` of memory, processors and I/O, percent of time."""
        return tuple(self._pressure(resource) for resource in ("memory", "cpu", "io"))

    def _pressure(self, resource: str) -> float | None:
        own = next(iter(self._groups.unified()), None)
        paths = ([f"{own}/{resource}.pressure"] if own else []) + [f"proc/pressure/{resource}"]
        for path in paths:
            text = self._files.poll(path)
            if text:
                match = _SOME_AVG10.match(text)
                found = within(float(match[1]), 0.0, 100.0) if match else None
                if found is None:
                    self._files.malformed(path)
                return found
        return None


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _mib(count: int | None) -> float | None:
    return None if count is None or count < 0 else count / MIB

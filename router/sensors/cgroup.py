"""What a Linux control group lets this process use: memory and processor limits, version 1 and 2. Reads files only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ControlGroup", "pressure_some_avg10"]

_UNLIMITED: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The files of the process's own group; a file that is not there reads as no limit. *root* is `/` but in tests."""

    root: Path

    def _group(self, controller: str) -> Path:
        """The folder of *controller*: version 2 has one for all, version 1 one each (cgroups(7))."""
        for line in _read(self.root / "proc/self/cgroup").splitlines():
            _, names, path = line.split(":", 2)
            if names == "" or controller in names.split(","):
                base = self.root / "sys/fs/cgroup" / ("" if names == "" else controller)
                inside = base / path.lstrip("/")
                return inside if inside.is_dir() else base
        return self.root / "sys/fs/cgroup"

    def memory_left(self) -> int | None:
        """Bytes until the limit, page cache that can be dropped counted as free; None without a limit."""
        group = self._group("memory")
        limit = _first_number(group / "memory.max", group / "memory.limit_in_bytes")
        used = _first_number(group / "memory.current", group / "memory.usage_in_bytes")
        if limit is None or used is None or limit >= _UNLIMITED:
            return None
        reclaimable = _field(group / "memory.stat", "inactive_file") or 0
        return max(0, limit - used + reclaimable)

    def memory_limit(self) -> int | None:
        """The limit in bytes; None without one."""
        group = self._group("memory")
        limit = _first_number(group / "memory.max", group / "memory.limit_in_bytes")
        return None if limit is None or limit >= _UNLIMITED else limit

    def cpu_limit(self) -> float | None:
        """Processors' worth of time per second; None without a limit."""
        group = self._group("cpu")
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if not quota:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if not quota.strip().isdecimal() or not period.strip().isdecimal():
            return None
        return int(quota) / int(period)

    def cpu_seconds(self) -> float | None:
        """Processor time that the group has used, seconds; None where it is not told."""
        used = _field(self._group("cpu") / "cpu.stat", "usage_usec")
        if used is not None:
            return used / 1e6
        nanos = _first_number(self._group("cpuacct") / "cpuacct.usage")
        return None if nanos is None else nanos / 1e9

    def pressure(self, resource: str) -> float | None:
        """PSI `some avg10` of *resource* (`memory`, `cpu`), percent: the group's own, else the machine's."""
        own = pressure_some_avg10(_read(self._group(resource) / f"{resource}.pressure"))
        return own if own is not None else pressure_some_avg10(_read(self.root / "proc/pressure" / resource))


def pressure_some_avg10(text: str) -> float | None:
    """The number after `some avg10=` in a PSI file (kernel documentation, accounting/psi); None if it is not there."""
    for word in text.partition("\n")[0].split():
        name, _, value = word.partition("=")
        if name == "avg10":
            return float(value)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _first_number(*paths: Path) -> int | None:
    for path in paths:
        text = _read(path).strip()
        if text.isdecimal():
            return int(text)
    return None


def _field(path: Path, name: str) -> int | None:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value)
    return None

"""What a step costs: time, processor time, the peak of memory, and energy as far as this machine can tell."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_POWERCAP: Final = Path("/sys/class/powercap")
_RESET_PEAK: Final = "5"
"""Written to `clear_refs`, it sets the peak of a Linux process to its present size (proc(5))."""
_WATTS: Final = 5.0
ASSUMPTION: Final = f"{_WATTS:g} W for each busy core, assumed: no meter of this machine could be read"
"""Servers and laptops are between 3 and 10 W for each core at full load, by their rated power."""
METER: Final = "RAPL, the processor packages of this machine, with all that ran on it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules, and how they are known: `measured` by a meter, or an `estimate` by an assumption."""

    joules: float
    how: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a step took: seconds, seconds of processors, MB of memory at the most, and energy."""

    seconds: float
    cpu_seconds: float
    peak_memory_mb: float
    energy: Energy


class Meter:
    """Begins to measure when it is made."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        self._joules = _counters()
        self._cpu_s, self._began = _cpu_s(), time.monotonic()

    def read(self) -> Cost:
        """What was spent since then, by this process and the children that it waited for."""
        seconds, cpu_s = time.monotonic() - self._began, _cpu_s() - self._cpu_s
        return Cost(
            seconds=round(seconds, 3),
            cpu_seconds=round(cpu_s, 3),
            peak_memory_mb=round(peak_memory_mb(), 1),
            energy=_energy(self._joules, _counters(), cpu_s),
        )


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def peak_memory_mb() -> float:
    """The most memory that this process has held, in units of 10^6 bytes; on Linux, since a `Meter` was made.

    On Linux `ru_maxrss` would be that of the process that started this one, if that was larger (getrusage(2)).
    """
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _counters(root: Path = _POWERCAP) -> Mapping[Path, float]:
    """Each readable meter of a processor package, with its joules."""
    found = {}
    for zone in sorted(root.glob("intel-rapl:*")):
        if zone.name.count(":") == 1:  # further ones are parts of these
            with suppress(OSError, ValueError):
                found[zone] = int((zone / "energy_uj").read_text()) / 1e6
    return found


def _energy(before: Mapping[Path, float], after: Mapping[Path, float], cpu_s: float) -> Energy:
    if not before or before.keys() != after.keys():
        return Energy(joules=round(cpu_s * _WATTS, 1), how="estimate", by=ASSUMPTION)
    joules = sum(_passed(before[zone], after[zone], zone) for zone in before)
    return Energy(joules=round(joules, 1), how="measured", by=METER)


def _passed(before: float, after: float, zone: Path) -> float:
    """The difference of a counter that starts again from 0 at its maximum."""
    if after >= before:
        return after - before
    with suppress(OSError, ValueError):
        return after - before + int((zone / "max_energy_range_uj").read_text()) / 1e6
    return after

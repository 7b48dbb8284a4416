"""The samplers that read device and network beside the requests, never on their path.

What a device does not have stays None. In a container the limits of its own control group count, not the host's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Final, Protocol

from hybrid_llm.router.sensors.cgroup import ControlGroup
from hybrid_llm.router.signals import DeviceSignals, NetworkSignals

__all__ = ["FixedSensors", "Sensors", "SystemSensors"]

_log = logging.getLogger("hybrid_llm.sensors")
_MIB: Final = 1024 * 1024
_PROCESSOR_SENSORS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "acpitz", "cpu")


class Sensors(Protocol):
    """Where the device's and the network's signals come from."""

    def read(self) -> tuple[DeviceSignals, NetworkSignals]:
        """The latest sample; no I/O after the first."""
        ...

    def close(self) -> None:
        """Stop sampling."""
        ...


class FixedSensors:
    """Signals that are given, not read: for tests, demonstrations and `hybrid-llm explain --signal`."""

    def __init__(self, device: DeviceSignals | None = None, network: NetworkSignals | None = None) -> None:
        self.device = device or DeviceSignals()
        self.network = network or NetworkSignals()

    def read(self) -> tuple[DeviceSignals, NetworkSignals]:
        """What was given."""
        return self.device, self.network

    def close(self) -> None:
        """Nothing runs."""


class SystemSensors:
    """This machine, sampled every *interval* seconds by a daemon thread that the first `read` starts."""

    def __init__(self, *, interval: float = 1.0, root: Path = Path("/")) -> None:
        self._interval = interval
        self._group = ControlGroup(root)
        self._cpu = _CpuMeter(self._group)
        self._latest: tuple[DeviceSignals, NetworkSignals] | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def read(self) -> tuple[DeviceSignals, NetworkSignals]:
        """The latest sample; the first call takes one itself and starts the thread."""
        latest = self._latest
        return latest if latest is not None else self._first()

    def _first(self) -> tuple[DeviceSignals, NetworkSignals]:
        with self._lock:
            if self._latest is None:
                self._latest = self._sample()
                if not self._stop.is_set():
                    threading.Thread(target=self._run, name="hybrid-llm-sensors", daemon=True).start()
            return self._latest

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._latest = self._sample()
            except Exception as error:  # noqa: BLE001  # a sensor that breaks keeps its last sample, and says so
                _log.warning("sampling the device failed: %s", type(error).__name__)

    def _sample(self) -> tuple[DeviceSignals, NetworkSignals]:
        return self._device(), NetworkSignals(online=_online())

    def _device(self) -> DeviceSignals:
        import psutil

        memory = psutil.virtual_memory()
        left, limit = self._group.memory_left(), self._group.memory_limit()
        battery, charging = _battery()
        return DeviceSignals(
            cpu_load=self._cpu.read(),
            memory_available_mb=(memory.available if left is None else min(left, memory.available)) / _MIB,
            memory_total_mb=(memory.total if limit is None else min(limit, memory.total)) / _MIB,
            memory_pressure=self._group.pressure("memory"),
            cpu_pressure=self._group.pressure("cpu"),
            battery=battery,
            charging=charging,
            temperature_c=_temperature(),
        )

    def close(self) -> None:
        """Stop the thread; the last sample stays readable."""
        self._stop.set()


class _CpuMeter:
    """Share of the usable processors that is busy between two readings."""

    def __init__(self, group: ControlGroup) -> None:
        self._group = group
        self._last: tuple[float, float] | None = None

    def read(self) -> float:
        import psutil

        limit, used = self._group.cpu_limit(), self._group.cpu_seconds()
        machine = psutil.cpu_percent(interval=None) / 100.0
        if limit is None or used is None:
            return min(1.0, machine)
        now, last = time.monotonic(), self._last
        self._last = (now, used)
        if last is None or now <= last[0]:
            return min(1.0, machine)
        return max(0.0, min(1.0, (used - last[1]) / (now - last[0]) / min(limit, float(os.cpu_count() or 1))))


def _battery() -> tuple[float | None, bool | None]:
    import psutil

    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is None:
        return None, None
    return battery.percent / 100.0, battery.power_plugged


def _temperature() -> float | None:
    import psutil

    if not hasattr(psutil, "sensors_temperatures"):
        return None
    found = psutil.sensors_temperatures()
    readings = [entry.current for name in _PROCESSOR_SENSORS for entry in found.get(name, ())]
    return max(readings, default=None)


def _online() -> bool:
    """Whether an interface other than loopback is up: no packet is sent to find out."""
    import psutil

    return any(stats.isup and not name.startswith("lo") for name, stats in psutil.net_if_stats().items())

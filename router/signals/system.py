"""The device's and the network's signals for a client: sampled beside its requests, read by them for nothing.

What a device does not have stays None. In a container the limits of its own control groups count, not the host's.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from hybrid_llm.core.signals import DeviceSignals, NetworkSignals
from hybrid_llm.router.signals.files import Files
from hybrid_llm.router.signals.sampler import PATIENCE_S, Sampler, Source, Value

_NAN: Final = float("nan")
_MACHINE: Final = Path("/")
UNKNOWN: Final = (
    DeviceSignals(cpu_load=_NAN, memory_available_mb=_NAN, memory_total_mb=_NAN),
    NetworkSignals(),
)
"""What there is while nothing is known: a hard rule that reads a NaN takes its backends out."""


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


@dataclass(slots=True, eq=False)
class _Sample:
    """One sample, and the time on the monotonic clock until which it counts."""

    signals: tuple[DeviceSignals, NetworkSignals]
    until: float


class SystemSensors:
    """This machine, sampled every *interval* seconds by a daemon thread that the first `read` starts.

    *root* is `/` but in tests; *sources* makes the sources, all that this system has by default.
    """

    def __init__(
        self,
        *,
        interval: float = 1.0,
        root: Path = _MACHINE,
        sources: Callable[[], Sequence[Source]] | None = None,
    ) -> None:
        self._interval = interval
        self._make = sources or (lambda: system_sources(root))
        self._closed = False
        self._begin_anew()
        _alive.add(self)

    def _begin_anew(self) -> None:
        """Forget the sampler; also in a forked child, where threads and locks of the parent are worth nothing."""
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._sampler: Sampler | None = None
        self._latest: _Sample | None = None

    def read(self) -> tuple[DeviceSignals, NetworkSignals]:
        """The latest sample, or `UNKNOWN` where there is none that still counts.

        The first call starts the sampler and waits for it, half a second at most.
        """
        latest, sampler = self._latest, self._sampler
        if latest is None or sampler is None:
            return self._first()
        sampler.asked = True
        return latest.signals if time.monotonic() < latest.until else UNKNOWN

    def _first(self) -> tuple[DeviceSignals, NetworkSignals]:
        with self._lock:
            if self._sampler is None and not self._closed:
                self._sampler = Sampler(sources=self._make(), publish=self._publish, interval=self._interval)
                self._sampler.start()
        if not self._closed:
            self._arrived.wait(2 * PATIENCE_S)
        return self._latest.signals if self._latest is not None else UNKNOWN

    def _publish(self, known: Mapping[str, Value], until: float) -> None:
        device = replace(UNKNOWN[0], **_part(known, "device."))
        network = replace(UNKNOWN[1], **_part(known, "network."))
        self._latest = _Sample((device, network), until)
        self._arrived.set()

    def close(self) -> None:
        """Stop the thread; the last sample stays readable."""
        with self._lock:
            self._closed = True
            sampler = self._sampler
        if sampler is not None:
            sampler.close()
        if self._latest is not None:
            self._latest.until = float("inf")


_alive: weakref.WeakSet[SystemSensors] = weakref.WeakSet()


def _part(known: Mapping[str, Value], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in known.items() if name.startswith(prefix)}


def _after_fork() -> None:
    for sensors in list(_alive):
        sensors._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def system_sources(root: Path = _MACHINE) -> list[Source]:
    """Every source that this system has, the quick ones first; a tree of files elsewhere than at `/` is Linux's."""
    if sys.platform != "linux" and root == _MACHINE:
        return _portable()
    from hybrid_llm.router.signals.gpu import GpuSource
    from hybrid_llm.router.signals.heat import HeatSource, PowerSource
    from hybrid_llm.router.signals.kernel import CpuSource, MemorySource, PressureSource
    from hybrid_llm.router.signals.network import NetworkManagerSource, OnlineSource

    kinds = (MemorySource, PressureSource, OnlineSource, CpuSource, PowerSource, HeatSource, NetworkManagerSource)
    return [*(kind(Files(root)) for kind in kinds), GpuSource(Files(root))]


def _portable() -> list[Source]:
    from hybrid_llm.router.signals.gpu import GpuSource
    from hybrid_llm.router.signals.portable import PortableBattery, PortableMachine, PortableNetwork

    return [PortableMachine(), PortableNetwork(), PortableBattery(), GpuSource(Files())]

"""The signals of the device and the network, sampled beside the requests so that reading them costs a request nothing.

One thread decides which sources are due, a second one reads them; a source that hangs occupies its reader and no other
source. Signals that a device does not have are None. In a container the limits of its control groups count.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from hybrid_llm.core.signals import DeviceSignals, NetworkSignals
from hybrid_llm.core.threads import release_dropped, started
from hybrid_llm.router.signals.source import Files, Source, Value

_log = logging.getLogger("hybrid_llm.sensors")
_NAN: Final = float("nan")
_MACHINE: Final = Path("/")
_TIMEOUT_S: Final = 0.25
"""How long a round waits for its sources before it goes on without those that hang, seconds."""
_STALE_AFTER: Final = 3.0
"""A signal without a new value for this many of its own intervals, and `_MARGIN_S` more, is absent."""
_MARGIN_S: Final = 2.0
_SLOWED: Final = 5.0
"""Factor on the intervals while the signals are not read: an app in the background spares the battery."""
UNKNOWN: Final = (DeviceSignals(cpu_load=_NAN, memory_available_mb=_NAN, memory_total_mb=_NAN), NetworkSignals())
"""The signals while there is no sample: a hard rule that reads a NaN excludes its backends."""


def system_sources(root: Path = _MACHINE) -> list[Source]:
    """The sources of this system, the fastest first. A *root* other than `/` holds a tree of Linux's files."""
    from hybrid_llm.router.signals.gpu import GpuSource

    if sys.platform != "linux" and root == _MACHINE:
        from hybrid_llm.router.signals.portable import PortableBattery, PortableMachine, PortableNetwork

        return [source(Files()) for source in (PortableMachine, PortableNetwork, PortableBattery, GpuSource)]
    from hybrid_llm.router.signals.heat import HeatSource, PowerSource
    from hybrid_llm.router.signals.kernel import CpuSource, MemorySource, PressureSource
    from hybrid_llm.router.signals.network import NetworkManagerSource, OnlineSource

    fast: list[Callable[[Files], Source]] = [MemorySource, PressureSource, OnlineSource, CpuSource]
    return [source(Files(root)) for source in (*fast, PowerSource, HeatSource, NetworkManagerSource, GpuSource)]


class Sensors(Protocol):
    """Where the signals of the device and the network come from."""

    def read(self) -> tuple[DeviceSignals, NetworkSignals]:
        """The latest sample; no I/O after the first call."""
        ...

    def close(self) -> None:
        """Stop sampling."""
        ...


class FixedSensors:
    """Signals that are given instead of read: for tests, demonstrations and `hybrid-llm explain --signal`."""

    def __init__(self, device: DeviceSignals | None = None, network: NetworkSignals | None = None) -> None:
        self.device = device or DeviceSignals()
        self.network = network or NetworkSignals()

    def read(self) -> tuple[DeviceSignals, NetworkSignals]:
        """The given signals."""
        return self.device, self.network

    def close(self) -> None:
        """Nothing runs."""


class SystemSensors:
    """The sensors of this machine, sampled by a daemon thread that the first `read` starts.

    Args:
        interval: Seconds between two samples; a source may have a multiple of it.
        root: The root of the files to read, `/` except in tests.
        sources: Creates the sources; default: all that this system has.
    """

    def __init__(
        self, *, interval: float = 1.0, root: Path = _MACHINE, sources: Callable[[], Sequence[Source]] | None = None
    ) -> None:
        self._interval = interval
        self._make = sources or (lambda: system_sources(root))
        self._closed = False
        self._reset()
        _alive.add(self)

    def _reset(self) -> None:
        """Forget the sampler: initially, and in a forked child, which has none of its parent's threads."""
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._sampler: Sampler | None = None
        self._latest = (UNKNOWN, 0.0)  # the signals, and the time on the monotonic clock until which they are valid

    def read(self) -> tuple[DeviceSignals, NetworkSignals]:
        """The latest sample, or `UNKNOWN` if there is none that is still valid.

        The first call starts the sampler and waits for its first sample, at most half a second.
        """
        sampler = self._sampler
        if sampler is None or not self._arrived.is_set():
            return self._first()
        sampler.asked = True
        signals, until = self._latest
        return signals if time.monotonic() < until else UNKNOWN

    def _first(self) -> tuple[DeviceSignals, NetworkSignals]:
        with self._lock:
            if self._sampler is None and not self._closed:
                sampler = Sampler(sources=self._make(), publish=_weakly(self), interval=self._interval)
                sampler.start()
                self._sampler = sampler
        if not self._closed:
            self._arrived.wait(2 * _TIMEOUT_S)
        return self._latest[0]

    def _publish(self, known: Mapping[str, Value], until: float) -> None:
        device = replace(UNKNOWN[0], **_part(known, "device."))
        network = replace(UNKNOWN[1], **_part(known, "network."))
        self._latest = (device, network), until
        self._arrived.set()

    def close(self) -> None:
        """Stop the thread; the last sample stays readable."""
        with self._lock:
            self._closed = True
            sampler = self._sampler
        if sampler is not None:
            sampler.close()
        self._latest = self._latest[0], math.inf

    def __del__(self) -> None:
        if (sampler := getattr(self, "_sampler", None)) is not None and not self._closed:
            release_dropped(self, "SystemSensors", sampler.close)


def _weakly(sensors: SystemSensors) -> Callable[[Mapping[str, Value], float], None]:
    """The `_publish` of *sensors*, which the sampler's thread does not keep alive."""
    owner = weakref.ref(sensors)
    return lambda known, until: None if (one := owner()) is None else one._publish(known, until)


_alive: weakref.WeakSet[SystemSensors] = weakref.WeakSet()


def _part(known: Mapping[str, Value], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in known.items() if name.startswith(prefix)}


def _after_fork() -> None:
    for sensors in list(_alive):
        sensors._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(slots=True, eq=False)
class _Slot:
    """A source and its last values. `busy` changes only under the reader's lock."""

    source: Source
    due: float = -math.inf
    busy: bool = False
    values: tuple[Value, ...] = ()
    taken: float = -math.inf
    failed: bool = False

    def take(self) -> None:
        """Read the source. If it raises, its signals are absent; that is logged once until it works again."""
        try:
            self.values = self.source.read()
            self.failed = False
        except Exception as error:  # noqa: BLE001  # whatever a sensor raises, requests go on without it
            self.values = ()
            if not self.failed:
                _log.warning("reading %s failed: %s", ", ".join(self.source.signals), type(error).__name__)
            self.failed = True
        self.taken = time.monotonic()


class _Reader:
    """The thread that reads. Once dismissed it ends as soon as the source that it is reading returns."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Sequence[_Slot]] = queue.SimpleQueue()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._dismissed = False
        self._thread = started(self._run, name="hybrid-llm-sensors-read")

    def read(self, slots: Sequence[_Slot]) -> bool:
        """Read *slots*; False if that takes longer than the timeout."""
        self._done.clear()
        self._inbox.put(slots)
        return self._done.wait(_TIMEOUT_S)

    def dismiss(self) -> None:
        """Start reading no further source."""
        with self._lock:
            self._dismissed = True
        self._inbox.put(())

    def join(self) -> None:
        """Wait for the thread to end, until the timeout."""
        self._thread.join(_TIMEOUT_S)

    def _run(self) -> None:
        while slots := self._inbox.get():
            for slot in slots:
                if not self._begin(slot):
                    return
                slot.take()
                slot.busy = False
            self._done.set()

    def _begin(self, slot: _Slot) -> bool:
        with self._lock:
            if self._dismissed:
                return False
            slot.busy = True
            return True


@dataclass(slots=True, eq=False)
class Sampler:
    """Reads each of *sources* every *interval* seconds times its `every`, and publishes the signals that are valid.

    *publish* is called in the sampler's thread after each round, with the signals and the time on the monotonic clock
    until which they are valid. A reader whose source hangs is replaced for the other sources.
    """

    sources: Sequence[Source]
    publish: Callable[[Mapping[str, Value], float], None]
    interval: float
    quiet: float = 60.0
    """Seconds without a reader of the signals after which sampling slows down."""
    asked: bool = True
    """Set by everyone who reads the signals."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Call it once."""
        self._thread = started(self._run, name="hybrid-llm-sensors")

    def close(self) -> None:
        """Stop. The threads have ended when this returns, except one that a hanging source occupies."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        slots = [_Slot(source) for source in self.sources]
        reader: _Reader | None = None
        quiet_since = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            quiet_since, self.asked = (now if self.asked else quiet_since), False
            interval = self.interval * (_SLOWED if now - quiet_since > self.quiet else 1.0)
            reader, complete = self._round(slots, reader, now, interval)
            self.publish(dict(_valid(slots, interval)), time.monotonic() + _validity_s(interval))
            if complete:  # wait until the next source is due; a busy one is reconsidered then
                now = time.monotonic()
                self._stop.wait(max(0.0, min((slot.due - now for slot in slots if not slot.busy), default=interval)))
        if reader is not None:
            reader.dismiss()
            reader.join()
        for slot in slots:
            if not slot.busy:
                slot.source.close()

    def _round(
        self, slots: Sequence[_Slot], reader: _Reader | None, now: float, interval: float
    ) -> tuple[_Reader | None, bool]:
        """Read what is due. Returns the reader to go on with, and False if one hangs and other sources still wait."""
        due = [slot for slot in slots if slot.due <= now and not slot.busy]
        if not due:
            return reader, True
        reader = reader or _Reader()
        if reader.read(due):
            for slot in due:
                slot.due = now + interval * slot.source.every
            return reader, True
        reader.dismiss()
        for slot in due:
            if slot.busy or slot.taken >= now:  # hanging or read; the others are read at once by a new reader
                slot.due = now + interval * slot.source.every
        return None, False


def _valid(slots: Sequence[_Slot], interval: float) -> Iterator[tuple[str, Value]]:
    """The signals that are present and fresh. Of two values for one signal the lower counts, false before true."""
    now = time.monotonic()
    found: dict[str, float | bool] = {}
    for slot in slots:
        if now - slot.taken <= _validity_s(interval * slot.source.every):
            for name, value in zip(slot.source.signals, slot.values, strict=False):
                if value is not None:
                    found[name] = min(value, found.get(name, value))
    yield from found.items()


def _validity_s(interval: float) -> float:
    return _STALE_AFTER * interval + _MARGIN_S

"""Temperature of the processors, the margin until the system slows them down, and whether it does so now; Linux.

Battery and mains, as Linux's power supply class tells: kernel documentation, ABI/testing/sysfs-class-power.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.signals.files import Files, Found
from hybrid_llm.router.signals.sampler import Value, within

_HWMON: Final = "sys/class/hwmon"
_THERMAL: Final = "sys/class/thermal"
_CHIPS: Final = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "cpu", "scmi_sensors"})
"""The hwmon drivers that measure processors."""
_PROCESSOR: Final = re.compile(r"cpu|soc|x86_pkg|core|tsens|cluster|bigcore|littlecore", re.IGNORECASE)
_TRIPS: Final = frozenset({"passive", "hot", "critical"})
_COOLER: Final = re.compile(r"processor|cpufreq|cpu-|cpuidle|intel_powerclamp", re.IGNORECASE)
_THROTTLES: Final = "sys/devices/system/cpu/cpu0/thermal_throttle"
_RASPBERRY: Final = "sys/devices/platform/soc/soc:firmware/get_throttled"
_SLOWED_NOW: Final = 0b1110
"""Bits of the Raspberry Pi's word for now: frequency capped, throttled, soft temperature limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thermometer:
    """A file with a temperature, and the temperature at which the system acts, degrees Celsius."""

    path: str
    limit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """What this device has."""

    thermometers: tuple[_Thermometer, ...]
    coolers: tuple[str, ...]
    counters: tuple[str, ...]


class HeatSource:
    """The hottest processor sensor: hwmon where it knows processors, else their thermal zones, else any zone.

    Kernel documentation: hwmon/sysfs-interface, driver-api/thermal/sysfs-api.
    """

    gives = ("device.temperature_c", "device.thermal_headroom_c", "device.throttled")
    every = 2.0

    def __init__(self, files: Files) -> None:
        self._files = files
        self._places = Found(self._search)
        self._counted: dict[str, int] = {}

    def read(self) -> tuple[Value, ...]:
        """Degrees, degrees until the nearest limit (below 0 beyond it), and whether the processors are slowed down."""
        places = self._places.get()
        told = [(celsius(self._files, meter.path), meter.limit) for meter in places.thermometers]
        readings = [(degrees, limit) for degrees, limit in told if degrees is not None]
        hottest = max((degrees for degrees, _ in readings), default=None)
        headroom = min((limit - degrees for degrees, limit in readings if limit is not None), default=None)
        return hottest, headroom, self._throttled(places)

    def _throttled(self, places: _Places) -> bool | None:
        """True if anything that the system tells says so; None if it tells nothing."""
        told = [self._raspberry(), self._counters_rose(places.counters)]
        told += [state > 0 for cooler in places.coolers if (state := self._files.number(cooler)) is not None]
        known = [state for state in told if state is not None]
        return any(known) if known else None

    def _counters_rose(self, counters: tuple[str, ...]) -> bool | None:
        """Whether the x86 counters of throttling have risen since the last reading."""
        now = {path: count for path in counters if (count := self._files.number(path)) is not None}
        last, self._counted = self._counted, now
        return any(count > last.get(path, count) for path, count in now.items()) if now else None

    def _raspberry(self) -> bool | None:
        text = self._files.text(_RASPBERRY)
        if text is None:
            return None
        if not re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", text):
            self._files.damaged(_RASPBERRY)
            return None
        return bool(int(text, 16) & _SLOWED_NOW)

    def _search(self) -> _Places:
        zones = [name for name in self._files.names(_THERMAL) if name.startswith("thermal_zone")]
        kinds = {zone: self._files.text(f"{_THERMAL}/{zone}/type") or "" for zone in zones}
        processors = [zone for zone in zones if _PROCESSOR.search(kinds[zone])]
        thermometers = tuple(self._chips()) or tuple(map(self._zone, processors)) or tuple(map(self._zone, zones))
        return _Places(
            thermometers=thermometers,
            coolers=tuple(self._coolers()),
            counters=tuple(f"{_THROTTLES}/{name}" for name in self._files.names(_THROTTLES) if name.endswith("_count")),
        )

    def _chips(self) -> Iterator[_Thermometer]:
        for chip in self._files.names(_HWMON):
            folder = f"{_HWMON}/{chip}"
            if (self._files.text(f"{folder}/name") or "").lower() not in _CHIPS:
                continue
            for name in self._files.names(folder):
                if re.fullmatch(r"temp\d+_input", name):
                    stem = f"{folder}/{name.removesuffix('_input')}"
                    limits = [celsius(self._files, f"{stem}_{limit}") for limit in ("max", "crit")]
                    limit = min((degrees for degrees in limits if degrees and degrees > 0), default=None)
                    yield _Thermometer(path=f"{stem}_input", limit=limit)

    def _zone(self, zone: str) -> _Thermometer:
        folder = f"{_THERMAL}/{zone}"
        limits = [
            celsius(self._files, f"{folder}/{name.removesuffix('_type')}_temp")
            for name in self._files.names(folder)
            if re.fullmatch(r"trip_point_\d+_type", name) and self._files.text(f"{folder}/{name}") in _TRIPS
        ]
        limit = min((degrees for degrees in limits if degrees and degrees > 0), default=None)
        return _Thermometer(path=f"{folder}/temp", limit=limit)

    def _coolers(self) -> Iterator[str]:
        """What the system turns up to cool by slowing processors; fans are not among it."""
        for name in self._files.names(_THERMAL):
            folder = f"{_THERMAL}/{name}"
            if name.startswith("cooling_device") and _COOLER.search(self._files.text(f"{folder}/type") or ""):
                yield f"{folder}/cur_state"

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def celsius(files: Files, path: str) -> float | None:
    """The temperature in a file of thousandths of a degree; None for what no device survives (broken sensors)."""
    thousandths = files.number(path)
    return None if thousandths is None else within(thousandths / 1000.0, -40.0, 150.0)


_FOLDER: Final = "sys/class/power_supply"
_ON_MAINS: Final = {"charging": True, "full": True, "not charging": True, "discharging": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Battery:
    """One battery: *share* is its charge from 0 to 1, *energy* what it holds when full, in any one unit."""

    share: float
    energy: float | None
    status: str


class PowerSource:
    """All batteries of the device as one, weighted by their energy; those of mice and headsets are left out."""

    gives = ("device.battery", "device.charging")
    every = 10.0

    def __init__(self, files: Files) -> None:
        self._files = files

    def read(self) -> tuple[Value, ...]:
        """The charge, 0 to 1, and whether it is on external power; both None without a battery."""
        supplies = [f"{_FOLDER}/{name}" for name in self._files.names(_FOLDER)]
        supplies = [supply for supply in supplies if self._word(supply, "scope") != "device"]
        kinds = {supply: self._word(supply, "type") for supply in supplies}
        batteries = [found for supply in supplies if kinds[supply] == "battery" and (found := self._battery(supply))]
        if not batteries:
            return None, None
        plugs = [supply for supply in supplies if kinds[supply] not in {"battery", "ups", ""}]
        return _charge(batteries), self._plugged(plugs, batteries)

    def _battery(self, supply: str) -> _Battery | None:
        """The battery at *supply*; None where its bay is empty or it does not tell its charge."""
        if self._files.number(f"{supply}/present") == 0:
            return None
        full, now = self._pair(supply)
        percent = self._files.number(f"{supply}/capacity")
        share = now / full if full and now is not None else None if percent is None else percent / 100.0
        if within(share, 0.0, 2.0) is None:
            return None
        return _Battery(share=min(1.0, share or 0.0), energy=full, status=self._word(supply, "status"))

    def _pair(self, supply: str) -> tuple[float | None, float | None]:
        """Energy when full and now, microwatt hours; from the charge and the voltage where it counts that."""
        full, now = (self._files.number(f"{supply}/energy_{name}") for name in ("full", "now"))
        if full is not None and full > 0 and now is not None and now >= 0:
            return float(full), float(now)
        full, now = (self._files.number(f"{supply}/charge_{name}") for name in ("full", "now"))
        if full is None or full <= 0 or now is None or now < 0:
            return None, None
        volts = self._files.number(f"{supply}/voltage_min_design") or self._files.number(f"{supply}/voltage_now")
        return (full * volts / 1e6, now * volts / 1e6) if volts and volts > 0 else (None, None)

    def _plugged(self, plugs: list[str], batteries: list[_Battery]) -> bool | None:
        """What the plugs say; without any, what the batteries are doing."""
        online = [number for plug in plugs if (number := self._files.number(f"{plug}/online")) is not None]
        if online:
            return any(number > 0 for number in online)
        doing = [state for battery in batteries if (state := _ON_MAINS.get(battery.status)) is not None]
        return all(doing) if doing else None

    def _word(self, supply: str, name: str) -> str:
        return (self._files.text(f"{supply}/{name}") or "").lower()

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def _charge(batteries: list[_Battery]) -> float:
    """By energy where every battery tells its own, else each alike."""
    weights = [battery.energy for battery in batteries if battery.energy]
    if len(weights) != len(batteries):
        weights = [1.0] * len(batteries)
    return sum(battery.share * weight for battery, weight in zip(batteries, weights, strict=True)) / sum(weights)

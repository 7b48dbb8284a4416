"""Temperature and throttling of the processors, and battery and external power, on Linux."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from hybrid_llm.router.signals.source import Cached, Files, FileSource, Value, within

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
"""Bits of the Raspberry Pi's status: frequency capped, throttled or soft temperature limit now."""
_SUPPLIES: Final = "sys/class/power_supply"
_ON_MAINS: Final = {"charging": True, "full": True, "not charging": True, "discharging": False}


_Thermometer = tuple[str, float | None]
"""A file with a temperature, and the temperature at which the system throttles, degrees Celsius."""


class _Sensors(NamedTuple):
    """The sensors of this device: *coolers* and *counters* are files that show throttling."""

    thermometers: list[_Thermometer]
    coolers: list[str]
    counters: list[str]


class HeatSource(FileSource):
    """The hottest processor sensor: of hwmon if it has one, else of the processors' thermal zones, else of any zone.

    Kernel documentation: hwmon/sysfs-interface, driver-api/thermal/sysfs-api.
    """

    signals = ("device.temperature_c", "device.thermal_headroom_c", "device.throttled")
    every = 2.0

    def __init__(self, files: Files) -> None:
        super().__init__(files)
        self._sensors = Cached(self._search)
        self._counted: dict[str, int] = {}

    def read(self) -> tuple[Value, ...]:
        """Degrees Celsius, degrees until the nearest limit (negative beyond it), whether processors are throttled."""
        sensors = self._sensors.get()
        found = [(celsius(self._files, path), limit) for path, limit in sensors.thermometers]
        readings = [(degrees, limit) for degrees, limit in found if degrees is not None]
        hottest = max((degrees for degrees, _ in readings), default=None)
        headroom = min((limit - degrees for degrees, limit in readings if limit is not None), default=None)
        return hottest, headroom, self._throttled(sensors)

    def _throttled(self, sensors: _Sensors) -> bool | None:
        """Whether any indicator of the system reports it; None if there is no indicator."""
        found = [self._raspberry(), self._counters_rose(sensors.counters)]
        found += [state > 0 for cooler in sensors.coolers if (state := self._files.number(cooler)) is not None]
        known = [state for state in found if state is not None]
        return any(known) if known else None

    def _counters_rose(self, counters: list[str]) -> bool | None:
        """Whether the throttling counters of x86 have risen since the last reading."""
        now = {path: count for path in counters if (count := self._files.number(path)) is not None}
        last, self._counted = self._counted, now
        return any(count > last.get(path, count) for path, count in now.items()) if now else None

    def _raspberry(self) -> bool | None:
        text = self._files.text(_RASPBERRY)
        if text is None:
            return None
        if not re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", text):
            self._files.malformed(_RASPBERRY)
            return None
        return bool(int(text, 16) & _SLOWED_NOW)

    def _search(self) -> _Sensors:
        zones = [name for name in self._files.names(_THERMAL) if name.startswith("thermal_zone")]
        kinds = {zone: self._files.text(f"{_THERMAL}/{zone}/type") or "" for zone in zones}
        processors = [zone for zone in zones if _PROCESSOR.search(kinds[zone])]
        thermometers = list(self._chips()) or list(map(self._zone, processors)) or list(map(self._zone, zones))
        counters = [f"{_THROTTLES}/{name}" for name in self._files.names(_THROTTLES) if name.endswith("_count")]
        return _Sensors(thermometers, list(self._coolers()), counters)

    def _chips(self) -> Iterator[_Thermometer]:
        for chip in self._files.names(_HWMON):
            folder = f"{_HWMON}/{chip}"
            if (self._files.text(f"{folder}/name") or "").lower() not in _CHIPS:
                continue
            for name in self._files.names(folder):
                if re.fullmatch(r"temp\d+_input", name):
                    stem = f"{folder}/{name.removesuffix('_input')}"
                    yield f"{stem}_input", self._lowest(f"{stem}_max", f"{stem}_crit")

    def _zone(self, zone: str) -> _Thermometer:
        folder = f"{_THERMAL}/{zone}"
        trips = [
            f"{folder}/{name.removesuffix('_type')}_temp"
            for name in self._files.names(folder)
            if re.fullmatch(r"trip_point_\d+_type", name) and self._files.text(f"{folder}/{name}") in _TRIPS
        ]
        return f"{folder}/temp", self._lowest(*trips)

    def _lowest(self, *paths: str) -> float | None:
        limits = (celsius(self._files, path) for path in paths)
        return min((degrees for degrees in limits if degrees and degrees > 0), default=None)

    def _coolers(self) -> Iterator[str]:
        """Cooling devices that slow down processors, which excludes fans."""
        for name in self._files.names(_THERMAL):
            folder = f"{_THERMAL}/{name}"
            if name.startswith("cooling_device") and _COOLER.search(self._files.text(f"{folder}/type") or ""):
                yield f"{folder}/cur_state"


def celsius(files: Files, path: str) -> float | None:
    """The temperature in a file of thousandths of a degree; None for what only a broken sensor reports."""
    thousandths = files.number(path)
    return None if thousandths is None else within(thousandths / 1000.0, -40.0, 150.0)


class _Battery(NamedTuple):
    """One battery: *share* is its charge from 0 to 1, *energy* its full capacity, in any common unit."""

    share: float
    energy: float | None
    status: str


class PowerSource(FileSource):
    """All batteries of the device as one, weighted by capacity, and external power; mice and headsets do not count.

    Kernel documentation: ABI/testing/sysfs-class-power.
    """

    signals = ("device.battery", "device.charging")
    every = 10.0

    def read(self) -> tuple[Value, ...]:
        """The charge, 0 to 1, and whether external power is connected; both None without a battery."""
        supplies = [f"{_SUPPLIES}/{name}" for name in self._files.names(_SUPPLIES)]
        supplies = [supply for supply in supplies if self._word(supply, "scope") != "device"]
        kinds = {supply: self._word(supply, "type") for supply in supplies}
        batteries = [found for supply in supplies if kinds[supply] == "battery" and (found := self._battery(supply))]
        if not batteries:
            return None, None
        plugs = [supply for supply in supplies if kinds[supply] not in {"battery", "ups", ""}]
        return _charge(batteries), self._plugged(plugs, batteries)

    def _battery(self, supply: str) -> _Battery | None:
        """The battery at *supply*; None where its bay is empty or its charge unknown."""
        if self._files.number(f"{supply}/present") == 0:
            return None
        full, now = self._pair(supply)
        percent = self._files.number(f"{supply}/capacity")
        share = now / full if full and now is not None else None if percent is None else percent / 100.0
        if within(share, 0.0, 2.0) is None:
            return None
        return _Battery(share=min(1.0, share or 0.0), energy=full, status=self._word(supply, "status"))

    def _pair(self, supply: str) -> tuple[float | None, float | None]:
        """Energy when full and now, microwatt hours; computed from charge and voltage where only these are given."""
        volts = self._files.number(f"{supply}/voltage_min_design") or self._files.number(f"{supply}/voltage_now") or 0
        for kind, unit in (("energy", 1.0), ("charge", volts / 1e6)):
            full, now = (self._files.number(f"{supply}/{kind}_{name}") for name in ("full", "now"))
            if full is not None and full > 0 and now is not None and now >= 0 and unit > 0:
                return full * unit, now * unit
        return None, None

    def _plugged(self, plugs: list[str], batteries: list[_Battery]) -> bool | None:
        """Whether a plug is connected; without plugs, whether no battery is discharging."""
        online = [number for plug in plugs if (number := self._files.number(f"{plug}/online")) is not None]
        if online:
            return any(number > 0 for number in online)
        states = [state for battery in batteries if (state := _ON_MAINS.get(battery.status)) is not None]
        return all(states) if states else None

    def _word(self, supply: str, name: str) -> str:
        return (self._files.text(f"{supply}/{name}") or "").lower()


def _charge(batteries: list[_Battery]) -> float:
    """The mean charge, weighted by capacity if every battery reports it."""
    weights = [battery.energy for battery in batteries if battery.energy]
    if len(weights) != len(batteries):
        weights = [1.0] * len(batteries)
    return sum(battery.share * weight for battery, weight in zip(batteries, weights, strict=True)) / sum(weights)

"""Battery and mains, as Linux's power supply class tells: kernel documentation, ABI/testing/sysfs-class-power."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.sensors.files import Files
from hybrid_llm.router.sensors.source import Value, within

__all__ = ["PowerSource"]

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

"""Signals from psutil, for macOS and Windows; what these do not tell without rights or more libraries is absent."""

from __future__ import annotations

import time
from typing import Final

from hybrid_llm.router.signals.sampler import MIB, Value

_FIRST_WINDOW_S: Final = 0.04
_LOCAL: Final = ("lo", "utun", "tun", "tap", "bridge", "vmnet", "awdl", "llw", "anpi", "ap", "gif", "stf", "veth")
_LOCAL_WORDS: Final = ("loopback", "vethernet", "vmware", "virtualbox", "vpn", "wireguard", "tailscale", "bluetooth")


class PortableMachine:
    """Load of all processors and memory of the machine."""

    gives = (
        "device.cpu_load",
        "device.memory_available_mb",
        "device.memory_total_mb",
        "device.swap_available_mb",
    )
    every = 1.0

    def __init__(self) -> None:
        self._begun = False

    def read(self) -> tuple[Value, ...]:
        """As `MemorySource` and `CpuSource`, without control groups."""
        import psutil

        if not self._begun:
            self._begun = True
            psutil.cpu_percent(interval=None)
            time.sleep(_FIRST_WINDOW_S)
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        load = min(1.0, psutil.cpu_percent(interval=None) / 100.0)
        return load, memory.available / MIB, memory.total / MIB, swap.free / MIB if swap.total else None

    def close(self) -> None:
        """Nothing is open."""


class PortableBattery:
    """Charge and mains."""

    gives = ("device.battery", "device.charging")
    every = 10.0

    def read(self) -> tuple[Value, ...]:
        """Charge 0 to 1 and whether it is on external power; None without a battery."""
        import psutil

        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
        if battery is None:
            return None, None
        return max(0.0, min(1.0, battery.percent / 100.0)), battery.power_plugged

    def close(self) -> None:
        """Nothing is open."""


class PortableNetwork:
    """An interface that is up, is no tunnel and not the machine's own, and has an address beyond the link."""

    gives = ("network.online",)
    every = 1.0

    def read(self) -> tuple[Value, ...]:
        """Whether there is one."""
        import psutil

        addresses = psutil.net_if_addrs()
        up = [name for name, state in psutil.net_if_stats().items() if state.isup and not _is_local(name)]
        return (any(_is_wide(item.address) for name in up for item in addresses.get(name, ())),)

    def close(self) -> None:
        """Nothing is open."""


def _is_local(name: str) -> bool:
    plain = name.lower()
    return plain.startswith(_LOCAL) or any(word in plain for word in _LOCAL_WORDS)


def _is_wide(address: str) -> bool:
    """An IP address that is neither link-local nor loopback; hardware addresses are not."""
    import ipaddress

    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return not (found.is_link_local or found.is_loopback)

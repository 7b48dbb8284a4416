"""Signals from psutil for macOS and Windows; those that need special rights or other libraries are absent."""

from __future__ import annotations

import time
from typing import Final

from hybrid_llm.router.signals.source import MIB, FileSource, Value

_FIRST_WINDOW_S: Final = 0.04
_LOCAL: Final = ("lo", "utun", "tun", "tap", "bridge", "vmnet", "awdl", "llw", "anpi", "ap", "gif", "stf", "veth")
_LOCAL_WORDS: Final = ("loopback", "vethernet", "vmware", "virtualbox", "vpn", "wireguard", "tailscale", "bluetooth")


class PortableMachine(FileSource):
    """Load of all processors and memory of the machine."""

    signals = (
        "device.cpu_load", "device.memory_available_mb", "device.memory_total_mb", "device.swap_available_mb",
    )  # fmt: skip
    _begun = False

    def read(self) -> tuple[Value, ...]:
        """Load 0 to 1, MiB available, MiB total, MiB of swap; control groups are not considered."""
        import psutil

        if not self._begun:  # the load is the difference of two readings
            self._begun = True
            psutil.cpu_percent(interval=None)
            time.sleep(_FIRST_WINDOW_S)
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        load = min(1.0, psutil.cpu_percent(interval=None) / 100.0)
        return load, memory.available / MIB, memory.total / MIB, swap.free / MIB if swap.total else None


class PortableBattery(FileSource):
    """Battery and external power."""

    signals = ("device.battery", "device.charging")
    every = 10.0

    def read(self) -> tuple[Value, ...]:
        """Charge 0 to 1 and whether external power is connected; None without a battery."""
        import psutil

        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
        if battery is None:
            return None, None
        return max(0.0, min(1.0, battery.percent / 100.0)), battery.power_plugged


class PortableNetwork(FileSource):
    """Whether an interface is up that is neither local nor a tunnel and has a routable address."""

    signals = ("network.online",)

    def read(self) -> tuple[Value, ...]:
        """Whether there is one."""
        import psutil

        addresses = psutil.net_if_addrs()
        up = [name for name, state in psutil.net_if_stats().items() if state.isup and not _is_local(name)]
        return (any(_is_routable(item.address) for name in up for item in addresses.get(name, ())),)


def _is_local(name: str) -> bool:
    plain = name.lower()
    return plain.startswith(_LOCAL) or any(word in plain for word in _LOCAL_WORDS)


def _is_routable(address: str) -> bool:
    """Whether this is an IP address, not a hardware address, and neither link-local nor loopback."""
    import ipaddress

    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return not (found.is_link_local or found.is_loopback)

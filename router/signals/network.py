"""Whether a route leads off the device, and whether the connection is metered; Linux. No packet is sent."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.router.signals.source import FileSource, Value

_BUS: Final = "run/dbus/system_bus_socket"
_MANAGER: Final = "org.freedesktop.NetworkManager"
_TIMEOUT_S: Final = 1.0
_MAX_READS: Final = 64
_UP: Final = 0x0001
_REJECT: Final = 0x0200
"""Flags of a route, from linux/route.h."""
_TUNNEL: Final = re.compile(r"tun|tap|wg|tailscale|zt|utun|ipsec|vti|gre|sit|ip6tnl|nordlynx|proton", re.IGNORECASE)
_NOTHING: Final = re.compile(r"(lo|dummy\d*|ifb\d+)$")
_ONE_HOST_OR_MANY: Final = frozenset({"FFFFFFFF", "000000F0", "F0000000"})
"""Masks of routes to a single host, as in a container, and to multicast groups; both byte orders."""
_SELF_ASSIGNED: Final = frozenset({"0000FEA9", "A9FE0000"})
"""169.254.0.0, which a device assigns to itself without a DHCP server (RFC 3927); both byte orders."""
_LINK_LOCAL: Final = re.compile(r"fe[89ab]|ff", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Route:
    """A route to more than one host over *device*; *default* leads to all of them."""

    device: str
    default: bool


class OnlineSource(FileSource):
    """Whether a route leads off the device over an interface with a carrier, IPv4 or IPv6: proc(5), `/proc/net/route`.

    A bridge such as Docker's counts only with a default route. A tunnel counts only if there are no other interfaces:
    with its cable unplugged, a VPN leads nowhere.
    """

    signals = ("network.online",)

    def read(self) -> tuple[Value, ...]:
        """Whether there is one; None where the system does not show its routes."""
        routes = [*self._version_4(), *self._version_6()]
        if not routes and not self._files.exists("proc/net/route"):
            return (None,)
        return (any(self._leads_off(route) for route in routes),)

    def _version_4(self) -> Iterator[_Route]:
        path = "proc/net/route"
        for line in (self._files.poll(path) or "").splitlines()[1:]:
            columns = line.split()
            if len(columns) < 8 or not _is_hex(columns[1], columns[3], columns[7]):
                self._files.malformed(path)
                continue
            device, target, flags, mask = columns[0], columns[1], int(columns[3], 16), columns[7].upper()
            is_local = mask in _ONE_HOST_OR_MANY or target.upper() in _SELF_ASSIGNED
            if flags & _UP and not flags & _REJECT and not is_local:
                yield _Route(device, default=int(mask, 16) == 0)

    def _version_6(self) -> Iterator[_Route]:
        path = "proc/net/ipv6_route"
        for line in (self._files.poll(path) or "").splitlines():
            columns = line.split()
            if len(columns) != 10 or not _is_hex(*columns[:9]):
                self._files.malformed(path)
                continue
            target, length, flags = columns[0], int(columns[1], 16), int(columns[8], 16)
            is_local = length == 128 or (length > 0 and _LINK_LOCAL.match(target) is not None)
            if flags & _UP and not flags & _REJECT and not is_local:
                yield _Route(columns[9], default=length == 0)

    def _leads_off(self, route: _Route) -> bool:
        device = route.device
        if _NOTHING.match(device) or not self._has_carrier(device):
            return False
        if self._is_tunnel(device):
            return all(_NOTHING.match(other) or self._is_tunnel(other) for other in self._files.names("sys/class/net"))
        return route.default or not self._files.exists(f"sys/class/net/{device}/bridge")

    def _has_carrier(self, device: str) -> bool:
        """By the state of RFC 2863, else by the carrier, else by the route alone: drivers do not report everything."""
        state = self._files.text(f"sys/class/net/{device}/operstate")
        # `carrier` comes last because reading it takes the kernel's network lock.
        return state == "up" or (
            state in {None, "unknown"} and self._files.number(f"sys/class/net/{device}/carrier") != 0
        )

    def _is_tunnel(self, device: str) -> bool:
        folder = f"sys/class/net/{device}"
        kind = self._files.text(f"{folder}/uevent") or ""
        return bool(_TUNNEL.match(device) or "DEVTYPE=wireguard" in kind or self._files.exists(f"{folder}/tun_flags"))


class NetworkManagerSource(FileSource):
    """Whether the connection is metered, or behind a captive portal, as NetworkManager reports over D-Bus.

    It needs the extra `dbus` and a running NetworkManager, which is not started for it. The properties are `Metered`
    (`NMMetered`: 1 yes, 2 no, 3 and 4 guessed yes and no) and `Connectivity` (`NMConnectivityState`: 2 is a portal, a
    page that requires a login before any node can be reached).
    """

    signals = ("network.metered", "network.online")
    every = 15.0
    _METERED: Final = {1: True, 2: False, 3: True, 4: False}
    _PORTAL: Final = 2

    def read(self) -> tuple[Value, ...]:
        """Whether it is metered, None where unknown; and False behind a portal, else None."""
        if not self._files.exists(_BUS):
            return None, None
        metered, connectivity = self._ask("Metered"), self._ask("Connectivity")
        return self._METERED.get(metered or 0), False if connectivity == self._PORTAL else None

    def _ask(self, name: str) -> int | None:
        return system_property(self._files.path(_BUS), _MANAGER, "/org/freedesktop/NetworkManager", _MANAGER, name)


def system_property(address: str, destination: str, path: str, interface: str, name: str) -> int | None:
    """Read one property over the bus whose socket is at *address*.

    Returns:
        The property if it is an unsigned 32-bit integer. None if it is not, if there is no such property, service or
        bus, if a step takes more than a second, or if the extra `dbus` is not installed.
    """
    try:
        from jeepney import DBusAddress, MessageFlag, MessageType, Properties, message_bus
    except ImportError:
        return None
    request = Properties(DBusAddress(path, bus_name=destination, interface=interface)).get(name)
    request.header.flags = MessageFlag.no_auto_start
    try:  # not with jeepney's own connection, which waits for the reply to `Hello` without a timeout
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bus:
            bus.settimeout(_TIMEOUT_S)
            bus.connect(address)
            _authenticate(bus)
            bus.sendall(message_bus.Hello().serialise(serial=1) + request.serialise(serial=2))
            reply = _reply(bus, serial=2)
        kind, value = reply.body[0] if reply.header.message_type is MessageType.method_return else ("", None)
    except Exception:  # noqa: BLE001  # jeepney does not document what malformed bytes of a bus raise
        return None
    return value if kind == "u" else None


def _authenticate(bus: socket.socket) -> None:
    """Authenticate as this user, which the bus verifies with the kernel."""
    from jeepney.auth import BEGIN, Authenticator

    authenticator = Authenticator()
    for line in authenticator:
        bus.sendall(line)
        authenticator.feed(_receive(bus))
    bus.sendall(BEGIN)


def _reply(bus: socket.socket, serial: int) -> Any:
    """The reply to the message *serial*; signals and the reply to `Hello` may precede it."""
    from jeepney import HeaderFields, Parser

    parser = Parser()
    for _ in range(_MAX_READS):
        for message in parser.feed(_receive(bus)):
            if message.header.fields.get(HeaderFields.reply_serial) == serial:
                return message
    raise ValueError("the bus sends too much")


def _receive(bus: socket.socket) -> bytes:
    data = bus.recv(4096)
    if not data:
        raise ConnectionError("the bus closed the connection")
    return data


def _is_hex(*texts: str) -> bool:
    return all(re.fullmatch(r"[0-9A-Fa-f]{1,32}", text) for text in texts)

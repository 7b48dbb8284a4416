"""Asks the system's D-Bus for one number, in two round trips and without a library or a child process. Nothing else.

Wire format: D-Bus Specification 0.43, "Message Protocol" and "Authentication Protocol".

Whether a way leads off the device, and whether it is paid by volume; Linux. No packet is sent to find out.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.signals.files import Files
from hybrid_llm.router.signals.sampler import Value

_TIMEOUT_S: Final = 1.0
_LONGEST: Final = 1 << 16
_CALL, _REPLY = 1, 2
_NO_AUTO_START: Final = 2
"""A service that does not run is not started by our asking."""
_PATH, _INTERFACE, _MEMBER, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 5, 6, 8
_BUS: Final = "org.freedesktop.DBus"


def system_property(address: str, destination: str, path: str, interface: str, name: str) -> int | None:
    """The property *name*, if it is an unsigned 32-bit number; None if it is not, or nobody answers in a second."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(address)
            _authenticate(connection)
            connection.sendall(_call(1, _BUS, "/org/freedesktop/DBus", _BUS, "Hello"))
            ask = _call(2, destination, path, f"{_BUS}.Properties", "Get", interface, name)
            connection.sendall(ask)
            return _answer(connection, serial=2)
    except (OSError, ValueError, struct.error, UnicodeError):
        return None


def _authenticate(connection: socket.socket) -> None:
    """Say who we are; the bus asks the kernel whether it is true."""
    identity = str(os.geteuid()).encode().hex()
    connection.sendall(f"\0AUTH EXTERNAL {identity}\r\n".encode())
    line = b""
    while not line.endswith(b"\r\n") and len(line) < 512:
        line += _exactly(connection, 1)
    if not line.startswith(b"OK "):
        raise ValueError("the bus refuses")
    connection.sendall(b"BEGIN\r\n")


def _call(serial: int, destination: str, path: str, interface: str, member: str, *arguments: str) -> bytes:
    """A method call with texts as arguments."""
    body = b""
    for text in arguments:
        body = _padded(body, 4) + _text(text)
    fields = b""
    for code, kind, value in (
        (_PATH, "o", path),
        (_DESTINATION, "s", destination),
        (_INTERFACE, "s", interface),
        (_MEMBER, "s", member),
        *(((_SIGNATURE, "g", "s" * len(arguments)),) if arguments else ()),
    ):
        packed = _short(value) if kind == "g" else _text(value)
        fields = _padded(fields, 8) + bytes([code]) + _short(kind) + packed
    head = struct.pack("<cBBBIII", b"l", _CALL, _NO_AUTO_START, 1, len(body), serial, len(fields))
    return _padded(head + fields, 8) + body


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data + b"\0"


def _short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode() + b"\0"


def _padded(data: bytes, boundary: int) -> bytes:
    return data + bytes(-len(data) % boundary)


def _answer(connection: socket.socket, serial: int) -> int | None:
    """The number in the reply to *serial*; signals and the reply to `Hello` come before it."""
    while True:
        order, kind, _, _, size, _, length = struct.unpack("<cBBBIII", start := _exactly(connection, 16))
        if order == b"B":
            size, _, length = struct.unpack(">III", start[4:])
        if size > _LONGEST or length > _LONGEST:
            raise ValueError("a message that long is no answer")
        order = ">" if order == b"B" else "<"
        fields = _exactly(connection, length + -length % 8)[:length]
        body = _exactly(connection, size)
        if dict(_fields(fields, order)).get(_REPLY_SERIAL) == serial:
            return _number(body, order) if kind == _REPLY else None


def _fields(data: bytes, order: str) -> Iterator[tuple[int, int | None]]:
    """Code and number of each header field; texts are passed over."""
    at = 0
    while at < len(data):
        at += -at % 8
        code, kind = data[at], data[at + 2 : at + 3]
        at += 4
        if kind == b"g":
            at += data[at] + 2
            yield code, None
            continue
        at += -at % 4
        (value,) = struct.unpack_from(f"{order}I", data, at)
        at += 4 if kind == b"u" else 5 + value
        yield code, value if kind == b"u" else None


def _number(body: bytes, order: str) -> int | None:
    """A variant that holds an unsigned number: signature `u`, padding, four bytes."""
    if body[:3] != b"\x01u\0":
        return None
    (number,) = struct.unpack_from(f"{order}I", body, 4)
    return int(number)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ValueError("the bus hung up")
        data += piece
    return data


_UP: Final = 0x0001
_REJECT: Final = 0x0200
"""Flags of a route: linux/route.h."""
_TUNNEL: Final = re.compile(r"tun|tap|wg|tailscale|zt|utun|ipsec|vti|gre|sit|ip6tnl|nordlynx|proton", re.IGNORECASE)
_NOTHING: Final = re.compile(r"(lo|dummy\d*|ifb\d+)$")
_ONE_HOST_OR_MANY: Final = frozenset({"FFFFFFFF", "000000F0", "F0000000"})
"""Masks of routes to one host, as a container's, and to multicast groups; in the machine's own order of bytes."""
_SELF_ASSIGNED: Final = frozenset({"0000FEA9", "A9FE0000"})
"""169.254.0.0, which a device gives itself when nobody answers (RFC 3927)."""
_LINK_LOCAL: Final = re.compile(r"fe[89ab]|ff", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Route:
    """A way to more than one host; *default* is the way to all of them."""

    device: str
    default: bool


class OnlineSource:
    """A route that leads off the device over an interface with a carrier, IPv4 or IPv6: proc(5), `/proc/net/route`.

    A bridge, as Docker's, counts only with a default route, a tunnel only where there is no other kind of interface: a
    VPN whose cable is pulled leads nowhere.
    """

    gives = ("network.online",)
    every = 1.0

    def __init__(self, files: Files) -> None:
        self._files = files

    def read(self) -> tuple[Value, ...]:
        """True, false, or None where the system does not show its routes."""
        routes = [*self._version_4(), *self._version_6()]
        if not routes and not self._files.exists("proc/net/route"):
            return (None,)
        return (any(self._leads_off(route) for route in routes),)

    def _version_4(self) -> Iterator[_Route]:
        path = "proc/net/route"
        for line in (self._files.kept(path) or "").splitlines()[1:]:
            columns = line.split()
            if len(columns) < 8 or not _is_hex(columns[1], columns[3], columns[7]):
                self._files.damaged(path)
                continue
            device, target, flags, mask = columns[0], columns[1], int(columns[3], 16), columns[7].upper()
            to_itself = mask in _ONE_HOST_OR_MANY or target.upper() in _SELF_ASSIGNED
            if flags & _UP and not flags & _REJECT and not to_itself:
                yield _Route(device, default=int(mask, 16) == 0)

    def _version_6(self) -> Iterator[_Route]:
        path = "proc/net/ipv6_route"
        for line in (self._files.kept(path) or "").splitlines():
            columns = line.split()
            if len(columns) != 10 or not _is_hex(*columns[:9]):
                self._files.damaged(path)
                continue
            target, length, flags = columns[0], int(columns[1], 16), int(columns[8], 16)
            to_itself = length == 128 or (length > 0 and _LINK_LOCAL.match(target) is not None)
            if flags & _UP and not flags & _REJECT and not to_itself:
                yield _Route(columns[9], default=length == 0)

    def _leads_off(self, route: _Route) -> bool:
        device = route.device
        if _NOTHING.match(device) or not self._has_carrier(device):
            return False
        if self._is_tunnel(device):
            return all(_NOTHING.match(other) or self._is_tunnel(other) for other in self._files.names("sys/class/net"))
        return route.default or not self._files.exists(f"sys/class/net/{device}/bridge")

    def _has_carrier(self, device: str) -> bool:
        """The state of RFC 2863; drivers without one tell the carrier, and else the route's flag is taken for it.

        `carrier` is asked last, since the kernel takes its network lock for it.
        """
        state = self._files.text(f"sys/class/net/{device}/operstate")
        return state == "up" or (
            state in {None, "unknown"} and self._files.number(f"sys/class/net/{device}/carrier") != 0
        )

    def _is_tunnel(self, device: str) -> bool:
        folder = f"sys/class/net/{device}"
        kind = self._files.text(f"{folder}/uevent") or ""
        return bool(_TUNNEL.match(device) or "DEVTYPE=wireguard" in kind or self._files.exists(f"{folder}/tun_flags"))

    def close(self) -> None:
        """Close the files."""
        self._files.close()


class NetworkManagerSource:
    """What NetworkManager tells over D-Bus, where it runs: whether the connection is metered, and a captive portal.

    NetworkManager's D-Bus API: `NMMetered` (1 yes, 2 no, 3 and 4 the same as guesses), `NMConnectivityState` (2 portal:
    a page that wants a login stands before the internet, so that no node can be reached).
    """

    gives = ("network.metered", "network.online")
    every = 15.0
    _NAME: Final = "org.freedesktop.NetworkManager"
    _METERED: Final = {1: True, 2: False, 3: True, 4: False}
    _PORTAL: Final = 2

    def __init__(self, files: Files) -> None:
        self._socket = files.path("run/dbus/system_bus_socket")
        self._files = files

    def read(self) -> tuple[Value, ...]:
        """Metered, or None where it is not told; and False behind a portal, else None."""
        if not self._files.exists("run/dbus/system_bus_socket"):
            return None, None
        metered, connectivity = self._ask("Metered"), self._ask("Connectivity")
        return self._METERED.get(metered or 0), False if connectivity == self._PORTAL else None

    def _ask(self, name: str) -> int | None:
        return system_property(self._socket, self._NAME, "/org/freedesktop/NetworkManager", self._NAME, name)

    def close(self) -> None:
        """Nothing is open between two readings."""


def _is_hex(*texts: str) -> bool:
    return all(re.fullmatch(r"[0-9A-Fa-f]{1,32}", text) for text in texts)

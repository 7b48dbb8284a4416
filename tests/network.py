"""A network that can be taken away: a namespace of its own for the process, with one address that comes and goes.

It can be watched too: `Witness` sees every packet that anything in the process sends, native code included.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import sys

ADDRESS = "10.77.0.1"
NOT_ALLOWED = 77
"""The exit status of a process that may not make a namespace."""
_NONE = "0.0.0.0"
_NEWUSER, _NEWNET = 0x1000_0000, 0x4000_0000  # sched.h
_ADD_ROUTE, _RTENTRY = 0x890B, 120  # SIOCADDRT, and the size of struct rtentry on 64 bits: route.h
_RTENTRY_ADDRESSES, _RTENTRY_FLAGS, _RTENTRY_DEVICE = (8, 24, 40), 56, 88
_IPV4, _DNS = 0x0800, 53
_SET_FLAGS, _SET_ADDRESS, _UP = 0x8914, 0x8916, 0x1  # SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP: netdevice(7)


def leave() -> str:
    """Go to a network namespace of our own, which only a process of one thread may; why not, where that is refused."""
    flags = _NEWNET if os.geteuid() == 0 else _NEWUSER | _NEWNET
    refused = ctypes.CDLL(None, use_errno=True).unshare(flags)
    if not refused:
        network(up=True)
    return os.strerror(ctypes.get_errno()) if refused else ""


def network(*, up: bool) -> None:
    """Give this machine its address, or take it away: no way leads there then, as where Wi-Fi is off."""
    address = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(ADDRESS if up else _NONE))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))
        fcntl.ioctl(any_socket, _SET_ADDRESS, address)


def _route() -> None:
    """Send what is for any other machine to `lo`, where nobody answers: so a packet leaves, and can be seen."""
    name = ctypes.create_string_buffer(b"lo")
    entry = bytearray(_RTENTRY)
    for offset in _RTENTRY_ADDRESSES:  # destination, gateway and mask: any
        struct.pack_into("H", entry, offset, socket.AF_INET)
    struct.pack_into("H", entry, _RTENTRY_FLAGS, _UP)
    struct.pack_into("P", entry, _RTENTRY_DEVICE, ctypes.addressof(name))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _ADD_ROUTE, bytes(entry))


class Witness:
    """Sees what this process, in a namespace of its own, tries to send to another machine or to ask a resolver.

    Two see independently: an audit hook of Python, which names what was asked for, and a socket that gets every packet.
    """

    def __init__(self) -> None:
        self._asked: list[str] = []
        self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_IPV4))
        self._packets.bind(("lo", 0))
        self._packets.setblocking(False)
        _route()
        sys.addaudithook(self._audit)

    def attempts(self) -> list[str]:
        """Every attempt so far."""
        sent = []
        with contextlib.suppress(BlockingIOError):
            while True:
                sent.append(self._packets.recv(65_535))
        return [*self._asked, *filter(None, map(_foreign, sent))]

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}:
            if not _is_local(arguments[0]):
                self._asked.append(f"{event} {arguments[0]!r}")
        elif event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
            address = arguments[1]
            if isinstance(address, tuple) and not _is_local(address[0]):
                self._asked.append(f"{event} {address!r}")


def _is_local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    return name in {None, "", "localhost", "::1", ADDRESS, _NONE, "::"} or str(name).startswith("127.")


def _foreign(packet: bytes) -> str:
    """Where an IPv4 packet goes, if to another machine or to a resolver; else nothing."""
    header = 4 * (packet[0] & 15)
    target, protocol = socket.inet_ntoa(packet[16:20]), packet[9]
    port = int.from_bytes(packet[header + 2 : header + 4], "big") if protocol in {6, 17} else 0
    return f"packet to {target} port {port}" if not _is_local(target) or port == _DNS else ""

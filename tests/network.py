"""A network that can be taken away: a namespace of its own for the process, with one address that comes and goes."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

ADDRESS = "10.77.0.1"
NOT_ALLOWED = 77
"""The exit status of a process that may not make a namespace."""
_NONE = "0.0.0.0"
_NEWUSER, _NEWNET = 0x1000_0000, 0x4000_0000  # sched.h
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

"""Closes connections whose calls are mostly cancelled, or neither sent nor read: gRPC has no such limit.

gRPC gives the address of a peer, not its socket. The socket is found among this process's own descriptors, and shut
down; gRPC then ends the connection as if the peer had left.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Final
from urllib.parse import unquote

from hybrid_llm.core.log import Repeated

_log = logging.getLogger(__name__)
_WINDOW_S: Final = 10.0
"""Faults are forgotten evenly over this time, seconds."""
_REMEMBERED_S: Final = 60.0
_HEAD_START: Final = 0.9
_MOST_COUNTED: Final = 4096


class Connections:
    """Counts the faults of each connection, and closes one that has *most* of them within ten seconds.

    For a minute after, each connection of the same client begins near its end, so that connecting again gains little.
    """

    def __init__(
        self,
        most: int,
        *,
        hang_up: Callable[[str], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._hang_up = hang_up or close_connection
        self._clock = clock
        self._log = Repeated(clock, every_s=_WINDOW_S, between=logging.DEBUG, logger=_log)
        self._faults: dict[str, tuple[float, float]] = {}
        self._closed: dict[str, float] = {}

    def fault(self, peer: str, client: str, weight: float = 0.0) -> None:
        """Count a fault of *client* at *peer*, as gRPC spells it; *weight* is a part of the most allowed."""
        now = self._clock()
        known = now - self._closed.get(client, float("-inf")) < _REMEMBERED_S
        count, since = self._faults.get(peer, (_HEAD_START * self._most if known else 0.0, now))
        count = max(count - (now - since) * self._most / _WINDOW_S, 0.0) + max(weight * self._most, 1.0)
        if count < self._most:
            self._faults[peer] = (count, now)
            self._forget(now)
            return
        self._faults.pop(peer, None)
        self._closed[client] = now
        if self._hang_up(peer):
            text = "closed a connection of %s, %s: too many of its calls were cancelled, or not sent or read"
            self._log.warn(client, text, client, peer)

    def _forget(self, now: float) -> None:
        if len(self._closed) > _MOST_COUNTED:
            self._closed.clear()
        if len(self._faults) > _MOST_COUNTED:
            self._faults = {peer: each for peer, each in self._faults.items() if now - each[1] < _WINDOW_S}


def close_connection(peer: str) -> bool:
    """Shut down this process's connection with *peer*, such as `ipv4:192.0.2.7:43210`; false if there is none."""
    wanted, found = _address(peer), False
    for connection in _sockets():
        with closing(connection), suppress(OSError):
            if _canonical(connection.getpeername()) == wanted:
                connection.shutdown(socket.SHUT_RDWR)
                found = True
    return found


def _sockets() -> Iterator[socket.socket]:
    """Copies of the open sockets of this process."""
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):
            copy = os.dup(int(name))
            if stat.S_ISSOCK(os.fstat(copy).st_mode):
                yield socket.socket(fileno=copy)
            else:
                os.close(copy)


def host_of(peer: str) -> str:
    """The host of *peer*, such as `192.0.2.7`; empty if it has none."""
    return _address(peer)[0]


def _address(peer: str) -> tuple[str, int]:
    _, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    return _canonical((host, int(port))) if port.isdecimal() else ("", 0)


def _canonical(address: object) -> tuple[str, int]:
    """Host and port; an IPv4 address has one spelling, also on a socket of IPv6."""
    match address:
        case (str(host), int(port), *_):
            return host.strip("[]").removeprefix("::ffff:"), port
    return "", -1

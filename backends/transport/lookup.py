"""Names of hosts to addresses, bounded in time, and whether this machine has any way to an address.

The C library's look-up cannot be stopped, and takes ten seconds and more where no name server answers. So it is waited
for elsewhere: in a thread of its own, one for each name, however many ask.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

__all__ = ["NO_WAY", "Lookup", "has_way", "is_address"]

NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
"""What the kernel says where it cannot send to an address at all."""
_ANY_PORT: Final = 9

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]


class Lookup:
    """Looks names up. Safe to use from any thread.

    Args:
        getaddrinfo: As that of `socket`.
    """

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._lock = threading.Lock()
        self._asked: dict[str, Future[tuple[str, ...]]] = {}

    def __call__(self, host: str, timeout: float) -> tuple[str, ...]:
        """The addresses of *host*, each once, in the order in which they are to be tried (RFC 6724).

        Raises:
            socket.gaierror: it has none.
            TimeoutError: nothing was found out within *timeout* seconds.
        """
        if is_address(host):
            return (host,)
        with self._lock:
            asked = self._asked.get(host)
            if asked is None:
                self._asked[host] = asked = Future()
                threading.Thread(target=self._ask, args=(host, asked), name="hybrid-llm-lookup", daemon=True).start()
        return asked.result(timeout)

    def _ask(self, host: str, asked: Future[tuple[str, ...]]) -> None:
        try:
            found = self._getaddrinfo(host, None, type=socket.SOCK_STREAM)
            asked.set_result(tuple(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except Exception as error:  # noqa: BLE001  # whoever waits raises it
            asked.set_exception(error)
        finally:
            with self._lock:
                del self._asked[host]


def is_address(host: str) -> bool:
    """Whether *host* is an address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def has_way(address: str) -> bool:
    """Whether this machine could send to *address* now. It asks the kernel's routes, and sends nothing.

    Connecting a UDP socket looks the route up and no more (POSIX `connect`); about 10 us.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _ANY_PORT))
    except OSError as error:
        return error.errno not in NO_WAY
    return True

"""The addresses behind the names of nodes: looked up beside the calls, again and again. It opens nothing else."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from hybrid_llm.backends.cloud.config import CloudConfig

__all__ = ["Names"]

_AGAIN_S: Final = 10.0


class Names:
    """Configurations in; one configuration for each address out. An address stands for itself.

    A name that resolves to one address stays a name, so that gRPC looks it up itself. The certificate must name the
    host as configured, whatever its address.
    """

    def __init__(self, configs: Sequence[CloudConfig], *, clock: Callable[[], float]) -> None:
        self._configs = tuple(configs)
        self._clock = clock
        self._resolved = all(_is_address(config) for config in configs)
        self._due = 0.0
        self._looking = threading.Lock()
        self.known: tuple[CloudConfig, ...] = self._configs if self._resolved else ()
        """What is known now; empty until the first look-up, where there are names."""

    def refresh(self) -> tuple[CloudConfig, ...] | None:
        """Look the names up where that is due: at first in this thread, later in one beside the calls."""
        if self._resolved or self._clock() < self._due:
            return None
        self._due = self._clock() + _AGAIN_S
        if not self.known:
            self._look()
        else:
            threading.Thread(target=self._look, name="hybrid-llm-names", daemon=True).start()
        return self.known

    async def arefresh(self) -> tuple[CloudConfig, ...] | None:
        """Do as `refresh` does, without blocking the event loop."""
        if self._resolved or self._clock() < self._due:
            return None
        return await asyncio.to_thread(self.refresh) if not self.known else self.refresh()

    def _look(self) -> None:
        with self._looking:
            found = [each for config in self._configs for each in _addresses(config)]
            self.known = tuple({config.target: config for config in found}.values())


def _split(config: CloudConfig) -> tuple[str, str]:
    host, _, port = config.target.rpartition(":")
    return host.strip("[]"), port


def _is_address(config: CloudConfig) -> bool:
    try:
        ipaddress.ip_address(_split(config)[0])
    except ValueError:
        return False
    return True


def _addresses(config: CloudConfig) -> list[CloudConfig]:
    """*config* for each address of its host; as it is where the name does not resolve: the call will say so."""
    if _is_address(config):
        return [config]
    host, port = _split(config)
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError:
        return [config]
    hosts = sorted({str(entry[4][0]) for entry in found})
    if len(hosts) < 2:
        return [config]
    named = config.server_name or host
    return [replace(config, target=_join(address, port), server_name=named) for address in hosts]


def _join(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

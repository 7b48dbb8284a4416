"""The addresses behind the names of nodes: looked up beside the calls, again and again. It opens nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from hybrid_llm.backends.cloud.config import CloudConfig
from hybrid_llm.backends.transport.handshake import Endpoint
from hybrid_llm.backends.transport.lookup import Lookup, is_address

__all__ = ["Names"]

_AGAIN_S: Final = 10.0
_FIRST_S: Final = 1.0
"""The first call waits so long for names, seconds; a name that is not resolved by then is one node."""
_LONGEST_S: Final = 60.0


class Names:
    """Configurations in; one configuration for each address out. An address stands for itself.

    A name that resolves to one address stays a name. One that does not resolve any more keeps the addresses that it
    had. The certificate must name the host as configured, whatever its address.
    """

    def __init__(self, configs: Sequence[CloudConfig], *, lookup: Lookup, clock: Callable[[], float]) -> None:
        self._configs = tuple(configs)
        self._lookup = lookup
        self._clock = clock
        self._found: dict[CloudConfig, tuple[CloudConfig, ...]] = {config: (config,) for config in self._configs}
        self._resolved = all(is_address(Endpoint.parse(config.target).host) for config in configs)
        self._due = 0.0
        self._looking = threading.Lock()
        self.known: tuple[CloudConfig, ...] = self._configs if self._resolved else ()
        """What is known now; empty until the first look-up, where there are names."""

    def refresh(self, timeout: float) -> tuple[CloudConfig, ...] | None:
        """Look the names up where that is due: at first here, for *timeout* seconds at most; later beside the calls."""
        if not self.known:
            self._look_first(min(timeout, _FIRST_S))
        elif self._is_due():
            threading.Thread(target=self._look_again, name="hybrid-llm-names", daemon=True).start()
        else:
            return None
        return self.known

    async def arefresh(self, timeout: float) -> tuple[CloudConfig, ...] | None:
        """Do as `refresh` does, without blocking the event loop."""
        return self.refresh(timeout) if self.known else await asyncio.to_thread(self.refresh, timeout)

    def _is_due(self) -> bool:
        return not self._resolved and self._clock() >= self._due

    def _look_first(self, timeout: float) -> None:
        if self._looking.acquire(timeout=max(timeout, 0.0)):
            try:
                if not self.known:  # nobody was quicker
                    self._look(timeout)
            finally:
                self._looking.release()

    def _look_again(self) -> None:
        if self._looking.acquire(blocking=False):
            try:
                self._look(_LONGEST_S)
            finally:
                self._looking.release()

    def _look(self, timeout: float) -> None:
        """Look all names up; each gets its share of *timeout* seconds."""
        self._due, end = self._clock() + _AGAIN_S, time.monotonic() + timeout
        for number, config in enumerate(self._configs):
            share = (end - time.monotonic()) / (len(self._configs) - number)
            self._found[config] = self._addresses(config, share)
        found = [each for config in self._configs for each in self._found[config]]
        self.known = tuple({config.target: config for config in found}.values())

    def _addresses(self, config: CloudConfig, timeout: float) -> tuple[CloudConfig, ...]:
        """*config* for each address of its host; what it was before where the name does not resolve."""
        endpoint = Endpoint.parse(config.target, config.server_name)
        try:
            hosts = sorted(self._lookup(endpoint.host, timeout))
        except (OSError, UnicodeError):
            return self._found[config]
        if len(hosts) < 2:
            return (config,)
        targets = [str(replace(endpoint, host=address)) for address in hosts]
        return tuple(replace(config, target=target, server_name=endpoint.server_name) for target in targets)

"""The addresses behind the names of nodes: looked up beside the calls, again and again. It opens nothing else.

Where a node is: the address that answered last, else those of its name; and whether there is a way there.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from hybrid_llm.backends.grpc.config import GrpcConfig
from hybrid_llm.backends.wire.handshake import Address, Lookup, has_route, is_address
from hybrid_llm.core.errors import BackendUnavailable, HybridLLMError

_AGAIN_S: Final = 10.0
_FIRST_S: Final = 1.0
"""The first call waits so long for names, seconds; a name that is not resolved by then is one node."""
_LONGEST_S: Final = 60.0


class Names:
    """Configurations in; one configuration for each address out. An address stands for itself.

    A name that resolves to one address stays a name. One that does not resolve any more keeps the addresses that it
    had. The certificate must name the host as configured, whatever its address.
    """

    def __init__(self, configs: Sequence[GrpcConfig], *, lookup: Lookup, clock: Callable[[], float]) -> None:
        self._configs = tuple(configs)
        self._lookup = lookup
        self._clock = clock
        self._found: dict[GrpcConfig, tuple[GrpcConfig, ...]] = {config: (config,) for config in self._configs}
        self._resolved = all(is_address(Address.parse(config.target).host) for config in configs)
        self._due = 0.0
        self._looking = threading.Lock()
        self.known: tuple[GrpcConfig, ...] = self._configs if self._resolved else ()
        """What is known now; empty until the first look-up, where there are names."""

    def refresh(self, timeout: float) -> tuple[GrpcConfig, ...] | None:
        """Look the names up where that is due: at first here, for *timeout* seconds at most; later beside the calls."""
        if not self.known:
            self._look_first(min(timeout, _FIRST_S))
        elif self._is_due():
            threading.Thread(target=self._look_again, name="hybrid-llm-names", daemon=True).start()
        else:
            return None
        return self.known

    async def arefresh(self, timeout: float) -> tuple[GrpcConfig, ...] | None:
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

    def _addresses(self, config: GrpcConfig, timeout: float) -> tuple[GrpcConfig, ...]:
        """*config* for each address of its host; what it was before where the name does not resolve."""
        endpoint = Address.parse(config.target, config.server_name)
        try:
            hosts = sorted(self._lookup(endpoint.host, timeout))
        except (OSError, UnicodeError):
            return self._found[config]
        if len(hosts) < 2:
            return (config,)
        targets = [str(replace(endpoint, host=address)) for address in hosts]
        return tuple(replace(config, target=target, server_name=endpoint.server_name) for target in targets)


_FRESH_S: Final = 0.05
"""For so long the kernel's word that there is a way counts, seconds."""


class Place:
    """The place of one node, as far as the calls have found it. Safe to use from any thread."""

    def __init__(self, endpoint: Address, name: str, lookup: Lookup) -> None:
        self._endpoint = endpoint
        self._name = name
        self._lookup = lookup
        self._first = ""
        self._asked, self._has_way = float("-inf"), True
        self.address = ""
        """The address that answered last; empty before that."""

    @property
    def has_way(self) -> bool:
        """Whether this machine could send there; where it is not known yet, it is assumed."""
        now = time.monotonic()
        if self.address and now - self._asked > _FRESH_S:
            self._asked, self._has_way = now, has_route(self.address)
        return self._has_way

    def visit(self, shake: Callable[[str, float], object], timeout: float) -> None:
        """Call *shake* with an address and seconds, at one address after the other until it raises nothing.

        The one that answered last comes first, without a look-up. When it fails, the name may lead elsewhere by now.

        Raises:
            BackendUnavailable: the name does not resolve; or what *shake* raised last.
        """
        end, failures = time.monotonic() + timeout, list[HybridLLMError]()
        for address, share in self._addresses(end, failures):
            try:
                shake(address, max(share, 0.001))
            except HybridLLMError as error:
                self._first = ""
                failures.append(error)
            else:
                self.address = self._first = address
                self._asked = float("-inf")
                return
        raise failures[-1]

    def _addresses(self, end: float, failures: list[HybridLLMError]) -> Iterator[tuple[str, float]]:
        """Addresses with the seconds that each of them gets; *failures* tells what came of the earlier ones."""
        known = self._first
        if known:
            yield known, end - time.monotonic()
        left = end - time.monotonic()
        if known and left <= 0:
            return
        try:
            found = [address for address in self._resolved(left) if address != known]
        except BackendUnavailable:
            if not failures:
                raise
            return
        for number, address in enumerate(found):
            yield address, (end - time.monotonic()) / (len(found) - number)

    def _resolved(self, timeout: float) -> tuple[str, ...]:
        host = self._endpoint.host
        try:
            return self._lookup(host, timeout)
        except TimeoutError as error:
            text = f"the name {host} was not resolved within {timeout:.1f} s"
            raise BackendUnavailable(text, backend=self._name) from error
        except (socket.gaierror, UnicodeError):
            raise BackendUnavailable(f"the name {host} does not resolve", backend=self._name) from None

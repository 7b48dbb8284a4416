"""Where a node is: the address that answered last, else those of its name; and whether there is a way there."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

from hybrid_llm.backends.transport.handshake import Endpoint
from hybrid_llm.backends.transport.lookup import Lookup, has_way
from hybrid_llm.router.errors import BackendUnavailable, HybridLLMError

__all__ = ["Place"]

_FRESH_S: Final = 0.05
"""For so long the kernel's word that there is a way counts, seconds."""


class Place:
    """The place of one node, as far as the calls have found it. Safe to use from any thread."""

    def __init__(self, endpoint: Endpoint, name: str, lookup: Lookup) -> None:
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
            self._asked, self._has_way = now, has_way(self.address)
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

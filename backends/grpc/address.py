"""Where a cloud node is: its configuration, the endpoints behind a name, and the address, route and handshake of each.

Names are resolved beside the calls, again and again.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Final

from hybrid_llm.backends.wire.certificates import TLSFiles, inspect
from hybrid_llm.backends.wire.expiry import expiries
from hybrid_llm.backends.wire.handshake import Address, Lookup, has_route, is_address, tls_handshake
from hybrid_llm.backends.wire.revocation import CertificateId, RevocationList
from hybrid_llm.backends.wire.sealing.evidence import Verifier
from hybrid_llm.backends.wire.sealing.pins import SealedSpec
from hybrid_llm.backends.wire.tls import check_dates
from hybrid_llm.core.checked import Checked
from hybrid_llm.core.errors import AuthenticationFailed, BackendUnavailable, ConfigError, HybridLLMError
from hybrid_llm.core.fields import Number, Whole, key
from hybrid_llm.core.limits import PRIORITY
from hybrid_llm.core.secret import Secret

_AGAIN_S: Final = 10.0
_FIRST_S: Final = 1.0
"""The first call waits this long for names, seconds; a name that is not resolved by then is one endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcConfig(Checked):
    """One cloud node, as an app names it."""

    target: str
    """`HOST:PORT`, or `[IPv6]:PORT`."""
    tls: TLSFiles
    name: str = "cloud"
    """The name that policies use."""
    server_name: str | None = None
    """The name in the node's certificate, where that is not the host of *target*."""
    context_window: int = key(
        Whole(), "Maximum tokens of prompt and answer together; 0 learns it from the node.", default=0
    )
    max_message_bytes: int = key(Whole(1), "Size of the largest message, bytes.", default=4 * 1024 * 1024)
    connect_timeout: float = key(Number(0.001, 3600.0), "Seconds that one attempt to connect may take.", default=5.0)
    model: str = ""
    """The model or adapter of the node that answers; empty for the node's model, whatever its name."""
    token: Secret | None = None
    """A signed token that authenticates the app beside its certificate."""
    priority: int = key(PRIORITY, "Priority of requests that name none.", default=0)
    energy_per_1k_tokens_j: float = key(
        Number(), "What the device spends to send and receive 1,000 tokens, joules.", default=0.0
    )

    sealed: SealedSpec | None = None
    """Which sealing keys are accepted; with it nothing is sent that is not sealed."""
    verifier: Verifier | None = None
    """Checks the evidence of sealing keys, in place of that for `sealed.measurements`."""

    @property
    def label(self) -> str:
        """The backend and its address, for the log."""
        return f"{self.name} {self.target}"

    def expiries(self) -> dict[str, float]:
        """When the app's files for the node expire: see `wire.expiry`."""
        pins = None if self.sealed is None else self.sealed.keys
        return expiries(cert=self.tls.cert, ca=self.tls.ca, crl=self.tls.crl, pins=pins)


class Resolver:
    """Takes configurations, and returns one configuration for each address behind their names.

    A name that resolves to one address stays a name. One that no longer resolves keeps its last addresses. The node's
    certificate must hold the configured host, whatever the address.
    """

    def __init__(self, configs: Sequence[GrpcConfig], *, lookup: Lookup, clock: Callable[[], float]) -> None:
        self._hosts = {config: Address.parse(config.target, config.server_name) for config in configs}
        self._lookup = lookup
        self._clock = clock
        self._found: dict[GrpcConfig, tuple[GrpcConfig, ...]] = {config: (config,) for config in configs}
        self._pending: dict[GrpcConfig, Future[tuple[str, ...]]] = {}
        self._fixed = all(is_address(address.host) for address in self._hosts.values())
        self._due = 0.0
        self.endpoints: tuple[GrpcConfig, ...] = tuple(configs) if self._fixed else ()
        """The endpoints known now; where there are names, empty until the first look-up."""

    def refresh(self, timeout: float) -> tuple[GrpcConfig, ...] | None:
        """Return the endpoints where a look-up was due, else None.

        The first look-up is waited for, *timeout* seconds at most. Later ones run beside the calls, and count when the
        next one is due.
        """
        if self.endpoints and (self._fixed or self._clock() < self._due):
            return None
        self._due = self._clock() + _AGAIN_S
        pending, self._pending = self._pending, self._begin()
        if not self.endpoints:
            pending = self._pending
            wait(pending.values(), min(timeout, _FIRST_S))
        for config in pending:
            self._found[config] = self._addresses(config, pending[config])
        found = [each for config in self._hosts for each in self._found[config]]
        self.endpoints = tuple({each.target: each for each in found}.values())
        return self.endpoints

    async def arefresh(self, timeout: float) -> tuple[GrpcConfig, ...] | None:
        """Do as `refresh` does, without blocking the event loop."""
        return self.refresh(timeout) if self.endpoints else await asyncio.to_thread(self.refresh, timeout)

    def _begin(self) -> dict[GrpcConfig, Future[tuple[str, ...]]]:
        names = {config: address.host for config, address in self._hosts.items() if not is_address(address.host)}
        return {config: self._lookup.begin(name) for config, name in names.items()}

    def _addresses(self, config: GrpcConfig, pending: Future[tuple[str, ...]]) -> tuple[GrpcConfig, ...]:
        """*config* for each address of its host; the last ones where the name does not resolve, or not yet."""
        try:
            ips = sorted(ip for ip in pending.result(0) if "%" not in ip)  # a zone cannot stand in a target
        except (OSError, UnicodeError):
            return self._found[config]
        if len(ips) < 2:
            return (config,)
        address = self._hosts[config]
        targets = [str(replace(address, host=ip)) for ip in ips]
        return tuple(replace(config, target=target, server_name=address.server_name) for target in targets)


class EndpointAddress:
    """The IP address of one endpoint, as far as it is known, and the route to it. Safe to use from any thread."""

    def __init__(self, config: GrpcConfig, lookup: Lookup) -> None:
        self.address: Final = Address.parse(config.target, config.server_name)
        self._revocations = RevocationList(config.tls)
        self._certificate: CertificateId | None = None
        self._config = config
        self._lookup = lookup
        self._preferred = ""
        self.ip = ""
        """The IP address that answered last; empty before that."""

    def has_route(self) -> bool:
        """Whether this machine could send there now; true while the IP address is unknown."""
        return not self.ip or has_route(self.ip)

    def handshake(self, timeout: float) -> None:
        """Check that we can reach the node and trust each other, without sending it anything.

        One IP address after the other gets its share of *timeout*, until one succeeds. The one that answered last comes
        first, without a look-up. When it fails, the node may have moved.

        Raises:
            BackendUnavailable: the name does not resolve, or see `tls_handshake`.
            UntrustedPeer: see `tls_handshake`.
            AuthenticationFailed: the node rejects our certificate, or it is expired or cannot be read.
        """
        end, failure = time.monotonic() + timeout, HybridLLMError()
        files, name = self._config.tls, self._config.name
        try:
            check_dates(inspect(files.cert), files)
            for ip, share in self._candidates(end):
                try:
                    found = tls_handshake(
                        self.address,
                        files,
                        timeout=max(share, 0.001),
                        backend=name,
                        ip=ip,
                        revocations=self._revocations,
                    )
                except HybridLLMError as error:
                    self._preferred, failure = "", error
                else:
                    self.ip = self._preferred = ip
                    self._certificate = found.certificate
                    return
            raise failure
        except ConfigError as error:
            raise AuthenticationFailed(str(error), backend=name) from error

    def was_revoked(self) -> bool:
        """Whether the certificate of the last handshake is revoked now."""
        self._revocations.look()
        return self._certificate is not None and self._revocations.find(self._certificate) is not None

    def _candidates(self, end: float) -> Iterator[tuple[str, float]]:
        """IP addresses with the seconds that each gets."""
        preferred, host = self._preferred, self.address.host
        if preferred:
            yield preferred, end - time.monotonic()
        left = end - time.monotonic()
        if preferred and left <= 0:
            return
        try:
            found = [ip for ip in self._lookup(host, left) if ip != preferred]
        except (TimeoutError, socket.gaierror, UnicodeError) as error:
            if preferred:  # why that one failed says more
                return
            late = isinstance(error, TimeoutError)
            why = f"was not resolved within {left:.1f} s" if late else "does not resolve"
            failure = BackendUnavailable(f"the name {host} {why}", backend=self._config.name, reason="unresolved")
            raise failure from (error if late else None)
        for number, ip in enumerate(found):
            yield ip, (end - time.monotonic()) / (len(found) - number)

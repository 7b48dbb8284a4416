"""Refuses callers whose certificate is revoked, and closes their connections, also in the middle of an answer.

gRPC's Python API has no revocation list for the handshake, so a revoked certificate completes it. Each call is checked
instead, before its request is read, and when the list changes, each connection on which a call runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

from cryptography import x509

from hybrid_llm.backends.node.connections import close_connection
from hybrid_llm.backends.node.requests import NODE
from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.backends.wire.revocation import CertificateId, RevocationList, id_of
from hybrid_llm.core.errors import AuthenticationFailed

_log = logging.getLogger(__name__)
_CERTIFICATE: Final = "x509_pem_cert"


class RevokedPeers:
    """The connections of a node by their certificates. Used from one event loop.

    Raises:
        ConfigError: the revocation list of *files* cannot be used.
    """

    def __init__(self, files: TLSFiles, *, hang_up: Callable[[str], bool] = close_connection) -> None:
        self._list = RevocationList(files)
        self._hang_up = hang_up
        self._running: dict[str, tuple[CertificateId, int]] = {}
        """Address of a connection -> its certificate, and how many calls run on it."""

    @contextmanager
    def call(self, address: str, auth_context: Mapping[str, Any]) -> Generator[None, None, None]:
        """Count a call that runs on the connection of *address*, unless its certificate is revoked.

        Raises:
            AuthenticationFailed: it is.
        """
        certificate = _certificate(auth_context)
        if certificate is None:
            raise AuthenticationFailed("the certificate cannot be read", backend=NODE)
        if self._list.find(certificate) is not None:
            raise AuthenticationFailed("the certificate was revoked", backend=NODE)
        _, count = self._running.get(address, (certificate, 0))
        self._running[address] = (certificate, count + 1)
        try:
            yield
        finally:
            _, count = self._running.pop(address)
            if count > 1:
                self._running[address] = (certificate, count - 1)

    def look(self) -> None:
        """Read the list if it changed, and close the connections of certificates that are revoked now."""
        if not self._list.look():
            return
        for address, (certificate, _) in list(self._running.items()):
            if self._list.find(certificate) is not None and self._hang_up(address):
                _log.warning("closed a connection of %s: its certificate was revoked", address)


def _certificate(auth_context: Mapping[str, Any]) -> CertificateId | None:
    pem = next(iter(auth_context.get(_CERTIFICATE, ())), b"")
    return _parsed(pem if isinstance(pem, bytes) else pem.encode())


@lru_cache(maxsize=4096)
def _parsed(pem: bytes) -> CertificateId | None:
    """What names the certificate *pem*; parsing one takes 30 us, and each call asks."""
    try:
        return id_of(x509.load_pem_x509_certificate(pem))
    except ValueError:
        return None

"""Leaves TLS 1.3 as the only version that a gRPC server of this process speaks. Imports no gRPC: it must come first.

gRPC has no setting for a minimum version. Our certificates are ECDSA; a TLS 1.2 suite that needs RSA leaves TLS 1.2
without any suite, while those of TLS 1.3 are not affected. gRPC reads the variable once, when it is imported.

Says, before any connection is tried, whether one side's certificate, key and authority fit together.

Notices that a side's certificate files were replaced; whether the new ones are any good is asked elsewhere.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from hybrid_llm.backends.wire.certificates import CertificateFacts, Kind, TLSFiles, inspect, load_certificates, load_key
from hybrid_llm.core.errors import ConfigError

_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES128-GCM-SHA256"


def require_tls13() -> bool:
    """Call before gRPC is imported; returns whether the handshake itself will refuse TLS 1.2.

    It touches every gRPC connection of the process, so only a process that is a node does this. Where it comes too
    late, the node's interceptor still refuses each call over TLS 1.2.
    """
    if "grpc" not in sys.modules:
        os.environ[_VARIABLE] = _RSA_ONLY
    return tls13_required()


def tls13_required() -> bool:
    """Whether gRPC was told, before its import, to refuse TLS 1.2 in the handshake."""
    return os.environ.get(_VARIABLE) == _RSA_ONLY


_SAYS = {"node": "a server's", "client": "a client's"}


def check_pair(files: TLSFiles, kind: Kind, *, now: datetime | None = None) -> CertificateFacts:
    """Check that *files* let their holder act as *kind* at *now* (default: this moment); returns the facts.

    Raises:
        ConfigError: a file is missing or not PEM, the key is another certificate's, the certificate is not yet or no
            longer valid, of another authority, or not made for *kind*.
    """
    facts = check_files(files, kind)
    check_dates(facts, files, now=now)
    return facts


def check_files(files: TLSFiles, kind: Kind) -> CertificateFacts:
    """Do as `check_pair` does, for all but the dates: what cannot mend itself while a program runs."""
    chain = load_certificates(files.cert)
    authorities = load_certificates(files.ca)
    facts = inspect(files.cert)
    _check_key(chain[0], files)
    _check_authority(chain, authorities, files)
    _check_kind(facts, kind, files)
    return facts


def _check_key(certificate: x509.Certificate, files: TLSFiles) -> None:
    if load_key(files.key).public_key() != certificate.public_key():
        raise ConfigError(f"{files.key} is not the key of {files.cert}; issue both anew", path=str(files.key))


def check_dates(facts: CertificateFacts, files: TLSFiles, *, now: datetime | None = None) -> None:
    """Raise `ConfigError` when the certificate is not yet or no longer valid at *now*."""
    now = now or datetime.now(UTC)
    if now < facts.not_before:
        message = f"{files.cert} is not yet valid: it begins {facts.not_before:%Y-%m-%d %H:%M} UTC; check the clock"
        raise ConfigError(message, path=str(files.cert))
    if now >= facts.not_after:
        message = f"{files.cert} expired {facts.not_after:%Y-%m-%d %H:%M} UTC; renew it with `hybrid-llm certs`"
        raise ConfigError(message, path=str(files.cert))


def _check_authority(chain: list[x509.Certificate], authorities: list[x509.Certificate], files: TLSFiles) -> None:
    for certificate, issuer in pairwise(chain):
        if not _issued(certificate, issuer):
            raise ConfigError(f"the certificates in {files.cert} are not a chain", path=str(files.cert))
    if not any(_issued(chain[-1], authority) for authority in authorities):
        raise ConfigError(f"{files.cert} is not issued by the authority in {files.ca}", path=str(files.cert))


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_kind(facts: CertificateFacts, kind: Kind, files: TLSFiles) -> None:
    if kind in facts.kinds:
        return
    found = " and ".join(f"{_SAYS[known]}" for known in facts.kinds) or "no side's"
    raise ConfigError(f"{files.cert} is {found} certificate, not {_SAYS[kind]}", path=str(files.cert))


class FileWatch:
    """Tells whether files changed since it was last asked, by size, time and inode."""

    def __init__(self, files: TLSFiles) -> None:
        self._paths = (files.ca, files.cert, files.key)
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether a file is another one than at the last call; a few microseconds."""
        before, self._seen = self._seen, self._look()
        return self._seen != before

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)

"""Checks one side's TLS files, notices when they change, and makes TLS 1.3 the only version of a node. No gRPC here.

gRPC has no setting for a minimum version. Our certificates are ECDSA, so a TLS 1.2 suite that needs RSA leaves TLS 1.2
without any suite; those of TLS 1.3 are not affected. gRPC reads the variable once, when it is imported.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from hybrid_llm.backends.wire.certificates import CertificateInfo, Kind, TLSFiles, inspect, load_certificates, load_key
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import stamp_of

_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES128-GCM-SHA256"
_SIDES = {"node": "a server's", "client": "a client's"}


def require_tls13() -> bool:
    """Refuse TLS 1.2 in the handshake; returns false where gRPC was imported already, which is too late.

    It affects every gRPC connection of the process, so only a node's process calls it. Where it is too late, the node's
    interceptor still refuses each call over TLS 1.2.
    """
    if "grpc" not in sys.modules:
        os.environ[_VARIABLE] = _RSA_ONLY
    return tls13_required()


def tls13_required() -> bool:
    """Whether gRPC was configured, before its import, to refuse TLS 1.2 in the handshake."""
    return os.environ.get(_VARIABLE) == _RSA_ONLY


def check_pair(files: TLSFiles, kind: Kind, *, now: datetime | None = None) -> CertificateInfo:
    """Check that *files* let their holder act as *kind* at *now* (default: this moment); return the certificate.

    Raises:
        ConfigError: a file is missing or not PEM, the key is another certificate's, the certificate is not yet or no
            longer valid, of another authority, or not issued for *kind*.
    """
    found = check_files(files, kind)
    check_dates(found, files, now=now)
    return found


def check_files(files: TLSFiles, kind: Kind) -> CertificateInfo:
    """Do as `check_pair` does, except for the dates, which a running program outlives."""
    chain, found = load_certificates(files.cert), inspect(files.cert)
    if load_key(files.key).public_key() != chain[0].public_key():
        raise ConfigError(f"{files.key} is not the key of {files.cert}; issue both anew", path=str(files.key))
    if not all(_issued(certificate, issuer) for certificate, issuer in pairwise(chain)):
        raise ConfigError(f"the certificates in {files.cert} are not a chain", path=str(files.cert))
    if not any(_issued(chain[-1], authority) for authority in load_certificates(files.ca)):
        raise ConfigError(f"{files.cert} is not issued by the authority in {files.ca}", path=str(files.cert))
    if kind not in found.kinds:
        kinds = " and ".join(_SIDES[known] for known in found.kinds) or "no side's"
        raise ConfigError(f"{files.cert} is {kinds} certificate, not {_SIDES[kind]}", path=str(files.cert))
    return found


def check_dates(found: CertificateInfo, files: TLSFiles, *, now: datetime | None = None) -> None:
    """Raise `ConfigError` when the certificate is not yet or no longer valid at *now*."""
    now = now or datetime.now(UTC)
    if now < found.not_before:
        message = f"{files.cert} is not yet valid: it begins {found.not_before:%Y-%m-%d %H:%M} UTC; check the clock"
        raise ConfigError(message, path=str(files.cert))
    if now >= found.not_after:
        message = f"{files.cert} expired {found.not_after:%Y-%m-%d %H:%M} UTC; renew it with `hybrid-llm certs issue`"
        raise ConfigError(message, path=str(files.cert))


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


class FileWatch:
    """Notices that one side's files were replaced; whether they fit is checked elsewhere."""

    def __init__(self, files: TLSFiles) -> None:
        self._paths = tuple(path for path in (files.ca, files.cert, files.key, files.crl) if path is not None)
        self._stamps = [stamp_of(path) for path in self._paths]

    def changed(self) -> bool:
        """Whether a file differs from that at the last call; a few microseconds."""
        before, self._stamps = self._stamps, [stamp_of(path) for path in self._paths]
        return self._stamps != before

"""Says, before any connection is tried, whether one side's certificate, key and authority fit together."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from hybrid_llm.backends.transport.certificates import (
    CertificateFacts,
    Kind,
    TLSFiles,
    inspect,
    load_certificates,
    load_key,
)
from hybrid_llm.router.errors import ConfigError

__all__ = ["check_dates", "check_files", "check_pair"]

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

"""Certificates that an authority has revoked: its list (CRL, RFC 5280), and which certificates it issued to a name.

The authority writes `crl.pem` beside `ca.pem`; nodes and apps read their copy of it. A list that is broken, of another
authority or older than the last one is not used: the last good one stays. A list that has passed its date still counts,
with a warning: nodes that stop because nobody signed the list anew would be worse.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hybrid_llm.backends.wire.certificates import TLSFiles, load_certificates, load_key, read_file, write_file
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import Stamp, stamp_of

_log = logging.getLogger(__name__)
CRL_NAME: Final = "crl.pem"
REASONS: Final = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key-compromise": x509.ReasonFlags.key_compromise,
    "superseded": x509.ReasonFlags.superseded,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
    "privilege-withdrawn": x509.ReasonFlags.privilege_withdrawn,
}
_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_MOST_BYTES: Final = 64 << 20

CertificateId = tuple[bytes, int]
"""The issuer's name (DER) and the serial number, which together name one certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """One entry of a list."""

    serial: int
    at: datetime
    reason: str


def id_of(certificate: x509.Certificate) -> CertificateId:
    """What names *certificate* in lists."""
    return certificate.issuer.public_bytes(), certificate.serial_number


def revoke(
    folder: str | Path, serials: Iterable[int], *, reason: str = "unspecified", days: int = 365
) -> tuple[Revoked, ...]:
    """Add *serials* to the list of the authority in *folder* and sign it anew; return all of its entries.

    Args:
        folder: Where the authority is.
        serials: Serial numbers; those that are listed already stay as they are.
        reason: A key of `REASONS`.
        days: Until the list should be signed again.

    Raises:
        ConfigError: no authority, or its list is broken.
    """
    root = Path(folder)
    authority, key = load_certificates(root / "ca.pem")[0], load_key(root / "ca.key")
    old = _load(root / CRL_NAME, [authority]) if (root / CRL_NAME).exists() else []
    now = datetime.now(UTC).replace(microsecond=0)
    entries = {each.serial: each for crl in old for each in entries_of(crl)}
    entries |= {each: Revoked(serial=each, at=now, reason=reason) for each in serials if each not in entries}
    number = max(map(number_of, old), default=0) + 1
    crl = _signed(authority, key, entries.values(), number, now, now + timedelta(days=days))
    write_file(root / CRL_NAME, crl.public_bytes(serialization.Encoding.PEM), 0o644)
    return tuple(entries.values())


def _signed(
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    entries: Iterable[Revoked],
    number: int,
    now: datetime,
    until: datetime,
) -> x509.CertificateRevocationList:
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now).next_update(until).add_extension(x509.CRLNumber(number), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    for each in entries:
        entry = x509.RevokedCertificateBuilder().serial_number(each.serial).revocation_date(each.at)
        if each.reason != "unspecified":  # RFC 5280, 5.3.1: absent rather than unspecified
            entry = entry.add_extension(x509.CRLReason(REASONS[each.reason]), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, hashes.SHA256())


def read_lists(path: Path, ca: Path) -> list[x509.CertificateRevocationList]:
    """The lists in the PEM file *path*, each signed by an authority in *ca*.

    Raises:
        ConfigError: the file cannot be read, is no list, or a list of it is not signed by such an authority.
    """
    return _load(path, load_certificates(ca))


def _load(path: Path, authorities: list[x509.Certificate]) -> list[x509.CertificateRevocationList]:
    data = read_file(path)
    blocks = _BLOCK.findall(data) if len(data) <= _MOST_BYTES else []
    if not blocks:
        raise ConfigError(
            f"{path} holds no revocation list in PEM form; `hybrid-llm certs revoke` makes one", path=str(path)
        )
    return [_verified(block, path, authorities) for block in blocks]


def _verified(block: bytes, path: Path, authorities: list[x509.Certificate]) -> x509.CertificateRevocationList:
    try:
        crl = x509.load_pem_x509_crl(block)
        if any(signed_by(crl, authority) for authority in authorities):
            return crl
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} holds a revocation list that cannot be read: {error}", path=str(path)) from None
    raise ConfigError(f"{path} is not signed by the authority that it is for", path=str(path))


def signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    """Whether *authority* issued and signed it; ValueError, TypeError or UnsupportedAlgorithm if it cannot be read."""
    key = authority.public_key()
    is_ours = isinstance(key, ec.EllipticCurvePublicKey) and crl.issuer == authority.subject
    return is_ours and crl.is_signature_valid(cast(ec.EllipticCurvePublicKey, key))


def parse_lists(data: bytes) -> list[x509.CertificateRevocationList]:
    """The lists in *data*, PEM or DER, of which nothing is verified; empty if there are none that can be read."""
    try:
        blocks = _BLOCK.findall(data)
        return [x509.load_pem_x509_crl(each) for each in blocks] if blocks else [x509.load_der_x509_crl(data)]
    except ValueError:
        return []


def entries_of(crl: x509.CertificateRevocationList) -> Iterator[Revoked]:
    """What is revoked in *crl*."""
    names = {flag: name for name, flag in REASONS.items()}
    for entry in crl:
        try:
            flag = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        except x509.ExtensionNotFound:
            flag = x509.ReasonFlags.unspecified
        reason = names.get(flag, str(flag.value))
        yield Revoked(serial=entry.serial_number, at=entry.revocation_date_utc, reason=reason)


def number_of(crl: x509.CertificateRevocationList) -> int:
    """Its number, which grows with each list of an authority."""
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def existing(path: Path) -> Path:
    """*path*, the list that somebody named; raises ConfigError where there is none, which would revoke nothing."""
    if not path.is_file():
        text = f"{path} does not exist; `hybrid-llm certs revoke` signs a list, an empty one too"
        raise ConfigError(text, path=str(path))
    return path


class RevocationList:
    """The revoked certificates of one side's `TLSFiles`, read again when the file changes. None where there is no file.

    Raises:
        ConfigError: there is a file at the start, and it cannot be used.
    """

    def __init__(self, files: TLSFiles) -> None:
        self._path, self._ca = files.crl, files.ca
        self._stamp: Stamp | None = None
        self._revoked: dict[CertificateId, Revoked] = {}
        self._numbers: dict[bytes, int] = {}
        if self._path is not None and (stamp := stamp_of(self._path)) is not None:
            self._stamp = stamp
            self._take(read_lists(self._path, self._ca))

    def look(self) -> bool:
        """Read the file if it changed; whether other certificates are revoked now. Microseconds without a change."""
        if self._path is None or (stamp := stamp_of(self._path)) == self._stamp:
            return False
        self._stamp = stamp
        try:
            before, found = dict(self._revoked), read_lists(self._path, self._ca)
            self._take(found)
        except ConfigError as error:
            _log.error("the revocation list changed, and the last good one stays in use: %s", error)
            return False
        _log.info("revocation list %s: %d certificates are revoked", self._path, len(self._revoked))
        return self._revoked != before

    def find(self, certificate: CertificateId) -> Revoked | None:
        """The entry of *certificate*, if it is revoked."""
        return self._revoked.get(certificate)

    def _take(self, lists: list[x509.CertificateRevocationList]) -> None:
        numbers = {crl.issuer.public_bytes(): number_of(crl) for crl in lists}
        for issuer, last in self._numbers.items():
            if numbers.get(issuer, -1) < last:
                raise ConfigError(f"{self._path} is older than the list in use (number {last})", path=str(self._path))
        self._numbers = numbers
        self._revoked = {(crl.issuer.public_bytes(), each.serial): each for crl in lists for each in entries_of(crl)}
        for crl in lists:
            if (until := crl.next_update_utc) is not None and until < datetime.now(UTC):
                text = (
                    "%s should have been signed again by %s; it still counts: run `hybrid-llm certs revoke` to renew it"
                )
                _log.warning(text, self._path, f"{until:%Y-%m-%d %H:%M} UTC")

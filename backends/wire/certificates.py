"""Makes the certificates of a private authority, and reads them; whether a set of them fits is `checks`' business.

Layout of a folder: `ca.pem`, `ca.key`, and for each name `NAME.pem`, `NAME.key`. Identities are URIs in the style of
SPIFFE, `spiffe://hybrid-llm/node/NAME` and `spiffe://hybrid-llm/client/NAME`. Keys are ECDSA over P-256.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hybrid_llm.core.errors import ConfigError

Kind = Literal["node", "client"]
TRUST_DOMAIN = "spiffe://hybrid-llm"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_CLOCK_SKEW = timedelta(minutes=5)
_USAGE = {"node": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSFiles:
    """Paths of one side's PEM files: the authority it trusts, its own certificate, and its key."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def from_dir(cls, folder: str | Path, name: str) -> TLSFiles:
        """Find the files of *name* in a *folder* that `make_authority` and `issue` filled."""
        root = Path(folder)
        return cls(ca=root / "ca.pem", cert=root / f"{name}.pem", key=root / f"{name}.key")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What a certificate says. *sans* holds names, addresses and URIs as text; times are UTC."""

    subject: str
    issuer: str
    sans: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    serial: str
    authority: bool
    kinds: tuple[Kind, ...]
    """What it may be used as."""

    @property
    def identity(self) -> str | None:
        """The SPIFFE-style URI, None where there is none."""
        return next((san for san in self.sans if san.startswith(TRUST_DOMAIN + "/")), None)


def make_authority(folder: str | Path, *, name: str = "hybrid-llm private CA", days: int = 3650) -> CertificateFacts:
    """Make a private certificate authority in *folder*: `ca.pem` and `ca.key`.

    Raises:
        ConfigError: there is one already; every certificate it issued would be worthless.
    """
    root = Path(folder)
    if (root / "ca.key").exists() or (root / "ca.pem").exists():
        raise ConfigError(f"there is an authority in {root}; use it, or choose another folder", path=str(root))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _common_name(name)
    builder = _builder(subject, subject, key, datetime.now(UTC) - _CLOCK_SKEW, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    _write_pair(root, "ca", certificate, key)
    return _facts(certificate)


def issue(
    folder: str | Path,
    name: str,
    *,
    kind: Kind = "client",
    hosts: Sequence[str] = (),
    days: int = 365,
    not_before: datetime | None = None,
) -> CertificateFacts:
    """Issue `NAME.pem` and `NAME.key` from the authority in *folder*; an existing pair is renewed.

    Args:
        folder: where `make_authority` put the authority.
        name: lower-case letters, digits, dots, dashes; it becomes the last part of the identity.
        kind: `node` may serve, `client` may call.
        hosts: DNS names and IP addresses under which a node is reached; a node needs at least one.
        days: how long it is valid.
        not_before: when it begins to be valid; None is five minutes ago, for clocks that differ.

    Raises:
        ConfigError: no authority, an unusable *name*, or a node without *hosts*.
    """
    root = Path(folder)
    _check_order(name, kind, hosts)
    authority, authority_key = _authority(root)
    key = ec.generate_private_key(ec.SECP256R1())
    start = not_before or datetime.now(UTC) - _CLOCK_SKEW
    builder = _builder(_common_name(name), authority.subject, key, start, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([_USAGE[kind]]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(_names(name, kind, hosts)), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = builder.add_extension(issuer, critical=False).sign(authority_key, hashes.SHA256())
    _write_pair(root, name, certificate, key)
    return _facts(certificate)


def inspect(path: str | Path) -> CertificateFacts:
    """Read what the first certificate of a PEM file says.

    Raises:
        ConfigError: the file is missing, unreadable, or holds no PEM certificate.
    """
    return _facts(load_certificates(Path(path))[0])


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Every certificate of a PEM file, the holder's own first; raises `ConfigError` as `inspect` does."""
    try:
        return x509.load_pem_x509_certificates(read_file(path))
    except ValueError:
        raise ConfigError(f"{path} holds no certificate in PEM form", path=str(path)) from None


def read_file(path: Path) -> bytes:
    """The bytes of a certificate or key file; raises `ConfigError` that says how to make one."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        hint = "make certificates with `hybrid-llm certs`"
        raise ConfigError(f"{path} does not exist; {hint}", path=str(path)) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key of a PEM file; raises `ConfigError`."""
    try:
        key = serialization.load_pem_private_key(read_file(path), password=None)
    except (ValueError, TypeError):
        raise ConfigError(f"{path} holds no unencrypted private key in PEM form", path=str(path)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not an ECDSA key, the only kind in use here", path=str(path))
    return key


def _check_order(name: str, kind: Kind, hosts: Sequence[str]) -> None:
    if not _NAME.fullmatch(name) or name == "ca":
        raise ConfigError(f"{name!r} cannot name a certificate: use a-z, 0-9, dot, dash, underscore; `ca` is taken")
    if kind not in _USAGE:
        raise ConfigError(f"{kind!r} is no kind of certificate; node and client are")
    if kind == "node" and not hosts:
        raise ConfigError("a node's certificate needs the host names or addresses under which clients reach it")


def _authority(root: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    return load_certificates(root / "ca.pem")[0], load_key(root / "ca.key")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime, days: int
) -> x509.CertificateBuilder:
    public = key.public_key()
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(name: str, kind: Kind, hosts: Sequence[str]) -> list[x509.GeneralName]:
    identity = x509.UniformResourceIdentifier(f"{TRUST_DOMAIN}/{kind}/{name}")
    return [identity, *(_host(host) for host in hosts)]


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode("ascii"))
    except UnicodeError:
        raise ConfigError(f"{host!r} is neither a DNS name nor an IP address") from None


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _facts(certificate: x509.Certificate) -> CertificateFacts:
    return CertificateFacts(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        sans=_sans(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=f"{certificate.serial_number:x}",
        authority=_is_authority(certificate),
        kinds=_kinds(certificate),
    )


def _sans(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _kinds(certificate: x509.Certificate) -> tuple[Kind, ...]:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ()
    kinds: tuple[Kind, ...] = ("node", "client")
    return tuple(kind for kind in kinds if _USAGE[kind] in usages)


def _write_pair(root: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    root.mkdir(parents=True, exist_ok=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # The key first: who reloads in between sees a pair that does not match, and waits for the next look.
    _write(root / f"{name}.key", private, 0o600)
    _write(root / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write *path* whole or not at all, readable by others only where *mode* says so."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", path=str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)

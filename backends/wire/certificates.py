"""Makes the certificates of a private authority, and reads them; `tls` checks whether a set of them fits together.

Layout of a folder: `ca.pem`, `ca.key`, `issued.jsonl`, and for each name `NAME.pem`, `NAME.key`. Identities are URIs
in the style of SPIFFE, `spiffe://hybrid-llm/KIND/NAME`, of the kinds node, client and signer (of models). Keys are
ECDSA over P-256.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replacing, warn_of_readers
from hybrid_llm.core.hosts import as_address, certifiable_host

Kind = Literal["node", "client", "signer"]
E = TypeVar("E", bound=x509.ExtensionType)
TRUST_DOMAIN = "spiffe://hybrid-llm"

ISSUED_NAME = "issued.jsonl"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_CLOCK_SKEW = timedelta(minutes=5)
_USAGE = {
    "node": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
    "signer": ExtendedKeyUsageOID.CODE_SIGNING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSFiles:
    """Paths of one side's PEM files: the authority it trusts, its own certificate, and its key."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None
    """The authority's list of revoked certificates; as long as there is no such file, none is."""

    @classmethod
    def from_dir(cls, folder: str | Path, name: str) -> TLSFiles:
        """Find the files of *name* in a *folder* that `make_authority` and `issue` filled."""
        root = Path(folder)
        return cls(ca=root / "ca.pem", cert=root / f"{name}.pem", key=root / f"{name}.key", crl=root / "crl.pem")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateInfo:
    """The content of a certificate. *sans* holds names, addresses and URIs as text; times are UTC."""

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


def make_authority(folder: str | Path, *, name: str = "hybrid-llm private CA", days: int = 3650) -> CertificateInfo:
    """Make a private certificate authority in *folder*: `ca.pem` and `ca.key`.

    Raises:
        ConfigError: there is one already, and every certificate that it issued would become worthless.
    """
    root = Path(folder)
    if (root / "ca.key").exists() or (root / "ca.pem").exists():
        raise ConfigError(f"there is an authority in {root} already; use it, or choose another folder", path=str(root))
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, None, key.public_key(), datetime.now(UTC) - _CLOCK_SKEW, days)
    certificate = builder.sign(key, hashes.SHA256())
    _write_pair(root, "ca", certificate, key)
    return describe(certificate)


def issue(
    folder: str | Path,
    name: str,
    *,
    kind: Kind = "client",
    hosts: Sequence[str] = (),
    days: int = 365,
    not_before: datetime | None = None,
) -> CertificateInfo:
    """Issue `NAME.pem` and `NAME.key` from the authority in *folder*; an existing pair is renewed.

    Args:
        folder: where `make_authority` put the authority.
        name: lower-case letters, digits, dots, dashes; it becomes the last part of the identity.
        kind: `node` may serve, `client` may call, `signer` may sign models.
        hosts: DNS names and IP addresses under which a node is reached; a node needs at least one.
        days: how long it is valid.
        not_before: from when it is valid; None is five minutes ago, since clocks differ.

    Raises:
        ConfigError: no authority, an unusable *name*, or a node without *hosts*.
    """
    root = Path(folder)
    if not _NAME.fullmatch(name) or name == "ca":
        raise ConfigError(f"{name!r} cannot name a certificate: use a-z, 0-9, dot, dash, underscore; `ca` is taken")
    if kind not in _USAGE:
        raise ConfigError(f"{kind!r} is no kind of certificate; use {', '.join(_USAGE)}")
    if kind == "node" and not hosts:
        raise ConfigError("a node's certificate needs the host names or addresses that clients use: give `--host`")
    authority, authority_key = load_certificates(root / "ca.pem")[0], load_key(root / "ca.key")
    key = ec.generate_private_key(ec.SECP256R1())
    start = not_before or datetime.now(UTC) - _CLOCK_SKEW
    builder = _builder(name, authority.subject, key.public_key(), start, days)
    builder = builder.add_extension(x509.ExtendedKeyUsage([_USAGE[kind]]), critical=False)
    identity = x509.UniformResourceIdentifier(f"{TRUST_DOMAIN}/{kind}/{name}")
    names = x509.SubjectAlternativeName([identity, *map(_host, hosts)])
    builder = builder.add_extension(names, critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = builder.add_extension(issuer, critical=False).sign(authority_key, hashes.SHA256())
    record_issued(root, certificate)
    _write_pair(root, name, certificate, key)
    return describe(certificate)


def inspect(path: str | Path) -> CertificateInfo:
    """Read the first certificate of a PEM file.

    Raises:
        ConfigError: the file is missing, unreadable, or holds no PEM certificate.
    """
    return describe(load_certificates(Path(path))[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class PemFiles:
    """The content of `TLSFiles`, written anew: what our own handshake and gRPC get is the same, byte for byte.

    They disagree about what else a file may hold: a byte order mark, text between the certificates, another encoding.
    """

    ca: bytes
    cert: bytes
    key: bytes = field(repr=False)

    @classmethod
    def read(cls, files: TLSFiles) -> PemFiles:
        """Read and rewrite *files*.

        Raises:
            ConfigError: one is missing or not PEM; the message says what to do.
        """
        key = load_key(files.key).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(ca=_bundle(files.ca), cert=_bundle(files.cert), key=key)


def _bundle(path: Path) -> bytes:
    """Its certificates, each once and in their order."""
    each = (found.public_bytes(serialization.Encoding.PEM) for found in load_certificates(path))
    return b"".join(dict.fromkeys(each))


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Return every certificate of a PEM file, the holder's own first; raises `ConfigError` as `inspect` does."""
    try:
        found = x509.load_pem_x509_certificates(_pem(path))
        for each in found:  # most of a certificate is parsed only when it is asked for
            describe(each)
            each.public_key()
    except _UNREADABLE as error:
        count = _pem(path).count(b"-----BEGIN CERTIFICATE-----")
        what = "holds no certificate in PEM form" if not count else f"holds a certificate that cannot be read: {error}"
        raise ConfigError(f"{path} {what}", path=str(path)) from None
    return found


def parse_der(data: bytes) -> list[x509.Certificate]:
    """The certificate in *data*, in DER; empty if it cannot be read."""
    try:
        found = x509.load_der_x509_certificate(data)
        describe(found)
    except _UNREADABLE:
        return []
    return [found]


_UNREADABLE: Final = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def _pem(path: Path) -> bytes:
    """The bytes of a PEM file in ASCII; editors also save it as UTF-8 with a byte order mark, or as UTF-16."""
    data = read_file(path)
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    return data if encoding is None else data.decode(encoding, "replace").encode("ascii", "replace")


def read_file(path: Path) -> bytes:
    """Return the bytes of a certificate or key file; raises `ConfigError` that says how to make one."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        hint = "create certificates with `hybrid-llm certs init` and `hybrid-llm certs issue`"
        raise ConfigError(f"{path} does not exist; {hint}", path=str(path)) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the private key of a PEM file; raises `ConfigError`."""
    try:
        key = serialization.load_pem_private_key(_pem(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} holds no unencrypted private key in PEM form", path=str(path)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not an ECDSA key, the only kind in use", path=str(path))
    warn_of_readers(path, "a private key")
    return key


def _builder(
    name: str, issuer: x509.Name | None, public: ec.EllipticCurvePublicKey, start: datetime, days: int
) -> x509.CertificateBuilder:
    """Begin a certificate; without an *issuer* it is an authority that signs itself."""
    subject, authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), issuer is None
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer or subject, public_key=public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=days))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    constraints = x509.BasicConstraints(ca=authority, path_length=0 if authority else None)
    builder = builder.add_extension(constraints, critical=True)
    usage = x509.KeyUsage(
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
    return builder.add_extension(usage, critical=True)


def _host(host: str) -> x509.GeneralName:
    try:
        found = certifiable_host(host)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    address = as_address(found)
    return x509.DNSName(found) if address is None else x509.IPAddress(address)


def describe(certificate: x509.Certificate) -> CertificateInfo:
    """The content of *certificate*, of which nothing is verified."""
    names = _extension(certificate, x509.SubjectAlternativeName) or ()
    usages = _extension(certificate, x509.ExtendedKeyUsage) or ()
    constraints = _extension(certificate, x509.BasicConstraints)
    kinds: tuple[Kind, ...] = ("node", "client", "signer")
    return CertificateInfo(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        sans=tuple(str(name.value) for name in names),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=f"{certificate.serial_number:x}",
        authority=constraints is not None and constraints.ca,
        kinds=tuple(kind for kind in kinds if _USAGE[kind] in usages),
    )


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate that the authority has issued; the serial number is in hexadecimal."""

    serial: str
    identity: str
    not_after: str


def record_issued(root: Path, certificate: x509.Certificate) -> None:
    """Add *certificate* to the authority's record, so that it can be revoked once its file has been replaced."""
    facts = describe(certificate)
    line = {"serial": facts.serial, "identity": facts.identity, "not_after": facts.not_after.isoformat()}
    path = root / ISSUED_NAME
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", path=str(path)) from error


def issued(folder: str | Path) -> tuple[Issued, ...]:
    """What the authority in *folder* has issued, the oldest first; a line that cannot be read raises ConfigError."""
    path = Path(folder) / ISSUED_NAME
    if not path.exists():
        return ()
    found = []
    for number, line in enumerate(read_file(path).decode("utf-8", "replace").splitlines(), 1):
        try:
            found.append(Issued(**json.loads(line)))
        except (ValueError, TypeError):
            text = f"{path}:{number} is no record of a certificate; restore the file, or delete the line"
            raise ConfigError(text, path=str(path)) from None
    return tuple(found)


def _write_pair(root: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # The key first: a reload in between finds a pair that does not match, and is repeated at the next change.
    write_file(root / f"{name}.key", private, 0o600)
    write_file(root / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Write *path* atomically, readable by others only where *mode* says so."""
    try:
        with replacing(path, mode=mode, sync=True) as file:
            file.write(data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", path=str(path)) from error

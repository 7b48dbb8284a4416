"""Whether the certificate of a signer is one that is trusted, now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from hybrid_llm.backends.wire.certificates import load_certificates

_HASHES: Final[Mapping[int, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]]] = {
    256: hashes.SHA256,
    384: hashes.SHA384,
    521: hashes.SHA512,
}


def hash_for(key: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    """The hash that goes with the curve of *key*; ValueError for another curve."""
    if key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise ValueError(f"its key is of the curve {key.curve.name}")
    return _HASHES[key.curve.key_size]()


def trusted_key(chain: Sequence[bytes], ca: Path, identity: str | None) -> tuple[ec.EllipticCurvePublicKey, str]:
    """The key of the signer whose *chain* leads to *ca*, and the name in its certificate.

    Raises:
        ValueError: the certificate is expired or not yet valid, of another authority, not for signing, or of another
            signer than *identity*.
        ConfigError: *ca* cannot be read.
    """
    signer, key = trusted_certificate(chain, ca)
    if not code_signing(signer):
        raise ValueError(f"its certificate, of {_names(signer)[0]}, is not for signing")
    if identity is not None and identity not in _names(signer):
        raise ValueError(f"it is signed by {_names(signer)[0]}, not by {identity}")
    return key, identity or _names(signer)[0]


def trusted_certificate(chain: Sequence[bytes], ca: Path) -> tuple[x509.Certificate, ec.EllipticCurvePublicKey]:
    """The first certificate of a *chain* that leads to *ca*, for whatever use, and its key.

    Raises:
        ValueError: it is expired or not yet valid, of another authority, or cannot be read.
        ConfigError: *ca* cannot be read.
    """
    if not chain:
        raise ValueError("it is signed with a plain key, without a certificate")
    try:
        signer, *between = (x509.load_der_x509_certificate(each) for each in chain)
        return signer, _verified(signer, between, ca)
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm) as error:
        raise ValueError(f"its certificate cannot be read ({type(error).__name__})") from None


def _verified(signer: x509.Certificate, between: list[x509.Certificate], ca: Path) -> ec.EllipticCurvePublicKey:
    _check_dates(signer)
    policy = PolicyBuilder().store(Store(load_certificates(ca))).time(datetime.now(UTC))
    permit = ExtensionPolicy.permit_all()
    try:
        policy.extension_policies(ca_policy=_authorities(), ee_policy=permit).build_client_verifier().verify(
            signer, between
        )
    except VerificationError:
        raise ValueError(f"its certificate, of {_names(signer)[0]}, is not of the authority {ca}") from None
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("its key is not an ECDSA key")
    return key


def code_signing(certificate: x509.Certificate) -> bool:
    """Whether a certificate is for signing software, by its extended key usage."""
    try:
        return (
            ExtendedKeyUsageOID.CODE_SIGNING
            in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        )
    except x509.ExtensionNotFound:
        return False


def _authorities() -> ExtensionPolicy:
    """What a certificate that issues others must have."""
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)
    )


def _is_authority(policy: object, certificate: x509.Certificate, found: x509.BasicConstraints) -> None:  # noqa: ARG001
    if not found.ca:
        raise ValueError("it is no authority")


def _signs_certificates(policy: object, certificate: x509.Certificate, found: x509.KeyUsage | None) -> None:  # noqa: ARG001
    if found is not None and not found.key_cert_sign:
        raise ValueError("it may not issue certificates")


def _check_dates(certificate: x509.Certificate) -> None:
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        raise ValueError(
            f"its certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}: renew it, and sign again"
        )
    if now < certificate.not_valid_before_utc:
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise ValueError(f"its certificate is valid from {begins} only: check the clock of this machine")


def _names(certificate: x509.Certificate) -> list[str]:
    """The names in a certificate: URIs, addresses, and at the end its subject."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [str(name.value) for name in found]
    except x509.ExtensionNotFound:
        names = []
    return [*names, certificate.subject.rfc4514_string()]

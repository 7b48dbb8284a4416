"""Signs a model folder with a key, and the certificate for it where there is one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hybrid_llm.backends.signing.chains import code_signing, hash_for
from hybrid_llm.backends.signing.statement import SIGNATURE, encode_bundle, encode_statement, to_sign
from hybrid_llm.backends.signing.verify import digest_folder, hint_of
from hybrid_llm.backends.wire.certificates import load_certificates, load_key
from hybrid_llm.core.errors import ConfigError


def sign_folder(
    folder: Path, key_file: Path, certificate: Path | None = None, *, name: str = "", chain: Sequence[Path] = ()
) -> Path:
    """Write `model.sig` into *folder*: a signature of every other file. An earlier one is replaced.

    Args:
        folder: the model.
        key_file: the private key, PEM, ECDSA.
        certificate: the certificate of the key, PEM; without it, who verifies needs the public key.
        name: of the model, as the signature states it; by default that of the folder.
        chain: certificates between that one and the authority.

    Raises:
        ConfigError: the folder, the key or a certificate is unusable.
    """
    key = load_key(key_file)
    certificates = _chain(key, certificate, chain)
    statement = encode_statement(name or folder.absolute().name, digest_folder(folder))
    value = key.sign(to_sign(statement), ec.ECDSA(hash_for(key.public_key())))
    bundle = encode_bundle(statement, value, chain=certificates, hint=hint_of(key.public_key()))
    path, new = folder / SIGNATURE, folder.parent / f".{folder.name}.{secrets.token_hex(4)}.sig"
    try:
        new.write_bytes(bundle)
        new.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", path=str(path)) from None
    finally:
        new.unlink(missing_ok=True)
    return path


def check_signer(key_file: Path, certificate: Path | None, chain: Sequence[Path]) -> None:
    """Check that `sign_folder` can sign with these files.

    Raises:
        ConfigError: one of them is unusable, or the certificate is of another key.
    """
    _chain(load_key(key_file), certificate, chain)


def make_signing_key(path: Path) -> Path:
    """Make a plain key, `PATH` and `PATH.pub`, both PEM; returns the path of the public one.

    Raises:
        ConfigError: a file is there already, or cannot be written.
    """
    return write_key_pair(path, ec.generate_private_key(ec.SECP256R1()))


def write_key_pair(path: Path, key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> Path:
    """Write *key* to *path*, for its owner alone, and its public part to `PATH.pub`, or neither.

    Returns and raises as above.
    """
    public = path.with_name(f"{path.name}.pub")
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    for each in (path, public):
        if each.exists():
            raise ConfigError(f"{each} exists and cannot be made: name another file", path=str(each))
    _write_new(path, private, 0o600)
    try:
        _write_new(public, key.public_key().public_bytes(*form), 0o644)
    except ConfigError:
        path.unlink()
        raise
    return public


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet, onto the disk; ConfigError if that cannot be, and then there is none."""
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}", path=str(path)) from None
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror}", path=str(path)) from None


def _chain(key: ec.EllipticCurvePrivateKey, certificate: Path | None, chain: Sequence[Path]) -> tuple[bytes, ...]:
    if certificate is None:
        return ()
    certificates = [*load_certificates(certificate), *(each for path in chain for each in load_certificates(path))]
    if certificates[0].public_key() != key.public_key():
        raise ConfigError(f"{certificate} is not the certificate of the key", path=str(certificate))
    if not code_signing(certificates[0]):
        hint = "make one by `hybrid-llm certs issue DIR --name NAME --kind signer`"
        raise ConfigError(f"{certificate} is not for signing: {hint}", path=str(certificate))
    return tuple(each.public_bytes(serialization.Encoding.DER) for each in certificates)

"""Verifies that a model is what a trusted signer signed: every file, and no other. Offline."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hybrid_llm.backends.signing.chains import hash_for, trusted_key
from hybrid_llm.backends.signing.statement import SIGNATURE, Signature, decode
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.core.errors import ConfigError, UntrustedModel

_MAX_BYTES = 64 << 20
"""Of a signature: it has a line for each file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Who signed a model, and relative path -> SHA-256 of its files."""

    signer: str
    files: Mapping[str, str]


def verify_folder(folder: Path, trust: Trust) -> Verified:
    """Check that `model.sig` in *folder* is of a trusted signer, and that the folder has what is signed and no more.

    Raises:
        UntrustedModel: it is not; `reason` is a code.
        ConfigError: the folder, or a file that *trust* names, cannot be read.
    """
    path, model = folder / SIGNATURE, str(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a model folder: there is no such directory", path=model)
    if not path.is_file():
        raise UntrustedModel(f"{folder} has no {SIGNATURE}, and must be signed", model=model, reason="unsigned")
    signature, signer = _accepted(path.read_bytes(), trust, model)
    files = digest_folder(folder, signature.ignored, model=model)
    try:
        check_files(signature.files, files)
    except ValueError as error:
        raise UntrustedModel(f"{folder} is not what was signed: {error}", model=model, reason="changed") from None
    return Verified(signer=signer, files=files)


def verify_any(signatures: Sequence[bytes], files: Mapping[str, str], trust: Trust, model: object) -> bytes:
    """The first of *signatures* that a trusted signer made of *files*, relative path -> SHA-256.

    Raises:
        UntrustedModel: there is none; the message is about the first one.
        ConfigError: as `verify_folder`.
    """
    failures: list[UntrustedModel] = []
    for data in signatures:
        try:
            signature, _ = _accepted(data, trust, str(model))
            check_files(signature.files, files)
        except UntrustedModel as error:
            failures.append(error)
        except ValueError as error:
            failures.append(
                UntrustedModel(f"{model} is not what was signed: {error}", model=str(model), reason="changed")
            )
        else:
            return data
    raise failures[0] if failures else UntrustedModel(f"{model} is not signed", model=str(model), reason="unsigned")


def read_signature(data: bytes) -> Signature:
    """What a signature states; ValueError if it is none. Nothing is verified."""
    return decode(data)


def check_files(signed: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Compare files by name and SHA-256.

    Raises:
        ValueError: they differ; the message names the first file.
    """
    for what, names in (
        ("is missing", signed.keys() - found.keys()),
        ("is not signed", found.keys() - signed.keys()),
        ("is changed", {name for name in signed.keys() & found.keys() if signed[name] != found[name]}),
    ):
        if names:
            raise ValueError(f"{min(names)} {what}")


def digest_folder(folder: Path, ignored: frozenset[str] = frozenset({SIGNATURE}), *, model: str = "") -> dict[str, str]:
    """Relative path -> SHA-256 of every file, without what begins with an *ignored* path.

    Raises:
        UntrustedModel: there is a link, whose target nobody signed.
        ConfigError: a file cannot be read.
    """
    found = {}
    try:
        for name, path in _files(folder):
            if name.split("/")[0] in ignored:
                continue
            if path.is_symlink():
                raise UntrustedModel(f"{path} is a link, which cannot be signed", model=model, reason="changed")
            if path.is_file():
                with path.open("rb") as stream:
                    found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{error.filename or folder} cannot be read: {error.strerror}", path=str(folder)) from None
    return found


def hint_of(key: ec.EllipticCurvePublicKey) -> str:
    """How a signature refers to a plain key: the SHA-256 of its PEM."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        yield path.relative_to(folder).as_posix(), path


def _accepted(data: bytes, trust: Trust, model: str) -> tuple[Signature, str]:
    """The signature and its signer, once the signer is trusted and the signature is theirs."""
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError("it is too large")
        signature = decode(data)
        key, signer = _key(signature, trust)
        key.verify(signature.value, signature.signed, ec.ECDSA(hash_for(key)))
    except InvalidSignature:
        raise UntrustedModel(f"the signature of {model} is not valid", model=model, reason="invalid") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise UntrustedModel(
            f"the signature of {model} is not trusted: {error}", model=model, reason="signer"
        ) from None
    return signature, signer


def _key(signature: Signature, trust: Trust) -> tuple[ec.EllipticCurvePublicKey, str]:
    if trust.key is None:
        assert trust.ca is not None, "a trust has one of both"
        return trusted_key(signature.chain, trust.ca, trust.identity)
    key = load_public_key(trust.key)
    hint = hint_of(key)
    if signature.hint and signature.hint != hint:
        raise ValueError(f"it is made with another key than {trust.key}")
    return key, f"the key {hint[:16]}"


def load_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """The public key of a PEM file.

    Raises:
        ConfigError: it holds none, or one of another kind.
    """
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path} holds no public ECDSA key in PEM form", path=str(path))
    return key

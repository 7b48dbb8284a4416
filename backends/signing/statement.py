"""The bytes of a signature: an in-toto statement of files and digests, in a DSSE envelope, in a Sigstore bundle.

The format is that of OpenSSF model-signing 1.0 (predicate https://model_signing/signature/v1.0), with files as
resources and SHA-256. Specifications: https://github.com/in-toto/attestation/tree/main/spec/v1,
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, https://docs.sigstore.dev/about/bundle/.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

SIGNATURE: Final = "model.sig"
"""The name of the signature in a model folder; it signs every other file."""
_BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://model_signing/signature/v1.0"
_GIT: Final = frozenset({".git", ".gitattributes", ".github", ".gitignore"})
"""What model-signing leaves out of a signature by default; nothing of it is ever loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a signature holds; nothing of it is verified yet.

    Attributes:
        model: the name of the model.
        files: relative path -> SHA-256 in hex.
        ignored: paths that are not signed.
        signed: the bytes that were signed.
        value: the signature, in DER.
        chain: the signer's certificate and those between it and the authority, in DER; empty with a plain key.
        hint: SHA-256 of the public key in PEM, in hex; empty if unknown.
    """

    model: str
    files: Mapping[str, str]
    ignored: frozenset[str]
    signed: bytes
    value: bytes
    chain: tuple[bytes, ...]
    hint: str


def encode_statement(model: str, files: Mapping[str, str]) -> bytes:
    """The statement that *files*, relative path -> SHA-256 in hex, are the model."""
    names = sorted(files, key=lambda name: PurePosixPath(name).parts)
    root = hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in names)).hexdigest()
    predicate = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": [SIGNATURE],
        },
        "resources": [{"name": name, "algorithm": "sha256", "digest": files[name]} for name in names],
    }
    subject = [{"name": model, "digest": {"sha256": root}}]
    statement = {"_type": _STATEMENT, "subject": subject, "predicateType": _PREDICATE, "predicate": predicate}
    return json.dumps(statement).encode()


def to_sign(statement: bytes) -> bytes:
    """DSSE's pre-authentication encoding of *statement*."""
    return f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(statement)} ".encode() + statement


def encode_bundle(statement: bytes, value: bytes, *, chain: tuple[bytes, ...] = (), hint: str = "") -> bytes:
    """The file of a signature: *chain* in DER, or the *hint* of a plain key."""
    certificates = [{"rawBytes": _text(each)} for each in chain]
    material = {"x509CertificateChain": {"certificates": certificates}} if chain else {"publicKey": {"hint": hint}}
    envelope = {
        "payload": _text(statement),
        "payloadType": _PAYLOAD,
        "signatures": [{"sig": _text(value), "keyid": ""}],
    }
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {**material, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    return json.dumps(bundle).encode()


def decode(data: bytes) -> Signature:
    """Read the file of a signature.

    Raises:
        ValueError: it is no signature of this format; the message says why.
    """
    try:
        return _decode(json.loads(data))
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"it is no signature of a model: {error!r}") from None


def _decode(bundle: Any) -> Signature:
    _require(bundle["mediaType"], _BUNDLE, "bundle")
    envelope, material = bundle["dsseEnvelope"], bundle["verificationMaterial"]
    _require(envelope["payloadType"], _PAYLOAD, "payload")
    payload = _bytes(envelope["payload"])
    (signature,) = envelope["signatures"]
    certificates = material.get("x509CertificateChain", {}).get("certificates", [])
    statement = json.loads(payload)
    _require(statement["_type"], _STATEMENT, "statement")
    _require(statement["predicateType"], _PREDICATE, "predicate")
    (subject,) = statement["subject"]
    files = _files(statement["predicate"], subject["digest"]["sha256"])
    return Signature(
        model=str(subject["name"]),
        files=files,
        ignored=_ignored(statement["predicate"]["serialization"]),
        signed=to_sign(payload),
        value=_bytes(signature["sig"]),
        chain=tuple(_bytes(each["rawBytes"]) for each in certificates),
        hint=str((material.get("publicKey") or {}).get("hint") or ""),
    )


def _files(predicate: Any, root: str) -> dict[str, str]:
    serialization = predicate["serialization"]
    _require(serialization["method"], "files", "method")
    files, whole = {}, hashlib.sha256()
    for resource in predicate["resources"]:
        _require(resource["algorithm"], "sha256", "algorithm")
        name, digest = str(resource["name"]), str(resource["digest"])
        if name in files or len(digest) != 64:
            raise ValueError("it names a file twice, or without a SHA-256")
        whole.update(bytes.fromhex(digest))
        files[name] = digest
    if whole.hexdigest() != root:
        raise ValueError("its digests do not fit each other")
    return files


def _ignored(serialization: Any) -> frozenset[str]:
    """What may be in the folder without being signed: whatever a signature asks for, no more than this."""
    asked = {str(path) for path in serialization.get("ignore_paths", ())}
    return frozenset({SIGNATURE}) | (asked & _GIT)


def _require(found: object, expected: str, what: str) -> None:
    if found != expected:
        raise ValueError(f"its {what} is {str(found)[:80]!r}, not {expected!r}")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)

"""Encryption at rest: what a registry with a key stores of each object, and under which name.

Every object that holds content is named by its SHA-256, and has a key of its own, derived from the registry's key and
that digest by HKDF-SHA256 (RFC 5869). It is sealed once, by AES-256-GCM; the nonce is constant, since a key never
seals two contents. So the same content is the same object, and who lacks the key cannot test for a known content.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hybrid_llm.backends.models.registry.records import digest_of
from hybrid_llm.core.errors import ConfigError, DecryptionFailed, SecurityError

_BYTES: Final = 32
_NONCE: Final = bytes(12)
_TAG: Final = 16


class Sealing(Protocol):
    """How content is stored."""

    @property
    def check(self) -> str:
        """What shows that another one has the same key; empty without a key."""

    def name(self, digest: str) -> str:
        """The name of the object with this content."""

    def seal(self, digest: str, data: bytes) -> bytes:
        """What is stored of *data*, whose SHA-256 is *digest*."""

    def unseal(self, digest: str, stored: bytes) -> bytes:
        """The content.

        Raises:
            DecryptionFailed, SecurityError: it is not the content of this digest.
        """


class Plain:
    """Content as it is."""

    check: Final = ""

    def name(self, digest: str) -> str:
        """The digest."""
        return digest

    def seal(self, digest: str, data: bytes) -> bytes:  # noqa: ARG002
        """The data itself."""
        return data

    def unseal(self, digest: str, stored: bytes) -> bytes:
        """The data, once its digest is checked."""
        if digest_of(stored) != digest:
            raise SecurityError(f"the registry holds other bytes than those of {digest[:16]}: they were changed there")
        return stored


class Sealed:
    """Content under a key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._names = self._derive(b"names")

    @classmethod
    def from_file(cls, path: Path) -> Sealed:
        """Read the key: 64 hex digits, as `openssl rand -hex 32` writes them.

        Raises:
            ConfigError: the file cannot be read, or holds no such key.
        """
        how = "make one by `openssl rand -hex 32 > FILE`"
        try:
            key = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}): {how}", path=str(path)) from None
        except ValueError:
            key = b""
        if len(key) != _BYTES:
            raise ConfigError(f"{path} holds no key of 64 hex digits: {how}", path=str(path))
        return cls(key)

    @property
    def check(self) -> str:
        """A MAC of a constant."""
        return hmac.new(self._names, b"registry", sha256).hexdigest()

    def name(self, digest: str) -> str:
        """A MAC of the digest."""
        return hmac.new(self._names, bytes.fromhex(digest), sha256).hexdigest()

    def seal(self, digest: str, data: bytes) -> bytes:
        """AES-256-GCM, with its tag at the end."""
        return AESGCM(self._derive(b"content", bytes.fromhex(digest))).encrypt(_NONCE, data, None)

    def unseal(self, digest: str, stored: bytes) -> bytes:
        """Check and decrypt."""
        try:
            return AESGCM(self._derive(b"content", bytes.fromhex(digest))).decrypt(_NONCE, stored, None)
        except InvalidTag:
            text = f"{digest[:16]} of the registry cannot be decrypted: it was changed there, or the key is another one"
            raise DecryptionFailed(text) from None

    def _derive(self, *info: bytes) -> bytes:
        purpose = b"hybrid-llm registry 1 " + b" ".join(info)
        return HKDF(algorithm=hashes.SHA256(), length=_BYTES, salt=None, info=purpose).derive(self._key)


def overhead(sealing: Sealing) -> int:
    """Bytes that are stored besides the content of an object."""
    return _TAG if sealing.check else 0

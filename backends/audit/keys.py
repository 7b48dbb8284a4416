"""The keys of audit logs: Ed25519 (RFC 8032), in PEM files. The private one stays with the log's writer."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hybrid_llm.backends.audit.heads import SignedHead, signed_bytes
from hybrid_llm.backends.audit.tree import HASH_BYTES
from hybrid_llm.backends.signing.sign import write_key_pair
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import warn_of_readers


class AuditPublicKey:
    """Checks signatures; its *id* is the beginning of the SHA-256 of the key."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        raw = serialization.PublicFormat.SubjectPublicKeyInfo
        self.id = sha256(key.public_bytes(serialization.Encoding.DER, raw)).hexdigest()[:16]

    @classmethod
    def load(cls, path: Path) -> AuditPublicKey:
        """The key in the PEM file *path*; a private key's file will do.

        Raises:
            ConfigError: the file cannot be read, or has no such key.
        """
        data = _read(path)
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            return AuditKey.load(path).public
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"{path} has no Ed25519 key: `hybrid-llm audit init` makes one", path=str(path))
        return cls(key)

    def signed(self, head: SignedHead) -> bool:
        """Whether this key signed *head*."""
        if len(head.root) != HASH_BYTES:
            return False
        covered = signed_bytes(head.log, head.size, head.root, head.leaf, head.at_ms)
        try:
            self._key.verify(head.signature, covered)
        except InvalidSignature:
            return False
        return True


class AuditKey:
    """Signs heads."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = AuditPublicKey(key.public_key())

    @classmethod
    def load(cls, path: Path) -> AuditKey:
        """The private key in the PEM file *path*.

        Raises:
            ConfigError: the file cannot be read, or has no such key.
        """
        try:
            key = serialization.load_pem_private_key(_read(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} has no Ed25519 key: `hybrid-llm audit init` makes one", path=str(path))
        warn_of_readers(path, "the key of an audit log")
        return cls(key)

    def sign(self, log: str, size: int, root: bytes, leaf: bytes, at_ms: int) -> SignedHead:
        """The head of these values."""
        signature = self._key.sign(signed_bytes(log, size, root, leaf, at_ms))
        return SignedHead(
            log=log, size=size, root=root, leaf=leaf, at_ms=at_ms, key=self.public.id, signature=signature
        )


def make_audit_key(path: Path) -> Path:
    """Make a key in *path* for its owner alone, and its public part in `PATH.pub`; returns the latter's path.

    Raises:
        ConfigError: a file is there already, or cannot be written.
    """
    return write_key_pair(path, Ed25519PrivateKey.generate())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the audit key {path} cannot be read: {error.strerror}", path=str(path)) from None

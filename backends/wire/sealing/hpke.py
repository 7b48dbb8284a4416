"""HPKE in base mode as a context that seals several messages and exports secrets: RFC 9180 with one suite.

DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. The library has HPKE as a single shot only, and EHBP needs more.
The primitives are the library's; the names are those of the RFC's section 5.1.
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from hybrid_llm.core.errors import DecryptionFailed

KEM_ID: Final = 0x0020
KDF_ID: Final = 0x0001
AEAD_ID: Final = 0x0002
ENC_BYTES: Final = 32
_VERSION: Final = b"HPKE-v1"
_KEM: Final = b"KEM" + KEM_ID.to_bytes(2, "big")
_SUITE: Final = b"HPKE" + b"".join(each.to_bytes(2, "big") for each in (KEM_ID, KDF_ID, AEAD_ID))
_MOST: Final = 2**32
"""Messages of one context: NIST SP 800-38D allows as many invocations."""


def _extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt, _VERSION + suite + label + material, "sha256")


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    labeled = size.to_bytes(2, "big") + _VERSION + suite + label + info
    return HKDFExpand(hashes.SHA256(), size, labeled).derive(key)


class Context:
    """One side of an exchange. It seals, or opens, messages in order; *shared* is the KEM's secret."""

    def __init__(self, shared: bytes, info: bytes) -> None:
        hashed = (_extract(_SUITE, b"", label, data) for label, data in ((b"psk_id_hash", b""), (b"info_hash", info)))
        schedule = b"\0" + b"".join(hashed)
        secret = _extract(_SUITE, shared, b"secret", b"")
        self._aead = AESGCM(_expand(_SUITE, secret, b"key", schedule, 32))
        self._base = int.from_bytes(_expand(_SUITE, secret, b"base_nonce", schedule, 12), "big")
        self._exporter = _expand(_SUITE, secret, b"exp", schedule, 32)
        self._count = 0

    def seal(self, data: bytes, additional: bytes = b"") -> bytes:
        """Return the next message, sealed."""
        return self._aead.encrypt(self._nonce(), data, additional)

    def open(self, data: bytes, additional: bytes = b"") -> bytes:
        """Return what the next message holds; raises `DecryptionFailed`, after which the context is where it was."""
        try:
            plain = self._aead.decrypt(self._nonce(), data, additional)
        except (InvalidTag, ValueError):
            self._count -= 1
            raise DecryptionFailed("a sealed message was changed, dropped, repeated or moved on the way") from None
        return plain

    def export(self, context: bytes, size: int) -> bytes:
        """Return a secret of *size* bytes that both sides have."""
        return _expand(_SUITE, self._exporter, b"sec", context, size)

    def _nonce(self) -> bytes:
        if self._count >= _MOST:
            raise DecryptionFailed("one key may seal no more messages")
        nonce, self._count = self._base ^ self._count, self._count + 1
        return nonce.to_bytes(12, "big")


def sender(public: bytes, info: bytes, *, ephemeral: X25519PrivateKey | None = None) -> tuple[bytes, Context]:
    """Set up a context for the owner of *public*; return the encapsulated key and the context.

    *ephemeral* is for published vectors only; it must be new each time.

    Raises:
        ValueError: *public* is no key.
    """
    mine = ephemeral or X25519PrivateKey.generate()
    enc = mine.public_key().public_bytes_raw()
    secret = mine.exchange(X25519PublicKey.from_public_bytes(public))
    return enc, Context(_shared(secret, enc, public), info)


def receiver(private: bytes, enc: bytes, info: bytes) -> Context:
    """Set up the context whose sender sent *enc*; raises `DecryptionFailed` if that is no key."""
    mine = X25519PrivateKey.from_private_bytes(private)
    try:
        secret = mine.exchange(X25519PublicKey.from_public_bytes(enc))
    except ValueError:  # also the all-zero secret of a point of low order (RFC 9180, section 7.1.4)
        raise DecryptionFailed("the encapsulated key is none") from None
    return Context(_shared(secret, enc, mine.public_key().public_bytes_raw()), info)


def _shared(secret: bytes, enc: bytes, public: bytes) -> bytes:
    return _expand(_KEM, _extract(_KEM, b"", b"eae_prk", secret), b"shared_secret", enc + public, 32)

"""The algorithms of sealed mode, by name, and their keys as bytes. HPKE itself (RFC 9180) is the library's.

`x25519` is DHKEM(X25519, HKDF-SHA256); `mlkem768-x25519` is the hybrid KEM X-Wing (draft-connolly-cfrg-xwing-kem),
whose secret stays one as long as either X25519 or ML-KEM-768 (FIPS 203) is unbroken. Both with HKDF-SHA256 and
AES-256-GCM. The library's HPKE is single-shot and has no exporter; see `requests` for where the answer's key is from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from hybrid_llm.core.errors import ConfigError, DecryptionFailed

_SEED: Final = 64
"""Bytes of a private ML-KEM key; the X25519 key follows it."""
_ENCAPSULATION: Final = 1184
"""Bytes of a public ML-KEM-768 key; the X25519 key follows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealSuite:
    """One KEM with HKDF-SHA256 and AES-256-GCM; keys are bytes outside of it."""

    name: str
    kem: KEM
    private_bytes: int
    public_bytes: int
    encapsulation_bytes: int
    """Of the encapsulated key, which a ciphertext begins with."""
    generate: Callable[[], bytes]
    """Make a private key."""
    public_of: Callable[[bytes], bytes]
    """The public key of a private one."""
    _private: Callable[[bytes], Any]
    _public: Callable[[bytes], Any]

    @property
    def available(self) -> bool:
        """Whether the library on this machine has the algorithm."""
        return _available(self.name)

    def check(self) -> None:
        """Raise `ConfigError` where it does not."""
        if not self.available:
            text = f"{self.name} needs ML-KEM, which this build of `cryptography` lacks: pip install 'cryptography>=48'"
            raise ConfigError(text)

    def seal(self, public: bytes, plaintext: bytes, info: bytes) -> bytes:
        """Return the encapsulated key and the ciphertext; *info* is authenticated (RFC 9180, section 8.1).

        Raises:
            ValueError: *public* is no key of this suite.
        """
        return self._hpke.encrypt(plaintext, self._public(public), info)

    def open(self, private: bytes, sealed: bytes, info: bytes) -> bytes:
        """Return the plaintext of what `seal` returned.

        Raises:
            DecryptionFailed: it is not for this key, or it or *info* was changed.
        """
        try:
            return self._hpke.decrypt(sealed, self._private(private), info)
        except (InvalidTag, ValueError):
            raise DecryptionFailed("a sealed request cannot be opened") from None

    @property
    def _hpke(self) -> Suite:
        return Suite(self.kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _hybrid_private(data: bytes) -> MLKEM768X25519PrivateKey:
    mlkem = MLKEM768PrivateKey.from_seed_bytes(data[:_SEED])
    return MLKEM768X25519PrivateKey(mlkem, X25519PrivateKey.from_private_bytes(data[_SEED:]))


def _hybrid_public(data: bytes) -> MLKEM768X25519PublicKey:
    mlkem = MLKEM768PublicKey.from_public_bytes(data[:_ENCAPSULATION])
    return MLKEM768X25519PublicKey(mlkem, X25519PublicKey.from_public_bytes(data[_ENCAPSULATION:]))


@cache
def _available(name: str) -> bool:
    try:
        SUITES[name].generate()
    except UnsupportedAlgorithm:
        return False
    return True


def _make_x25519() -> bytes:
    return X25519PrivateKey.generate().private_bytes_raw()


def _x25519_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _hybrid_of(private: bytes) -> bytes:
    mlkem = MLKEM768PrivateKey.from_seed_bytes(private[:_SEED])
    return mlkem.public_key().public_bytes_raw() + _x25519_of(private[_SEED:])


X25519: Final = SealSuite(
    name="x25519",
    kem=KEM.X25519,
    private_bytes=32,
    public_bytes=32,
    encapsulation_bytes=32,
    generate=_make_x25519,
    public_of=_x25519_of,
    _private=X25519PrivateKey.from_private_bytes,
    _public=X25519PublicKey.from_public_bytes,
)
HYBRID: Final = SealSuite(
    name="mlkem768-x25519",
    kem=KEM.MLKEM768_X25519,
    private_bytes=_SEED + 32,
    public_bytes=_ENCAPSULATION + 32,
    encapsulation_bytes=1088 + 32,
    generate=lambda: MLKEM768PrivateKey.generate().private_bytes_raw() + _make_x25519(),
    public_of=_hybrid_of,
    _private=_hybrid_private,
    _public=_hybrid_public,
)
SUITES: Final[Mapping[str, SealSuite]] = {suite.name: suite for suite in (HYBRID, X25519)}
"""By name, the one to prefer first."""

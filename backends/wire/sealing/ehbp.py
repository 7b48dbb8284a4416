"""EHBP, the Encrypted HTTP Body Protocol: its keys, its two contexts and its frames. No HTTP here.

As published with version 0.3.1 of its reference implementation (github.com/tinfoilsh/encrypted-http-body-protocol,
SPEC.md, July 2026): the body is sealed with HPKE in frames of a length, uint32 big-endian, and a ciphertext; the key of
the answer is derived as in RFC 9458, section 4.4. Section numbers are those of the specification. From version 0.4.1 of
its client come the largest frame, and that a key configuration has exactly one suite.
"""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Callable, Iterator
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hybrid_llm.backends.wire.sealing import hpke
from hybrid_llm.backends.wire.sealing.messages import NONCE_BYTES, AnswerKey
from hybrid_llm.core.errors import DecryptionFailed

KEYS_PATH: Final = "/.well-known/hpke-keys"
KEYS_TYPE: Final = "application/ohttp-keys"
ENC_HEADER: Final = "ehbp-encapsulated-key"
NONCE_HEADER: Final = "ehbp-response-nonce"
PROBLEM_TYPE: Final = "application/problem+json"
KEY_PROBLEM: Final = "urn:ietf:params:ehbp:error:key-config"
KEY_STATUS: Final = 422
_INFO: Final = b"ehbp request"
_EXPORT: Final = b"ehbp response"
_LENGTH: Final = struct.Struct(">I")
_CONFIG: Final = struct.Struct(">BH32sHHH")
_PIECE: Final = 1 << 20
"""Plain bytes of one frame, at most."""
MOST_FRAME: Final = 64 << 20
"""Sealed bytes of one frame that are accepted of an answer, as by the reference clients."""


class FrameTooLarge(Exception):  # no error that an app meets
    """A frame has more bytes than are accepted. A server and a client say so in words of their own."""


def config_of(public: bytes) -> bytes:
    """The key configuration of RFC 9458, section 3, for one X25519 key (3.2)."""
    return _CONFIG.pack(0, hpke.KEM_ID, public, 4, hpke.KDF_ID, hpke.AEAD_ID)


def public_of(config: bytes) -> bytes:
    """The key of the first configuration; raises `DecryptionFailed` where it is of another suite, or none.

    One that offers several suites is refused too: a request does not say which of them sealed it.
    """
    try:
        _, kem, public, size, kdf, aead = _CONFIG.unpack_from(config)
    except struct.error:
        raise DecryptionFailed("the server's key configuration is none") from None
    if (kem, size, kdf, aead) != (hpke.KEM_ID, 4, hpke.KDF_ID, hpke.AEAD_ID):
        raise DecryptionFailed("the server's sealing key is of a suite that this app does not know")
    return bytes(public)


def is_key_problem(document: bytes) -> bool:
    """Whether the body of an error reports that the request was sealed to another key (5.4.2)."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("type") == KEY_PROBLEM


def frames(data: bytes, seal: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """*data* in frames (4.3), each sealed by *seal*; nothing for no data."""
    for start in range(0, len(data), _PIECE):
        sealed = seal(data[start : start + _PIECE])
        yield _LENGTH.pack(len(sealed)) + sealed


class FrameReader:
    """Takes a body in pieces of any size, and yields the sealed content of each frame; empty frames are skipped."""

    def __init__(self, most: int = MOST_FRAME) -> None:
        self._rest, self._most = bytearray(), most

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what is complete; raises `FrameTooLarge` at the length of a frame of more bytes than are accepted."""
        self._rest += piece
        while len(self._rest) >= _LENGTH.size:
            size = _LENGTH.unpack_from(self._rest)[0]
            if size > self._most:
                raise FrameTooLarge("a sealed frame is larger than any that is accepted")
            end = _LENGTH.size + size
            if len(self._rest) < end:
                return
            sealed = bytes(self._rest[_LENGTH.size : end])
            del self._rest[:end]
            if sealed:
                yield sealed

    def finish(self) -> None:
        """The body is over; raise `DecryptionFailed` where it ends within a frame."""
        if self._rest:
            raise DecryptionFailed("the sealed body was cut off on the way")


class ClientExchange:
    """The app's side of one exchange with the owner of *public*; *ephemeral* is for recorded exchanges only."""

    def __init__(self, public: bytes, *, ephemeral: X25519PrivateKey | None = None) -> None:
        self.enc, self._context = hpke.sender(public, _INFO, ephemeral=ephemeral)

    def seal(self, body: bytes) -> bytes:
        """The body of the request, which is not empty."""
        return b"".join(frames(body, self._context.seal))

    def opener(self, nonce: str) -> AnswerKey:
        """What opens the answer with this header; raises `DecryptionFailed` for one that is none."""
        return AnswerKey(self._context.export(_EXPORT, 32), self.enc, _hex(nonce, NONCE_BYTES))


class ServerExchange:
    """The server's side: opens the request whose encapsulated key is *enc*, with the private key *private*."""

    def __init__(self, private: bytes, enc: bytes) -> None:
        self.enc, self._context = enc, hpke.receiver(private, enc, _INFO)
        self.open = self._context.open

    def sealer(self) -> tuple[str, AnswerKey]:
        """The header of the answer, and what seals it."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce.hex(), AnswerKey(self._context.export(_EXPORT, 32), self.enc, nonce)


def encapsulated(header: str) -> bytes:
    """The encapsulated key in a header; raises `DecryptionFailed` for one that is none."""
    return _hex(header, hpke.ENC_BYTES)


def _hex(text: str, size: int) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != size or len(text) != 2 * size:
        raise DecryptionFailed("a header of the sealed exchange is not what it must be")
    return found

"""Seals one request for a node, and its answer chunk by chunk: what travels instead of the plain messages.

    request   HPKE single-shot (RFC 9180) of a padded `SealedRequest`: the request, a fresh secret, when it was sealed
    info      a label, then everything that stays outside, so that nothing of it can be changed
    key       HKDF as in RFC 9458, section 4.4: salt = encapsulated key + the node's nonce, secret = that in the request
    chunk i   AES-256-GCM, nonce = base XOR i, additional data says whether it is the last

The library's HPKE has no exporter, from which RFC 9458 takes its secret. One that was drawn for this request and sent
inside it is known to the same two parties, and to no one who cannot open the request (HPKE is IND-CCA2 secure). The
node's nonce makes the key one of this answer: two answers to one request never share key and nonce.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from google.protobuf.message import DecodeError

from hybrid_llm.backends.wire.sealing.keys import KeyConfig, SealKey
from hybrid_llm.core.errors import DecryptionFailed
from hybrid_llm.protos import hybrid_pb2 as pb

_UNSEALED: Final = ("sealed", "last", "answer_nonce")
"""What a sealed chunk has outside of the ciphertext."""
SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 32
"""Of an answer's nonce: max(Nn, Nk) of AES-256-GCM, as in RFC 9458."""
_LABEL: Final = b"hybrid-llm sealed request 1\0"
_REQUEST_BLOCK: Final = 256
_CHUNK_BLOCK: Final = 64
"""Sizes are padded to multiples of these, bytes: the length of a token does not show."""
_OUTSIDE: Final = frozenset(pb.GenerateChunk.DESCRIPTOR.fields_by_name[name].number for name in _UNSEALED)
_LAST: Final = b"final"
_MOST_CHUNKS: Final = 2**32
"""Chunks under one key: NIST SP 800-38D allows as many invocations."""


def padded(data: bytes, block: int) -> bytes:
    """*data*, a byte 0x80, and zeros up to a multiple of *block* (ISO/IEC 7816-4)."""
    return data + b"\x80" + bytes(-(len(data) + 1) % block)


def unpadded(data: bytes) -> bytes:
    """What `padded` had; raises `DecryptionFailed` for anything else."""
    stripped = data.rstrip(b"\0")
    if not stripped.endswith(b"\x80"):
        raise DecryptionFailed("a sealed message is not padded as it must be")
    return stripped[:-1]


class AnswerKey:
    """Seals or opens the pieces of one answer, in order (RFC 9458, section 4.4); *nonce* is the node's."""

    def __init__(self, secret: bytes, encapsulated: bytes, nonce: bytes) -> None:
        extract = hmac.HMAC(encapsulated + nonce, hashes.SHA256())
        extract.update(secret)
        key = extract.finalize()
        self._aead = AESGCM(HKDFExpand(hashes.SHA256(), 32, b"key").derive(key))
        self._base = int.from_bytes(HKDFExpand(hashes.SHA256(), 12, b"nonce").derive(key), "big")
        self._count = 0

    def seal(self, data: bytes, additional: bytes = b"") -> bytes:
        """Return the next piece."""
        return self._aead.encrypt(self._next(), data, additional)

    def open(self, data: bytes, additional: bytes = b"") -> bytes:
        """Return what the next piece holds; raises `DecryptionFailed`."""
        try:
            return self._aead.decrypt(self._next(), data, additional)
        except (InvalidTag, ValueError):
            raise DecryptionFailed("a piece of the answer was changed, dropped, repeated or moved on the way") from None

    def _next(self) -> bytes:
        if self._count >= _MOST_CHUNKS:
            raise DecryptionFailed("the answer has more pieces than one key may seal")
        nonce, self._count = self._base ^ self._count, self._count + 1
        return nonce.to_bytes(12, "big")


def seal_request(data: bytes, key: KeyConfig, *, issued_ms: int) -> tuple[bytes, AnswerOpener]:
    """Seal *data*, a serialised `GenerateRequest`, to *key*; return the bytes to send, and what opens the answer."""
    secret = secrets.token_bytes(SECRET_BYTES)
    inner = pb.SealedRequest(request=data, answer_secret=secret, issued_ms=issued_ms)
    outer = pb.GenerateRequest(key_id=key.key_id)
    sealed = key.suite.seal(key.public, padded(inner.SerializeToString(), _REQUEST_BLOCK), _info(outer))
    outer.sealed = sealed
    return outer.SerializeToString(), AnswerOpener(secret, sealed[: key.suite.encapsulation_bytes])


def _info(outer: pb.GenerateRequest) -> bytes:
    """What is authenticated beside the ciphertext: a label, and the message without the ciphertext."""
    bare = pb.GenerateRequest()
    bare.CopyFrom(outer)
    bare.ClearField("sealed")
    return _LABEL + bare.SerializeToString(deterministic=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRequest:
    """A request that a node has opened. *secret* is unique to it."""

    message: pb.GenerateRequest
    issued: datetime
    secret: bytes = field(repr=False)
    encapsulated: bytes = field(repr=False)

    def sealer(self) -> AnswerSealer:
        """What seals the answer to it; each has a key of its own."""
        return AnswerSealer(self.secret, self.encapsulated)


def open_request(outer: pb.GenerateRequest, key: SealKey) -> OpenedRequest:
    """Open a sealed request with the key that it names.

    Raises:
        DecryptionFailed: it was changed, or is not sealed to this key.
    """
    try:
        inner = pb.SealedRequest.FromString(unpadded(key.open(outer.sealed, _info(outer))))
        message = pb.GenerateRequest.FromString(inner.request)
        issued = datetime.fromtimestamp(inner.issued_ms / 1000, UTC)
    except (DecodeError, ValueError, OverflowError, OSError):
        raise DecryptionFailed("a sealed request cannot be opened") from None
    if len(inner.answer_secret) != SECRET_BYTES or message.sealed:
        raise DecryptionFailed("a sealed request cannot be opened")
    encapsulated = outer.sealed[: key.config.suite.encapsulation_bytes]
    return OpenedRequest(message=message, issued=issued, secret=inner.answer_secret, encapsulated=encapsulated)


class AnswerSealer:
    """Seals the chunks of one answer."""

    def __init__(self, secret: bytes, encapsulated: bytes) -> None:
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._key = AnswerKey(secret, encapsulated, self._nonce)

    def __call__(self, chunk: pb.GenerateChunk) -> pb.GenerateChunk:
        """Return what is sent instead of *chunk*; the one with a finish reason is the last."""
        last = chunk.finish_reason != pb.FINISH_REASON_UNSPECIFIED
        sealed = self._key.seal(padded(chunk.SerializeToString(), _CHUNK_BLOCK), _LAST if last else b"")
        nonce, self._nonce = self._nonce, b""
        return pb.GenerateChunk(sealed=sealed, last=last, answer_nonce=nonce)


class AnswerOpener:
    """Opens the chunks of one answer in order."""

    def __init__(self, secret: bytes, encapsulated: bytes) -> None:
        self._secret, self._encapsulated = secret, encapsulated
        self._key: AnswerKey | None = None
        self._ended = False

    def __call__(self, message: pb.GenerateChunk) -> pb.GenerateChunk:
        """Return the chunk that *message* holds.

        Raises:
            DecryptionFailed: it is not the next one, or was changed, or is not sealed.
        """
        if self._ended:
            raise DecryptionFailed("the answer goes on after its last piece")
        if any(field.number not in _OUTSIDE for field, _ in message.ListFields()):
            raise DecryptionFailed("a piece of the answer has parts that are not sealed")
        last = message.last
        data = self._answer_key(message).open(message.sealed, _LAST if last else b"")
        try:
            chunk = pb.GenerateChunk.FromString(unpadded(data))
        except DecodeError:
            raise DecryptionFailed("a piece of the answer is no message of this protocol") from None
        self._ended = last
        return chunk

    def finish(self) -> None:
        """The stream is over; raise `DecryptionFailed` where its last chunk did not come."""
        if not self._ended:
            raise DecryptionFailed("the answer was cut off on the way: its last piece did not come")

    def _answer_key(self, message: pb.GenerateChunk) -> AnswerKey:
        if (self._key is None) != (len(message.answer_nonce) == NONCE_BYTES) or (self._key and message.answer_nonce):
            raise DecryptionFailed("the answer is not sealed, or its first piece did not come first")
        if self._key is None:
            self._key = AnswerKey(self._secret, self._encapsulated, message.answer_nonce)
        return self._key

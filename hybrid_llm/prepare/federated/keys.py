"""Who the keys of a secure aggregation belong to: each client signs its own, and masks with those of certificates only.

Without that the server, which passes the public keys on, could hand out its own in place of all others, and take every
mask off (Bonawitz et al. 2017, "Practical Secure Aggregation", section 6.2). A signature covers fresh random numbers of
all clients too: keys of an aggregation before, whose secrets may be known since, are not accepted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hybrid_llm.backends.node.rights import client_name
from hybrid_llm.backends.signing.chains import hash_for, trusted_certificate
from hybrid_llm.backends.wire.certificates import TLSFiles, describe, load_certificates, load_key
from hybrid_llm.core.errors import UntrustedPeer
from hybrid_llm.prepare.federated.offer import Offer

T = TypeVar("T")
RECORD: Final = "hybrid_llm.keys"
"""The record of a message that has what this module adds to Flower's."""
CONFIGS: Final = "secaggplus_configs"
"""The record of Flower's protocol."""
NONCE, NODES, NONCES, VOUCHER = "nonce", "nodes", "nonces", "voucher"
NONCE_BYTES: Final = 32
_CONTEXT: Final = b"hybrid-llm SecAgg+ keys 1\0"
_SERVER: Final = "federated server"
_VOUCHER_BYTES: Final = 64 << 10
"""The most of a signature and a chain of certificates."""


def node_of(name: str) -> int:
    """The number that stands for the client with a certificate of *name*."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def distrust(reason: str) -> UntrustedPeer:
    """The error of a client that leaves, since the server may be able to read its update."""
    return UntrustedPeer(f"{reason}: the server could read this client's update; leaving", backend=_SERVER)


@dataclass(frozen=True, slots=True)
class Signer:
    """A client's certificate and key.

    Attributes:
        node: the number that its name gives.
        chain: DER, its own certificate first.
        ca: the authority of all clients.
    """

    node: int
    chain: tuple[bytes, ...]
    key: ec.EllipticCurvePrivateKey
    ca: Path

    @classmethod
    def open(cls, files: TLSFiles) -> Signer:
        """The signer with *files*. ConfigError if they cannot be read."""
        chain = load_certificates(files.cert)
        name = client_name(describe(chain[0]).identity or "")
        return cls(
            node_of(name), tuple(each.public_bytes(Encoding.DER) for each in chain), load_key(files.key), files.ca
        )

    def vouch(self, statement: bytes) -> list[bytes]:
        """The signature of *statement*, and the certificates behind it."""
        return [self.key.sign(statement, ec.ECDSA(hash_for(self.key.public_key()))), *self.chain]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all clients of one aggregation sign beside their keys.

    Attributes:
        digest: SHA-256 over the offer, the setting of the protocol, and a fresh random number of each client.
        nonces: node -> that number.
    """

    digest: bytes
    nonces: dict[int, bytes]

    @classmethod
    def read(cls, offer: Offer, message: Any) -> Agreement:
        """The agreement that the server proposes in the first *message*. UntrustedPeer if there is none."""
        added = message.content.config_records.get(RECORD, {})
        nodes, nonces = _all(int, added.get(NODES)), _all(bytes, added.get(NONCES))
        if not nodes or len(set(nodes)) != len(nodes) or len(nonces) != len(nodes):
            raise distrust("the keys of this aggregation are not signed")
        setting = sorted((name, repr(value)) for name, value in message.content.config_records[CONFIGS].items())
        pairs = sorted((node, nonce.hex()) for node, nonce in zip(nodes, nonces, strict=True))
        text = json.dumps([hashlib.sha256(offer.to_json()).hexdigest(), setting, pairs])
        return cls(hashlib.sha256(text.encode()).digest(), dict(zip(nodes, nonces, strict=True)))

    def statement(self, node: int, keys: Sequence[bytes]) -> bytes:
        """What the client *node* signs for its public *keys*."""
        digests = [hashlib.sha256(each).digest() for each in keys]
        return b"".join([_CONTEXT, self.digest, node.to_bytes(8, "big"), *digests])

    def check(self, node: int, given_keys: object, given_voucher: object, ca: Path) -> None:
        """Check that the client *node* signed the keys that are given for it, for this aggregation.

        Args:
            node: the client.
            given_keys: a list of bytes, or whatever another sent in its place; so is *given_voucher*.
            given_voucher: the signature, and the certificates behind it.
            ca: the authority of all clients.

        Raises:
            UntrustedPeer: nobody did, another did, or *ca* does not vouch for the certificate.
            ConfigError: *ca* cannot be read.
        """
        keys, voucher = _all(bytes, given_keys), _all(bytes, given_voucher)
        if node not in self.nonces or not keys or not voucher or sum(map(len, voucher)) > _VOUCHER_BYTES:
            raise distrust("keys without a signature are passed on for another client")
        try:
            certificate, key = trusted_certificate(voucher[1:], ca)
            found = describe(certificate)
            if found.kinds != ("client",) or node_of(client_name(found.identity or "")) != node:
                raise ValueError("it is not signed by that client")
            key.verify(voucher[0], self.statement(node, keys), ec.ECDSA(hash_for(key)))
        except InvalidSignature:
            raise distrust("the keys of another client are not those that it signed for this aggregation") from None
        except ValueError as error:
            raise distrust(f"the signature of another client's keys is not trusted: {error}") from None


def _all(kind: type[T], given: object) -> list[T]:
    """*given* if it is a list of *kind*, else nothing."""
    if isinstance(given, list) and all(type(each) is kind for each in given):
        return given
    return []

"""Sealed mode on the node: opens requests with its keys, refuses replays, and seals the answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hybrid_llm.backends.node.requests import NODE
from hybrid_llm.backends.wire.sealing.keys import KeyRing, SealKey
from hybrid_llm.backends.wire.sealing.messages import open_request
from hybrid_llm.backends.wire.sealing.replay import ReplayWindow
from hybrid_llm.core.errors import ConfigError, DecryptionFailed, RequestRejected
from hybrid_llm.protos import hybrid_pb2 as pb

Seal = Callable[[pb.GenerateChunk], pb.GenerateChunk]
"""What is sent instead of a chunk."""


class Sealing:
    """The sealing keys in *folder*, if the node has one. With *required* it answers no request that is not sealed.

    Raises:
        ConfigError: the folder holds no usable key, or sealed requests are required and there is no folder.
    """

    def __init__(self, folder: Path | None, *, required: bool = False, replays: ReplayWindow | None = None) -> None:
        if required and folder is None:
            raise ConfigError("a node that takes sealed requests only needs sealing keys: --sealed DIR")
        self._ring = KeyRing(folder) if folder is not None else None
        self._required = required
        self._replays = replays or ReplayWindow()

    def open(self, message: pb.GenerateRequest, client: str) -> tuple[pb.GenerateRequest, Seal]:
        """Return the request of *client* that *message* holds, and what its chunks are sent as.

        Raises:
            DecryptionFailed: it cannot be opened, is sealed to a key that is unknown or expired, is old or a replay.
            RequestRejected: it is not sealed, and must be.
            BackendError: see `ReplayWindow.admit`.
        """
        if not (message.sealed or message.key_id):
            if self._required:
                raise RequestRejected("this node takes sealed requests only", backend=NODE, reason="unsupported")
            return message, plain
        opened = open_request(message, self._key(message.key_id))
        self._replays.admit(opened.secret, opened.issued.timestamp(), client)
        return opened.message, opened.sealer()

    def _key(self, key_id: bytes) -> SealKey:
        key = self._ring.keys().get(key_id) if self._ring is not None else None
        if key is None:
            raise DecryptionFailed("the request is sealed to a key that this node does not have")
        if key.config.expired(datetime.now(UTC)):
            raise DecryptionFailed("the request is sealed to a key that has expired")
        return key

    def offered(self) -> list[pb.SealingKey]:
        """The public keys, for the node's description."""
        return [
            pb.SealingKey(
                suite=each.suite.name,
                public_key=each.public,
                not_after=int(each.not_after.timestamp()),
                evidence=each.evidence,
            )
            for each in (self._ring.offered() if self._ring is not None else ())
        ]

    def reload(self) -> None:
        """Read the keys again now, if their files changed."""
        if self._ring is not None:
            self._ring.reload()


def plain(chunk: pb.GenerateChunk) -> pb.GenerateChunk:
    """What is sent of an answer that is not sealed: *chunk* itself."""
    return chunk

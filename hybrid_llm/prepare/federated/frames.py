"""The frames between server and clients, over one stream of gRPC with mutual TLS 1.3 for each client."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from hybrid_llm.core.errors import ConfigError

METHOD: Final = "/hybrid_llm.federated.v1.Federation/Attend"
SERVICE, NAME = METHOD.strip("/").split("/")
MAX_BYTES: Final = 512 * 1024 * 1024
"""The largest frame, bytes; an update of SecAgg+ takes 8 bytes a weight."""


class Kind(Enum):
    """What a frame is."""

    HELLO = b"H"
    """Client: it is there."""
    OFFER = b"O"
    """Server: `Offer` as JSON."""
    READY = b"R"
    """Client: it takes part."""
    TASK = b"T"
    """Server: a message of Flower."""
    REPLY = b"A"
    """Client: Flower's reply."""
    FAILED = b"F"
    """Client: it could not do the task; nothing about why, which may have data in it."""
    END = b"E"
    """Server: all rounds are over."""


class Frame(NamedTuple):
    """One frame."""

    kind: Kind
    body: bytes = b""

    def pack(self) -> bytes:
        """The bytes that are sent."""
        return self.kind.value + self.body

    @classmethod
    def unpack(cls, data: bytes) -> Frame:
        """The frame that was received. ConfigError if it is none."""
        try:
            return cls(Kind(data[:1]), data[1:])
        except ValueError as error:
            raise ConfigError("a frame of another version: install the same version on both sides") from error

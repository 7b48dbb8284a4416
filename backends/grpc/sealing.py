"""The sealing key of one node, fetched over its own connection when a call needs it."""

from __future__ import annotations

from typing import Final

from hybrid_llm.backends.grpc.connection import Link
from hybrid_llm.backends.wire.sealing.evidence import Verifier
from hybrid_llm.backends.wire.sealing.keys import KeyConfig
from hybrid_llm.backends.wire.sealing.pins import NodeKeys, Pins, SealedSpec
from hybrid_llm.protos import hybrid_pb2 as pb

_MOST_S: Final = 5.0
"""The longest that fetching keys may take, seconds."""


class Sealer:
    """Finds the key that calls are sealed to; ConfigError if *spec* is unusable. *verifier* checks evidence."""

    def __init__(self, spec: SealedSpec, verifier: Verifier | None = None) -> None:
        self._keys = NodeKeys(Pins(spec, verifier=verifier))
        self.forget = self._keys.forget

    def key(self, link: Link, remaining: float) -> KeyConfig:
        """Return the key, fetched within *remaining* seconds if need be.

        Raises:
            grpc.RpcError: the node did not send its keys.
            DecryptionFailed, UntrustedPeer: none of them is accepted.
        """
        if (key := self._keys.current()) is not None:
            return key
        return self._keys.choose(link.describe(b"", timeout=min(remaining, _MOST_S)).sealing_keys)

    def check(self, reply: pb.NodeDescription) -> None:
        """Take the key from a node's description; raises `DecryptionFailed` or `UntrustedPeer` if none is accepted."""
        self._keys.choose(reply.sealing_keys)

    async def akey(self, link: Link, remaining: float) -> KeyConfig:
        """Do as `key` does, without blocking the event loop."""
        if (key := self._keys.current()) is not None:
            return key
        return self._keys.choose((await link.describe(b"", timeout=min(remaining, _MOST_S))).sealing_keys)

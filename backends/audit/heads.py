"""A signed head: what the whole log was up to one record, signed when that record was written."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Final, Self

from hybrid_llm.backends.audit.tree import HASH_BYTES

_LABEL: Final = b"hybrid-llm audit head 1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead:
    """The head of the log *log* after its first *size* records."""

    log: str
    size: int
    root: bytes
    """The root of the Merkle tree, 32 bytes."""
    leaf: bytes
    """The hash of the last of these records, 32 bytes."""
    at_ms: int
    key: str
    """The id of the key that signed."""
    signature: bytes

    def to_json(self) -> str:
        """The head as one line of JSON, to be stored outside the log."""
        raw = {"root": self.root.hex(), "leaf": self.leaf.hex(), "signature": self.signature.hex()}
        return json.dumps({"log": self.log, "size": self.size, "at_ms": self.at_ms, "key": self.key, **raw})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The head in *text*.

        Raises:
            ValueError: it is none.
        """
        try:
            found: dict[str, Any] = json.loads(text)
            found |= {name: bytes.fromhex(found[name]) for name in ("root", "leaf", "signature")}
            head = cls(**found)
        except (KeyError, TypeError, RecursionError):
            raise ValueError("not a signed head") from None
        is_whole = all(type(each) is int for each in (head.size, head.at_ms))
        is_named = all(isinstance(each, str) for each in (head.log, head.key))
        if not (is_whole and is_named and 0 < head.size < 2**63 and 0 <= head.at_ms < 2**63):
            raise ValueError("not a signed head")
        if not len(head.root) == len(head.leaf) == HASH_BYTES:
            raise ValueError("not a signed head")
        return head


def signed_bytes(log: str, size: int, root: bytes, leaf: bytes, at_ms: int) -> bytes:
    """What a signature covers: the log; time, size and root as in `TreeHeadDataV2` (RFC 9162, 4.10); the leaf."""
    name = log.encode("utf-8", "surrogatepass")
    head = struct.pack(">QQB", at_ms, size, len(root)) + root
    return _LABEL + struct.pack(">I", len(name)) + name + head + leaf

"""Which version a device should run: an alias in a staged roll-out means another version for a share of the devices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from hybrid_llm.backends.models.registry.records import AliasEntry

_BITS = 64


def assigned(latest: AliasEntry, device: str, entry: Callable[[int], AliasEntry]) -> str:
    """The digest of the version that *latest* means for *device*; empty if it means none yet.

    A device that is not in the share of an entry runs what the entry before meant. A device in a share is also in every
    larger share of the same version, and for each version other devices come first.

    Args:
        latest: the last entry of the alias.
        device: what distinguishes it.
        entry: the entry of this alias with a number.
    """
    current = latest
    while position(device, current.version) >= current.share:
        if not current.previous:
            return ""
        current = entry(current.previous)
    return current.version


def position(device: str, version: str) -> float:
    """Where *device* stands in the roll-out of *version*: at least 0 and less than 1, evenly spread over devices."""
    digest = hashlib.sha256(f"{device}\n{version}".encode()).digest()
    return (int.from_bytes(digest[: _BITS // 8], "big") >> 11) / (1 << (_BITS - 11))

"""The Merkle tree of RFC 9162, section 2.1, as it grows: leaves are added at the end, and only the peaks are stored."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
EMPTY: Final = sha256(b"").digest()
"""The root of a tree without leaves."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + entry).digest()


def _parent(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """A tree of *size* leaves, of which *peaks* are the roots of the whole subtrees, the largest first.

    Raises:
        ValueError: that is not as many peaks as a tree of that size has.
    """

    def __init__(self, size: int = 0, peaks: bytes = b"") -> None:
        if len(peaks) != HASH_BYTES * size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks")
        self.size = size
        self._peaks = [peaks[at : at + HASH_BYTES] for at in range(0, len(peaks), HASH_BYTES)]

    def append(self, leaf: bytes) -> None:
        """Add the hash of a leaf."""
        merged, size = leaf, self.size
        while size & 1:  # each trailing one is a subtree as large as what was merged so far
            merged = _parent(self._peaks.pop(), merged)
            size >>= 1
        self._peaks.append(merged)
        self.size += 1

    @property
    def root(self) -> bytes:
        """The hash of the whole tree."""
        if not self._peaks:
            return EMPTY
        *others, root = self._peaks
        for peak in reversed(others):
            root = _parent(peak, root)
        return root

    @property
    def peaks(self) -> bytes:
        """The peaks, one after the other."""
        return b"".join(self._peaks)

    def copy(self) -> MerkleTree:
        """A tree of its own, equal to this one."""
        return MerkleTree(self.size, self.peaks)

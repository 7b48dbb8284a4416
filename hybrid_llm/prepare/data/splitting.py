"""Decides which split a record comes into: by a hash of its content or group, so that more data moves no record.

The hash is keyed by the seed. A share is met as closely as draws meet it: of n records it misses a share p by about
sqrt(p (1 - p) / n). `Quotas` meets the share of each label exactly, or takes as many of each label, in the order of
the hashes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from hybrid_llm.core.errors import ConfigError

_BITS: Final = 64


def keyed(content: bytes, seed: int, purpose: bytes, size: int = 8) -> bytes:
    """A hash of *content* under *seed* for one purpose."""
    return hashlib.blake2b(content, digest_size=size, key=str(seed).encode()[:64], person=purpose).digest()


def check_shares(shares: Mapping[str, float]) -> None:
    """Make sure that the shares are names of files, and make 100 %.

    Raises:
        ConfigError: they do not.
    """
    wrong = [name for name in shares if not name.replace("_", "").replace("-", "").isalnum()]
    if wrong or not shares or abs(sum(shares.values()) - 1.0) > 1e-6 or min(shares.values()) <= 0.0:
        raise ConfigError(
            "`splits` must be names of letters and digits, each with a share of more than 0 %, 100 % together, "
            "such as {train: 90%, validation: 5%, test: 5%}"
        )


def split_of(content: bytes, seed: int, shares: Mapping[str, float]) -> str:
    """The split of a record with this *content* (or of this group)."""
    at = int.from_bytes(keyed(content, seed, b"split")) / 2**_BITS
    upto = 0.0
    for name, share in shares.items():
        upto += share
        if at < upto:
            return name
    return name


@dataclass(slots=True)
class Quotas:
    """How many records of each label each split takes, in the order in which they come.

    Attributes:
        left: split and label -> how many more it takes.
    """

    left: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def stratified(cls, counts: Mapping[str, int], shares: Mapping[str, float]) -> Quotas:
        """Each split gets its share of every label, rounded; the first split gets what is left."""
        first, *others = shares
        left: Counter[tuple[str, str]] = Counter()
        for label, number in counts.items():
            for name in others:
                left[name, label] = round(number * shares[name])
            left[first, label] = number - sum(left[name, label] for name in others)
        return cls(left)

    @classmethod
    def balanced(cls, counts: Mapping[tuple[str, str], int]) -> Quotas:
        """Each split takes as many records of every label as it has of its rarest one."""
        labels = {label for _, label in counts}
        least = {split: min(counts.get((split, label), 0) for label in labels) for split, _ in counts}
        return cls(Counter({(split, label): least[split] for split, _ in counts for label in labels}))

    def take(self, split: str, label: str) -> bool:
        """Whether the split takes one more of this label."""
        if self.left[split, label] <= 0:
            return False
        self.left[split, label] -= 1
        return True

    def any_split(self, label: str) -> str:
        """The first split that takes one more of this label, last named first; empty if none does."""
        return next((name for name in reversed(self.names) if self.take(name, label)), "")

    @property
    def names(self) -> list[str]:
        """The splits, in their order."""
        return list(dict.fromkeys(name for name, _ in self.left))

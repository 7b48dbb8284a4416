"""Finds exact and near duplicates among records, with memory that grows by about 80 bytes a record.

Near duplicates are found by MinHash (Broder, 1997) with bands (Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, 3.4): records whose signatures are equal in one band are candidates, and those among them whose estimated
Jaccard similarity of word n-grams reaches the threshold are one cluster, of which one record stays. Signatures lie on
the disk, 528 bytes a record.

Which record stays depends on the content of the records alone, not on the order of the input.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint

_HASHES: Final = 128
"""Hash functions of a signature: the similarity is estimated with a standard error of at most 0.044."""
_SEED: Final = 1
_MARGIN: Final = 0.08
"""How far below the threshold a pair shall become a candidate with probability one half or more."""
_CHUNK: Final = 4096
_ROW: Final = 16 + 4 * _HASHES
_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
"""A word; of scripts that write none, a character."""


def words_of(text: str) -> list[str]:
    """The words of *text* in small letters, without marks; of Chinese and Japanese each character."""
    return _WORD.findall(text.casefold())


def digest_of_texts(texts: Sequence[str]) -> bytes:
    """16 bytes that two records have in common whose texts differ at most in case, white space and Unicode form."""
    plain = "\x1f".join(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts)
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def bands_of(threshold: float) -> int:
    """In how many bands the signature is divided: a pair at *threshold* - 0.08 is a candidate half of the times."""
    return max(
        (bands for bands in (4, 8, 16, 32, 64) if (1 / bands) ** (bands / _HASHES) <= threshold - _MARGIN),
        key=lambda bands: (1 / bands) ** (bands / _HASHES),
        default=64,
    )


@dataclass(slots=True)
class Signatures:
    """The signatures of all records in one file on the disk, in the order in which they were added.

    Attributes:
        path: The file.
        words: How many words an n-gram has.
    """

    path: Path
    words: int
    _file: IO[bytes] = field(init=False, repr=False)
    _minhash: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            from rensa import RMinHash
        except ImportError as error:
            message = f"near duplicates need rensa: {install_hint('prepare')}, or set `duplicates: exact`"
            raise ConfigError(message) from error
        self._minhash = RMinHash
        self._file = self.path.open("wb", buffering=1 << 20)

    def add(self, key: bytes, texts: Sequence[str]) -> None:
        """Add the signature of *texts*; *key*, of 16 bytes, decides which of several similar records stays."""
        import numpy as np

        words = [word for text in texts for word in words_of(text)]
        grams = [" ".join(words[at : at + self.words]) for at in range(max(1, len(words) - self.words + 1))]
        minhash = self._minhash(_HASHES, _SEED)
        minhash.update(grams)
        self._file.write(key + np.asarray(minhash.digest(), dtype=np.uint32).tobytes())

    def duplicates(self, threshold: float) -> Any:
        """An array of booleans: for each record, whether it is similar to one that stays."""
        import numpy as np

        self._file.close()
        count = self.path.stat().st_size // _ROW
        if count == 0:
            return np.zeros(0, dtype=np.bool_)
        rows = np.memmap(self.path, dtype=np.dtype([("key", ">u8", 2), ("hash", "<u4", _HASHES)]), mode="r")
        rank = _ranks(rows["key"])
        clusters = _Clusters(count)
        for pairs in _candidates(rows["hash"], rank, bands_of(threshold)):
            for part in range(0, len(pairs), _CHUNK):
                some = pairs[part : part + _CHUNK]
                alike = (rows["hash"][some[:, 0]] == rows["hash"][some[:, 1]]).mean(axis=1) >= threshold
                clusters.join(some[alike], rank)
        return clusters.roots() != np.arange(count)


def _ranks(keys: Any) -> Any:
    """The place of each record in the order of the keys."""
    import numpy as np

    order = np.lexsort((keys[:, 1], keys[:, 0]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _candidates(hashes: Any, rank: Any, bands: int) -> Iterator[Any]:
    """For each band, pairs of records that are equal in it: each with the first by rank, and with the one before."""
    import numpy as np

    rows = _HASHES // bands
    for band in range(bands):
        mixed = np.zeros(len(rank), dtype=np.uint64)
        for start in range(0, len(rank), _CHUNK * 16):
            part = hashes[start : start + _CHUNK * 16, band * rows : (band + 1) * rows].astype(np.uint64)
            for column in part.T:
                mixed[start : start + len(part)] = (mixed[start : start + len(part)] ^ column) * np.uint64(
                    0x9E3779B97F4A7C15
                )
        order = np.lexsort((rank, mixed))
        same = np.flatnonzero(mixed[order[1:]] == mixed[order[:-1]]) + 1
        begins = np.maximum.accumulate(
            np.where(np.diff(mixed[order], prepend=mixed[order[:1]] + np.uint64(1)) != 0, np.arange(len(order)), 0)
        )
        first, previous, this = order[begins[same]], order[same - 1], order[same]
        yield np.unique(np.concatenate([np.stack([first, this], 1), np.stack([previous, this], 1)]), axis=0)


class _Clusters:
    """Which records are joined, as a forest whose roots are the first of each cluster by rank."""

    def __init__(self, count: int) -> None:
        import numpy as np

        self._parent = np.arange(count, dtype=np.int64)

    def join(self, pairs: Any, rank: Any) -> None:
        for one, other in pairs.tolist():
            first, second = self._root(one), self._root(other)
            if rank[first] > rank[second]:
                first, second = second, first
            self._parent[second] = first

    def _root(self, at: int) -> int:
        parent = self._parent
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = int(parent[at])
        return at

    def roots(self) -> Any:
        """The root of each record."""
        roots = self._parent
        while (roots[roots] != roots).any():
            roots = roots[roots]
        return roots

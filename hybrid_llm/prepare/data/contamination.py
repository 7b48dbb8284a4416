"""Finds records that overlap with an evaluation set: a common n-gram of words.

n = 13, as Brown et al. (2020, Language Models are Few-Shot Learners, appendix C) do. A text of the evaluation set that
is shorter than n words counts as one n-gram of its own length, and is found where a record consists of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hybrid_llm.prepare.data.duplicates import words_of


class Evaluated:
    """The n-grams of an evaluation set, in memory: about 100 bytes for each word of it."""

    def __init__(self, items: Iterable[Sequence[str]], size: int) -> None:
        """Read the texts of each of *items*; *size* is n."""
        self._size = size
        self._items: dict[int, int] = {}
        self.count = 0
        self._met: set[int] = set()
        for texts in items:
            for gram in self._grams(texts):
                self._items.setdefault(gram, self.count)
            self.count += 1

    @property
    def met(self) -> int:
        """How many of its items overlap with a record that was looked at."""
        return len(self._met)

    def overlaps(self, texts: Sequence[str]) -> bool:
        """Whether one of *texts* shares an n-gram with it."""
        found = {self._items[gram] for gram in self._grams(texts) if gram in self._items}
        self._met |= found
        return bool(found)

    def _grams(self, texts: Sequence[str]) -> Iterator[int]:
        """A hash of each n-gram; 64 bits, so that none is found by chance."""
        for text in texts:
            words = words_of(text)
            for at in range(max(1 if words else 0, len(words) - self._size + 1)):
                yield hash(tuple(words[at : at + self._size]))

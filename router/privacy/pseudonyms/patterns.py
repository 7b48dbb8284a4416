"""A growing set of strings, all of which are searched for in one pass over a text (Aho-Corasick).

The automata hold the first characters of each string, as few as tell it from most others; the rest is compared where
these occur. They grow as a log-structured tree does: new strings get a small automaton of their own, and automata of
like size are merged. Adding a string to many costs little, and a text is read by a few automata at most. Strings that
were added are put into automata when something is first searched for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

from hybrid_llm.core.looks import PART, look

_HEADS: Final = (12, 32, 128, 2048)
"""Lengths of a head: the next where `_SHARED` strings have the same one."""
_SHARED: Final = 8
_BATCH: Final = 1024
"""Strings between two looks at the deadline."""
_GROWTH: Final = 4
"""An automaton is merged into one that is less than this many times as large."""
_T = TypeVar("_T")


class Patterns(Generic[_T]):
    """Strings, each with what is known of it. Not thread-safe."""

    __slots__ = ("_about", "_automata", "_headed", "_heads", "_new")

    def __init__(self) -> None:
        self._about: dict[str, _T] = {}
        # The beginning of some strings -> these strings; in tuples, which the garbage collector leaves alone.
        self._heads: dict[str, tuple[str, ...]] = {}
        self._new: list[str] = []  # strings without a head yet
        self._headed: list[str] = []  # heads that are in no automaton yet
        self._automata: list[tuple[Any, list[str]]] = []

    def __len__(self) -> int:
        return len(self._about)

    def __contains__(self, pattern: object) -> bool:
        return pattern in self._about

    def __getitem__(self, pattern: str) -> _T:
        return self._about[pattern]

    def __setitem__(self, pattern: str, about: _T) -> None:
        """Change what is known of a string that was added."""
        self._about[pattern] = about

    def add_all(self, patterns: Iterable[str], about: _T) -> set[str]:
        """Add strings that are not empty; return those that were added before, of which nothing changes."""
        new = dict.fromkeys(patterns, about)
        known = new.keys() & self._about.keys()
        for pattern in known:
            del new[pattern]
        self._new += new
        self._about.update(new)
        return known

    def matches(self, text: str) -> Iterator[tuple[int, int, _T]]:
        """Yield start, end (exclusive) and what is known of each occurrence; they may overlap, in any order."""
        about, heads = self._about, self._heads
        for last, head in self._found(text):
            start = last + 1 - len(head)
            for pattern in heads[head]:
                if text.startswith(pattern, start):
                    yield start, start + len(pattern), about[pattern]

    def longest(self) -> int:
        """The length of the longest string."""
        return max(map(len, self._about), default=0)

    def firsts(self) -> set[str]:
        """The first characters of all strings."""
        return {pattern[0] for pattern in self._about}

    def beginnings(self, text: str) -> Iterator[int]:
        """Yield how many characters at the end of *text* begin a string that is longer: every number."""
        for last, head in self._found(text):
            end = text[last + 1 - len(head) :]
            if any(len(pattern) > len(end) and pattern.startswith(end) for pattern in self._heads[head]):
                yield len(end)
        for length in range(1, min(len(text), _HEADS[-1]) + 1):
            end = text[-length:]
            if any(automaton.match(end) and self._goes_on(automaton, end) for automaton, _ in self._automata):
                yield length

    def _goes_on(self, automaton: Any, beginning: str) -> bool:
        """Whether a head begins with *beginning* and is longer."""
        return any(head != beginning for head, _ in zip(automaton.keys(beginning), range(2), strict=False))

    def clear(self) -> None:
        """Forget everything."""
        for automaton, heads in self._automata:
            automaton.clear()
            heads.clear()
        for held in (self._about, self._heads, self._new, self._headed, self._automata):
            held.clear()

    def _found(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield where heads end in *text*."""
        self._build()
        for automaton, heads in self._automata:
            before = max(map(len, heads)) - 1 if len(text) > PART else 0
            for start in range(0, len(text), PART):
                look()
                first = max(0, start - before)
                for last, head in automaton.iter(text[first : start + PART]):
                    if first + last >= start:
                        yield first + last, head

    def _build(self) -> None:
        while self._new:
            look()
            self._headed += self._new_heads(self._new[-_BATCH:])
            del self._new[-_BATCH:]
        if not self._headed:
            return
        heads, self._headed = self._headed, []
        while self._automata and len(self._automata[-1][1]) < _GROWTH * len(heads):
            heads = [*self._automata.pop()[1], *heads]
        self._automata.append((_automaton(heads), heads))

    def _new_heads(self, patterns: list[str]) -> list[str]:
        """Assign each of the *patterns* to a head; return the heads that no string had before."""
        heads, new = self._heads, []
        for size in (*_HEADS, None):
            left = []
            for pattern in patterns:
                head = pattern[:size]
                if head not in heads:
                    heads[head] = (pattern,)
                    new.append(head)
                elif len(heads[head]) < _SHARED:
                    heads[head] = (*heads[head], pattern)
                else:
                    left.append(pattern)
            patterns = left
        return new


def _automaton(heads: list[str]) -> Any:
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for head in heads:
        automaton.add_word(head, head)
    automaton.make_automaton()
    return automaton

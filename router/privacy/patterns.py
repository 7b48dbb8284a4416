"""A growing set of strings, all of which are searched for in one pass over a text (Aho-Corasick).

The automata grow as a log-structured tree does: new strings get a small automaton of their own, and automata of like
size are merged. Adding a string to many costs little, and a text is read by a few automata at most.

A string of more than `_LONG` characters is searched for by itself; few of those fit into a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, Generic, TypeVar

_LONG: Final = 2048
_GROWTH: Final = 4
"""An automaton is merged into one that is less than this many times as large."""
_T = TypeVar("_T")


class Patterns(Generic[_T]):
    """Strings, each with what is known of it. Not thread-safe."""

    __slots__ = ("_about", "_automata", "_long", "_longest", "_new")

    def __init__(self) -> None:
        self._about: dict[str, _T] = {}
        self._new: list[str] = []
        self._automata: list[tuple[Any, list[str]]] = []
        self._long: list[str] = []
        self._longest = 0

    def __contains__(self, pattern: object) -> bool:
        return pattern in self._about

    def __len__(self) -> int:
        return len(self._about)

    def __getitem__(self, pattern: str) -> _T:
        return self._about[pattern]

    def add(self, pattern: str, about: _T) -> None:
        """Add a string that is not empty, or change what is known of it."""
        if pattern not in self._about:
            (self._new if len(pattern) <= _LONG else self._long).append(pattern)
        self._about[pattern] = about

    def matches(self, text: str) -> Iterator[tuple[int, int, _T]]:
        """Yield start, end (exclusive) and what is known of each occurrence; they may overlap, in any order."""
        self._build()
        about = self._about
        for automaton, _ in self._automata:
            for last, pattern in automaton.iter(text):
                yield last + 1 - len(pattern), last + 1, about[pattern]
        for pattern in self._long:
            start = text.find(pattern)
            while start >= 0:
                yield start, start + len(pattern), about[pattern]
                start = text.find(pattern, start + 1)

    def longest(self) -> int:
        """The length of the longest string."""
        self._build()
        return max(self._longest, *map(len, self._long), 0)

    def firsts(self) -> set[str]:
        """The first characters of all strings."""
        return {pattern[0] for pattern in self._about}

    def beginnings(self, text: str) -> Iterator[int]:
        """Yield how many characters at the end of *text* could begin a string that goes on: every number.

        Of a long string only the greatest number. Time is linear in *text* and in all long strings.
        """
        self._build()
        for length in range(1, min(len(text), self._longest - 1) + 1):
            if self._continued(text[-length:]):
                yield length
        for pattern in self._long:
            yield _overlap(text[1 - len(pattern) :], pattern)

    def _continued(self, beginning: str) -> bool:
        return any(
            automaton.match(beginning) and any(each != beginning for each in islice(automaton.keys(beginning), 2))
            for automaton, _ in self._automata
        )

    def clear(self) -> None:
        """Forget everything."""
        for automaton, strings in self._automata:
            automaton.clear()
            strings.clear()
        for held in (self._about, self._new, self._automata, self._long):
            held.clear()

    def _build(self) -> None:
        if not self._new:
            return
        strings, self._new = self._new, []
        while self._automata and len(self._automata[-1][1]) < _GROWTH * len(strings):
            strings = [*self._automata.pop()[1], *strings]
        self._automata.append((_automaton(strings), strings))
        self._longest = max(self._longest, *map(len, strings))


def _automaton(strings: list[str]) -> Any:
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for each in strings:
        automaton.add_word(each, each)
    automaton.make_automaton()
    return automaton


def _overlap(text: str, pattern: str) -> int:
    """How many characters at the end of *text* begin *pattern*, at most (Knuth, Morris and Pratt)."""
    fallback = [0] * (len(pattern) + 1)
    length = 0
    for index in range(1, len(pattern)):
        length = _longer(pattern, fallback, length, pattern[index])
        fallback[index + 1] = length
    length = 0
    for char in text:
        length = _longer(pattern, fallback, length, char)
    return length


def _longer(pattern: str, fallback: list[int], length: int, char: str) -> int:
    """How many characters of *pattern* are matched after *char*, if *length* were before."""
    while length and pattern[length] != char:
        length = fallback[length]
    return length + (pattern[length] == char)

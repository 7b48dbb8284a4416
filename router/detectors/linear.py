"""Regular expressions whose time is linear in the text, whoever wrote the text: RE2 over folded bytes.

A thin face over google-re2, which is imported and compiles at the first use. Patterns have no lookaround; what must
stand around a find is matched too, and the group `found`, or the first group that took part, is the find.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

__all__ = ["Found", "Regex", "WordSet", "linear"]

_MEMORY: Final = 16 << 20
"""Bytes that one expression's automaton may use; beyond, RE2 takes its slower way, still linear."""


class Found(NamedTuple):
    """A find: *start* and *end* are those of the group that took part, *kind* its name."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, eq=False)
class Regex:
    """A pattern in RE2's syntax over bytes in Latin-1."""

    pattern: bytes

    @cached_property
    def _compiled(self) -> Any:
        import re2

        return re2.compile(self.pattern, _options(re2))

    @cached_property
    def _groups(self) -> int:
        return int(self._compiled.groups)

    @cached_property
    def _names(self) -> dict[int, str]:
        return {index: name.decode("ascii") for name, index in self._compiled.groupindex.items()}

    def search(self, data: bytes, start: int = 0) -> Any:
        """The first match at or behind *start*, or None; it is a match object of `re2`."""
        return self._compiled.search(data, start)

    def match(self, data: bytes, start: int = 0) -> Any:
        """The match that begins at *start*, or None."""
        return self._compiled.match(data, start)

    def finditer(self, data: bytes) -> Iterator[Found]:
        """Every find, in order; what stands behind one may stand before the next."""
        search, groups = self._compiled.search, self._groups
        match = search(data, 0)
        while match is not None:
            index = groups if groups < 2 else match.lastindex
            start, end = match.span(index)
            yield Found(start, end, self._names.get(index, ""))
            match = search(data, max(end, start + 1)) if end < len(data) else None


def linear(pattern: bytes) -> Regex:
    """*pattern*, to be compiled when it is first used."""
    return Regex(pattern)


class WordSet:
    """Many words, looked for at once in one pass, in any case."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._lock = threading.Lock()

    @cached_property
    def _set(self) -> Any:
        import re2

        options = _options(re2)
        options.case_sensitive = False
        words = re2.Set.SearchSet(options)
        for word in self._words:
            words.Add(re2.escape(word.encode("ascii")))
        words.Compile()
        return words

    def within(self, data: bytes) -> Iterator[str]:
        """Yield each word that *data* holds."""
        with self._lock:
            words = self._set
        return (self._words[index] for index in words.Match(data) or ())


def _options(re2: Any) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = _MEMORY
    options.log_errors = False
    options.never_capture = False
    return options

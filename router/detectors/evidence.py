"""What speaks for a find and what against it: the form, the checksum, the words around it.

A find counts when its score reaches `THRESHOLD`. A form that is rare by chance has that score alone; a weaker one needs
a checksum that holds or a word beside it. So a checksum is evidence and not a filter: a card number with a slip of the
pen is found where the text says `card`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from hybrid_llm.router.detectors.linear import Regex, linear
from hybrid_llm.router.detectors.views import View

__all__ = ["CONTEXT", "THRESHOLD", "Candidate", "Context", "Pattern"]

THRESHOLD: Final = 0.5
CONTEXT: Final = 0.3
"""What a word beside a find adds to its score, or a word that speaks against it takes."""
_BEFORE: Final = 60
_AFTER: Final = 24
_NO_DIGITS: Final = bytes(byte for byte in range(256) if not 48 <= byte <= 57)


class Candidate(NamedTuple):
    """What a pattern matched: the characters *start* to *end* (not included) of *view*."""

    view: View
    start: int
    end: int

    @property
    def value(self) -> str:
        """The text, folded: digits of every script are ASCII here."""
        return self.view.data[self.start : self.end].decode("latin-1")

    @property
    def digits(self) -> str:
        """The digits of the value alone."""
        return self.view.data[self.start : self.end].translate(None, _NO_DIGITS).decode("ascii")


@dataclass(frozen=True, eq=False)
class Context:
    """Words that are looked for before and behind a find: *words* as RE2 in any case, *chinese* as they are written."""

    words: bytes
    chinese: tuple[str, ...] = ()
    before: int = _BEFORE
    after: int = _AFTER

    @cached_property
    def _regex(self) -> Regex:
        return linear(rb"(?i)(?:\b|_)(?:" + self.words + rb")(?:\b|_|[0-9])")

    def within(self, view: View) -> bool:
        """Does one of the words stand anywhere in *view*?"""
        return bool(self._places(view))

    def around(self, candidate: Candidate) -> bool:
        """Does one of the words stand near *candidate*?"""
        places = self._places(candidate.view)
        index = bisect_left(places, candidate.start - self.before)
        while index < len(places) and places[index] < candidate.end + self.after:
            if not candidate.start < places[index] < candidate.end:
                return True
            index += 1
        return False

    def _places(self, view: View) -> Sequence[int]:
        """Where the words begin in *view*; they are looked for once."""
        if self not in view.notes:
            places = [found.start for found in self._regex.finditer(view.data)]
            if self.chinese and not view.text.isascii():
                places = sorted([*places, *(start for word in self.chinese for start in view.find(word))])
            view.notes[self] = places
        return view.notes[self]


def _always(_: Candidate) -> float:
    return 1.0


@dataclass(frozen=True, eq=False)
class Pattern:
    """One form of a kind: what it looks like, what it scores, and the words that speak for it and against it.

    Attributes:
        regex: What is to be found is the group, or the whole match where there is none.
        score: From 0 to 1; below `THRESHOLD - CONTEXT` nothing can save it.
        near: Words that raise the score.
        against: Words that lower it.
        weak: It never counts without a word of *near*: texts that hold none are not searched at all.
        needs: What a text must hold, else the pattern is not tried: characters, letters small and found in any case, or
            `6` or `9` for so many digits.
    """

    regex: Regex
    score: Callable[[Candidate], float] = _always
    near: Context | None = None
    against: Context | None = None
    weak: bool = False
    needs: bytes = b""

    def spans(self, view: View, known: bytearray) -> Iterator[tuple[int, int]]:
        """Yield where it is found in *view*, but not inside the characters that *known* marks."""
        for start, end, _ in self.regex.finditer(view.data):
            if not (known[start] and known[end - 1]) and self.accepts(Candidate(view, start, end)):
                yield start, end

    def may_match(self, view: View) -> bool:
        """A quick look: is what every match needs there at all?"""
        if self.needs == b"9":
            there = view.has_long_number
        else:
            there = view.has_number if self.needs == b"6" else self.needs in view.lower
        if not there:
            return False
        return not self.weak or self.near is None or self.near.within(view)

    def accepts(self, candidate: Candidate) -> bool:
        """Is the evidence for *candidate* enough?"""
        score = self.score(candidate)
        if score < THRESHOLD - CONTEXT:
            return False
        if self.against is not None and self.against.around(candidate):
            score -= CONTEXT
        if score < THRESHOLD and self.near is not None and self.near.around(candidate):
            score += CONTEXT
        return score >= THRESHOLD - 1e-9

"""What speaks for a find and what against it: the form, the checksum, the words around it.

A find counts when its score reaches `THRESHOLD`. A form that is rare by chance has that score alone; a weaker one needs
a checksum that holds or a word beside it. So a checksum is evidence and not a filter: a card number with a slip of the
pen is found where the text says `card`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from hybrid_llm.router.detectors.linear import Regex, linear
from hybrid_llm.router.detectors.views import View

__all__ = ["CONTEXT", "THRESHOLD", "Candidate", "Context", "Pattern"]

THRESHOLD: Final = 0.5
CONTEXT: Final = 0.3
"""What a word beside a find adds to its score, or a word that speaks against it takes."""
_BEFORE: Final = 60
_AFTER: Final = 24


@dataclass(frozen=True, slots=True)
class Candidate:
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
        return "".join(filter(str.isdigit, self.value))


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
        """Does one of the words stand anywhere in *view*? It is looked for once."""
        if self not in view.notes:
            view.notes[self] = self._regex.search(view.data) is not None or any(w in view.text for w in self.chinese)
        return view.notes[self]

    def around(self, candidate: Candidate) -> bool:
        """Does one of the words stand near *candidate*?"""
        if not self.within(candidate.view):
            return False
        view, start, end = candidate.view, max(0, candidate.start - self.before), candidate.end + self.after
        window = view.data[start : candidate.start] + b" # " + view.data[candidate.end : end]
        if self._regex.search(window) is not None:
            return True
        if not self.chinese or view.text.isascii():
            return False
        text = view.text[start : candidate.start] + "#" + view.text[candidate.end : end]
        return any(word in text for word in self.chinese)


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
        needs: What a text must hold, else the pattern is not tried: a character, or `6` for six digits.
    """

    regex: Regex
    score: Callable[[Candidate], float] = _always
    near: Context | None = None
    against: Context | None = None
    weak: bool = False
    needs: bytes = b""

    def may_match(self, view: View) -> bool:
        """A quick look: is what every match needs there at all?"""
        if not (view.has_number if self.needs == b"6" else self.needs in view.data):
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

"""Evidence: what the words around a match say about it, scope by scope.

The nearest scope with a word decides, and in one scope a word for a find beats a word against it, unless it is loose:

1. the value's own clause, pair or cell, with the key or the header that names it: words for, then words against;
2. what names it less directly: the key around its pair, the first cell of its row;
3. the characters around, across clauses: words for;
4. the end of what was said before, a question: words for.

Words against therefore never reach beyond the value's own clause, key or cell.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from hybrid_llm.core.lazy import cached_property
from hybrid_llm.core.looks import looked
from hybrid_llm.router.privacy.detectors.layout.markup import markup
from hybrid_llm.router.privacy.detectors.layout.names import joined_names
from hybrid_llm.router.privacy.detectors.layout.pairs import Cell, Label, pairs
from hybrid_llm.router.privacy.detectors.layout.tables import tables
from hybrid_llm.router.privacy.detectors.text import Regex, View, fold

DIRECT: Final = 0.4
"""What a word adds, or takes, that names the value: in its key or header, or with only words in between."""
NEAR: Final = 0.3
"""What a word adds, or takes, that is only near."""
LOOSE: Final = 0.2
"""What a word near adds, or takes, that also has other meanings."""
_BEFORE: Final = 60
_AFTER: Final = 24
_CLOSE: Final = 24
"""How far behind a value the word may begin that names it: `E12345678 is my passport`."""
_ANSWER: Final = 240
"""How far from its beginning a text answers the question before it."""
_REPLY: Final = 40
_NO_DIGITS: Final = bytes(byte for byte in range(256) if not 48 <= byte <= 57)
_DIGIT: Final = re.compile(rb"[0-9]")
_END: Final = re.compile(rb"[,;|\t\r\n{}!?\xa3]|[A-Za-z]{4}\. |[0-9)\"']\. |\b(?:and|und|et)\b")
"""Where a clause ends; not after an abbreviation, as in `Passport No. E12345678`."""
_CONTINUES: Final = re.compile(rb", (?:number|num|no|nr|#)")
_AROUND: Final = b" \t\"'*`"
_NESTED: Final = 8
"""How many cells that begin before a value are looked at for those around it."""
_REACH: Final = 96
"""How far before a word a value may begin that it is about: its length, and `_AFTER`."""
_SPACE: Final = re.compile(rb"(\[[^\]]*\])| ")
_ABOVE: Final = re.compile(
    rb"(?:[ A-Za-z\x80-\xa1#.:?\"'*_)]{0,24}|[^\n?]{0,60}\? ?)\r?\n(?:\r?\n)?[ \t>*`-]{0,8}"
    rb"((?:[\[(]?[0-9][0-9:., T/Z+-]{3,24}[\])]?[ \t-]{0,3})?[A-Za-z\x80-\xa1][\w .@()\x80-\xa1-]{0,24}[:>][ \t]{1,3})?"
    rb"(?:[A-Za-z',]{1,6}[ \t]{1,2}){0,3}[\"'`*\[]{0,2}[ ]?"
)
_LINE_END: Final = re.compile(rb"[ \t.*`\"'\]]{0,4}(?:\r?\n|$)")
_ASSIGNS: Final = re.compile(rb"[\"'\]]{0,2}\s?(?:[:=]{1,2}|=>|is)?\s{0,2}[\"'(\[<]{0,2}")
"""What stands between a name and its value."""


class Layout(NamedTuple):
    """The cells of a view, by start, the longer first."""

    cells: Sequence[Cell]
    starts: Sequence[int]

    def around(self, start: int, end: int) -> list[Cell]:
        """The cells around the characters *start* to *end*, the innermost first."""
        behind = bisect_right(self.starts, start)
        before = self.cells[max(0, behind - _NESTED) : behind]
        return [cell for cell in reversed(before) if end <= cell.end]


def layout(view: View) -> Layout:
    """The cells of *view*, found once."""
    if layout not in view.notes:
        found = [cell for search in (pairs, tables, markup) for cell in looked(search(view.data))]
        found.sort(key=lambda cell: (cell.start, -cell.end))
        view.notes[layout] = Layout(found, [cell.start for cell in found])
    noted: Layout = view.notes[layout]
    return noted


def _joinable(words: bytes) -> bytes:
    """The words of a phrase may be joined in a name: `social insurance` also means `social_insurance`."""
    return _SPACE.sub(lambda match: match[1] or rb"[ _-]", words)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """*spans* in order, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


class Candidate(NamedTuple):
    """What a pattern matched: the characters *start* to *end* (exclusive) of *view*."""

    view: View
    start: int
    end: int

    @property
    def value(self) -> str:
        """The folded text: the digits of every script as ASCII."""
        return self.view.data[self.start : self.end].decode("latin-1")

    @property
    def digits(self) -> str:
        """Only the digits of the value."""
        return self.view.data[self.start : self.end].translate(None, _NO_DIGITS).decode("ascii")


class Word(NamedTuple):
    """Where a word stands; a *loose* one also has other meanings."""

    start: int
    end: int
    loose: bool
    in_name: bool = False
    """Whether it is part of a name as `phoneNumber`, which says something about its own value only."""


class Family:
    """Contexts whose words one expression looks for together."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []

    @cached_property
    def _all(self) -> Context:
        words = b"|".join(words for context in self.contexts for words in (context.words, context.loose) if words)
        return Context(words, tuple(word for context in self.contexts for word in context.chinese))

    def within(self, view: View) -> bool:
        """Whether *view* may hold a word of any of them."""
        return self._all.within(view)


@dataclass(frozen=True, eq=False)
class Context:
    """Words about a kind of value.

    Attributes:
        words: An RE2 pattern without groups, case-insensitive.
        chinese: Words that match literally.
        loose: Words that also have other meanings: they count when near, but do not name a value.
        told: Whether a loose word tells of the value: then it counts as another word does.
        family: Contexts that are searched for together first, since most texts hold none of their words.
    """

    words: bytes
    chinese: tuple[str, ...] = ()
    loose: bytes = b""
    told: Callable[[Candidate], bool] | None = None
    family: Family | None = None

    def __post_init__(self) -> None:
        if self.family is not None:
            self.family.contexts.append(self)

    @cached_property
    def _regex(self) -> Regex:
        loose = rb"|(?P<loose>" + self.loose + rb")" if self.loose else b""
        return Regex(rb"(?i:\b|_)(?i:(?P<word>" + _joinable(self.words) + rb")" + loose + rb")(?:\b|[^a-z]|$)")

    def within(self, view: View) -> bool:
        """Whether one of the words occurs in *view*, in a name in it such as `phoneNumber`, or before it."""
        if self.family is not None and not self.family.within(view):
            return False
        key = (self, "within")
        if key not in view.notes:
            view.notes[key] = bool(self.words_in(view)) or bool(self._before(view))
        return bool(view.notes[key])

    def regions(self, view: View) -> Sequence[tuple[int, int]]:
        """The parts of *view* that are in reach of one of the words, in order and apart."""
        key = (self, "regions")
        if key not in view.notes:
            spans = [(word.start - _REACH, word.end + _BEFORE) for word in self.words_in(view)]
            spans += [
                (cell.start - 1, cell.end)
                for cell in looked(layout(view).cells)
                if self.names(view, cell.label + cell.wider)
            ]
            if self._before(view):
                spans.append((0, _ANSWER))
            view.notes[key] = _merged([(max(0, start), end) for start, end in spans])
        found: Sequence[tuple[int, int]] = view.notes[key]
        return found

    def words_in(self, view: View) -> Sequence[Word]:
        """The words in *view*, in its joined names as well, searched for once."""
        if self not in view.notes:
            view.notes[self] = self._with_names(view, self._search(view))
        found: Sequence[Word] = view.notes[self]
        return found

    def names(self, view: View, label: Label) -> bool:
        """Whether one of the words is part of *label*."""
        words = self._firm(view)
        for start, end in label:
            at = bisect_left(words, (start,))
            if at < len(words) and words[at].end <= end:
                return True
        return False

    def _firm(self, view: View) -> Sequence[Word]:
        """The words in *view* that are not loose."""
        if not self.loose:
            return self.words_in(view)
        key = (self, "firm")
        if key not in view.notes:
            view.notes[key] = [word for word in self.words_in(view) if not word.loose]
        found: Sequence[Word] = view.notes[key]
        return found

    def _with_names(self, view: View, words: list[Word]) -> list[Word]:
        """*words* and the joined names with one, in order; a name with one of *words* says nothing more."""
        names = joined_names(view)
        starts = [word.start for word in words]
        more: dict[tuple[int, int], None] = {}
        for word in self._search(names.apart) if names.spans else ():
            start, end = span = names.spans[bisect_right(names.begins, word.start) - 1]
            at = bisect_left(starts, start)
            if not word.loose and not (at < len(words) and words[at].start < end):
                more[span] = None
        return (
            sorted([*words, *(Word(start, end, loose=False, in_name=True) for start, end in more)]) if more else words
        )

    def beside(self, candidate: Candidate, low: int, high: int) -> float:
        """How much a word between *low* and *high* says about *candidate*: `DIRECT`, `NEAR`, `LOOSE` or 0."""
        best = 0.0
        for word in self._between(candidate, low, high):
            best = max(best, self._of_loose(candidate) if word.loose else DIRECT if _names(word, candidate) else NEAR)
        return best

    def _of_loose(self, candidate: Candidate) -> float:
        return NEAR if self.told is not None and self.told(candidate) else LOOSE

    def around(self, candidate: Candidate) -> float:
        """How much a word near *candidate*, across clauses, says about it."""
        best = 0.0
        for word in self._between(candidate, candidate.start - _BEFORE, candidate.end + _AFTER):
            best = max(best, self._of_loose(candidate) if word.loose else DIRECT if _asks(word, candidate) else NEAR)
        return best

    def asked(self, candidate: Candidate) -> float:
        """How much the question before the text says about *candidate*, which may be the answer."""
        if candidate.start >= _ANSWER or not self._before(candidate.view):
            return 0.0
        return DIRECT if candidate.start <= _REPLY else NEAR

    def _between(self, candidate: Candidate, low: int, high: int) -> Iterator[Word]:
        words = self.words_in(candidate.view)
        for index in range(bisect_left(words, (low,)), len(words)):
            word = words[index]
            if word.start >= high:
                return
            if not candidate.start < word.start < candidate.end and not (word.in_name and _is_apart(word, candidate)):
                yield word

    def _search(self, view: View) -> list[Word]:
        words = [Word(start, end, index == "loose") for start, end, index in self._regex.finditer(view.data)]
        if self.chinese and not view.text.isascii():
            found = ((start, start + len(word)) for word in self.chinese for start in view.find(word))
            words = sorted([*words, *(Word(start, end, loose=False) for start, end in found)])
        return words

    def _before(self, view: View) -> Sequence[Word]:
        if not view.before:
            return ()
        key = (self, "before")
        if key not in view.notes:
            view.notes[key] = self._search(View(view.before, fold(view.before)))
        found: Sequence[Word] = view.notes[key]
        return found


def evidence(candidate: Candidate, near: Context | None, against: Context | None) -> float:
    """What the words around *candidate* add to its score or take from it; 0 where none says anything."""
    around = layout(candidate.view).around(candidate.start, candidate.end)
    found = _in_scope(candidate, near, around)
    if found > LOOSE:
        return found
    opposed = _in_scope(candidate, against, around)
    if opposed:
        return -opposed
    return max(found, _beyond(candidate, near, around)) if near is not None else 0.0


def labelled_values(view: View, words: Context) -> Iterator[tuple[int, int]]:
    """Yield the span of each value in *view* that one of *words* names: the value of a pair, the field of a table.

    The spans have no space, quote or emphasis around the value. They are ordered by start and may be nested.
    """
    last = None
    for cell in looked(layout(view).cells):
        if cell[:2] != last and words.names(view, cell.label):
            last = cell[:2]
            start, end = last
            while start < end and view.data[end - 1] in _AROUND:
                end -= 1
            while start < end and view.data[start] in _AROUND:
                start += 1
            if start < end:
                yield start, end


def _in_scope(candidate: Candidate, context: Context | None, around: Sequence[Cell]) -> float:
    """What the words in the candidate's own clause and in its own label say."""
    if context is None or not context.within(candidate.view):
        return 0.0
    found = context.beside(candidate, *_clause(candidate, around))
    return found or (DIRECT if around and context.names(candidate.view, around[0].label) else 0.0)


def _beyond(candidate: Candidate, near: Context, around: Sequence[Cell]) -> float:
    """What the words for it say that are not in its own scope."""
    if not near.within(candidate.view):
        return 0.0
    wider = [cell.wider for cell in around[:1]] + [cell.label for cell in around[1:]]
    if any(near.names(candidate.view, label) for label in wider):
        return DIRECT
    return near.around(candidate) or near.asked(candidate)


def _clause(candidate: Candidate, around: Sequence[Cell]) -> tuple[int, int]:
    """Where the candidate's clause begins and ends, within its cell and the reach of words."""
    data, (_, start, end) = candidate.view.data, candidate
    low, high = max(0, start - _BEFORE), end + _AFTER
    if around:
        low, high = max(low, around[0].start), min(high, around[0].end)
    for match in _END.finditer(data, low, start):
        if not _CONTINUES.match(data, match.start(), start):
            low = match.end()
    if data.startswith(b". ", end):
        return low, end
    behind = _END.search(data, end, high)
    return low, high if behind is None else behind.start()


def _is_apart(word: Word, candidate: Candidate) -> bool:
    """Whether anything but a sign stands between a name and the candidate."""
    return _ASSIGNS.fullmatch(candidate.view.data, word.end, max(word.end, candidate.start)) is None


def _names(word: Word, candidate: Candidate) -> bool:
    """Whether there are only words between *word* and the candidate, so that it names it."""
    if word.start <= candidate.start < word.end:
        return True  # as in MRN-00482913
    if word.end <= candidate.start:
        return _DIGIT.search(candidate.view.data, word.end, candidate.start) is None
    return 0 <= word.start - candidate.end <= _CLOSE


def _asks(word: Word, candidate: Candidate) -> bool:
    """Whether *word* is part of a question that the candidate answers: `What is your passport number? E12345678`."""
    data = candidate.view.data
    link = _ABOVE.fullmatch(data, word.end, candidate.start)
    asked = data.rfind(b"?", word.end, candidate.start)
    if link is not None:
        return bool(link[1]) or _LINE_END.match(data, candidate.end) is not None
    return asked >= 0 and _DIGIT.search(data, word.end, candidate.start) is None

"""The private values of one session, and where they occur in a text, in whatever spelling.

A value is matched in two forms:

- exactly, anywhere, also as it stands in a JSON string;
- in normal form (see `normal`): another case, other separators between its characters, full-width, escaped, encoded.
  A short value must be a word of its own there, so that a PIN is not found within every longer number.

A telephone number is also known without its country code, trunk zero and extension, a date of birth in every notation.
A base64 or hexadecimal run counts whole if it holds a value. Time is linear in the text and its matches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from hybrid_llm.router.privacy.beginnings import Beginnings
from hybrid_llm.router.privacy.dates import Date, dates, equivalents
from hybrid_llm.router.privacy.detectors import Prepared
from hybrid_llm.router.privacy.detectors.text import decoded
from hybrid_llm.router.privacy.normal import Normal, normal_form
from hybrid_llm.router.privacy.patterns import Patterns
from hybrid_llm.router.privacy.spans import Span
from hybrid_llm.router.privacy.spelling import is_close, is_edge, national, opens_number

FREE: Final = 10
"""A normal form of so many characters is found within a longer word too."""
_PROPER: Final = 8
"""A word of letters only, such as the name `May`, is found in lower case if it has so many letters."""
_BATCH: Final = 4096
"""Matches between two looks at the deadline."""

_DATED: Final = re.compile("birth|date|dob", re.IGNORECASE)
_DIALLED: Final = re.compile("phone|fax|mobile|cell|^tel", re.IGNORECASE)
_NUMBER: Final = 6
"""Digits that a telephone number has at least, without its country code."""


class _Form(NamedTuple):
    """A value in normal form."""

    kind: str
    is_name: bool = False
    """A short word of letters only, which in lower case is another word."""
    is_dialled: bool = False
    """A telephone number, which digits for the country and the trunk may precede."""


class KnownValues:
    """Every value that was ever found in one session. Not thread-safe."""

    __slots__ = ("_dates", "_escaped", "_exact", "_is_dialled", "_normal")

    def __init__(self) -> None:
        self._exact: Patterns[str] = Patterns()
        self._escaped: set[str] = set()
        self._normal: Patterns[_Form] = Patterns()
        self._dates: dict[Date, str] = {}
        self._is_dialled = False

    def __len__(self) -> int:
        return len(self._exact)

    def is_escaped(self, value: str) -> bool:
        """Whether *value* is known only as it stands in a JSON string."""
        return value in self._escaped

    def learn(self, value: str, kind: str) -> None:
        """Store a value, its JSON-escaped forms, in which tools and models return it, and its normal form."""
        if value in self._exact:
            self._escaped.discard(value)
            return
        self._exact.add(value, kind)
        self._learn_escaped(value, kind)
        self._learn_normal(value, kind)
        if _DATED.search(kind):
            found = [date for _, _, read in dates(decoded(value)) for date in read]
            self._dates.update(dict.fromkeys((each for date in found for each in equivalents(date)), kind))

    def _learn_escaped(self, value: str, kind: str) -> None:
        for escaped in json_forms(value):
            if escaped not in self._exact:
                self._exact.add(escaped, kind)
                self._escaped.add(escaped)

    def _learn_normal(self, value: str, kind: str) -> None:
        form = normal_form(value)
        if len(form) >= (3 if form.isascii() else 2):
            is_name = kind != "credential" and len(form) < _PROPER and value.isalpha()
            self._add_form(form, _Form(kind, is_name))
        if _DIALLED.search(kind):
            digits = national(decoded(value).data.decode("latin-1"))
            if len(digits) >= _NUMBER:
                self._add_form(digits, _Form(kind, is_dialled=True))

    def _add_form(self, form: str, about: _Form) -> None:
        """Two values may have one form, which then is found wherever either would be."""
        if form in self._normal:
            known = self._normal[form]
            about = _Form(known.kind, known.is_name and about.is_name, known.is_dialled or about.is_dialled)
        self._normal.add(form, about)
        self._is_dialled = self._is_dialled or about.is_dialled

    def occurrences(self, prepared: Prepared, check: Callable[[], None] = lambda: None) -> Iterator[Span]:
        """Yield where known values occur in *prepared*; they may overlap, in any order.

        Args:
            prepared: The text with its encodings undone.
            check: Called from time to time; what it raises ends the work.
        """
        if not len(self):
            return
        for number, span in enumerate(self._all(prepared)):
            if number % _BATCH == 0:
                check()
            yield span
        for start, end, inner in prepared.inner:
            check()
            found = next(self.occurrences(inner, check), None)
            if found is not None:
                yield Span(start, end, found.kind)

    def _all(self, prepared: Prepared) -> Iterator[Span]:
        yield from map(Span._make, self._exact.matches(prepared.text))
        view = prepared.view
        if len(self._normal):
            normal = Normal(view)
            for start, end, kind in self._spelled(normal):
                yield Span(*view.origin(start, end), kind)
        if self._dates and view.has_digit:
            for start, end, read in dates(view):
                known = next((date for date in read if date in self._dates), None)
                if known is not None:
                    yield Span(*view.origin(start, end), self._dates[known])

    def _spelled(self, normal: Normal) -> Iterator[Span]:
        """The occurrences in normal form, as spans of the view."""
        for first, end, form in self._normal.matches(normal.text):
            start, stop = int(normal.places[first]), int(normal.places[end - 1]) + 1
            if stop - start == end - first or is_close(normal.view.text, start, stop, end - first):
                found = _whole(normal.view.text, start, stop, end - first, form)
                if found is not None:
                    yield found

    def begins(self, text: str) -> bool:
        """Whether *text* ends with something that could begin a known value in any spelling.

        A stream that breaks off within a value ends so. A single character counts only at the beginning of a word.
        """
        return bool(len(self)) and Beginnings(self._exact, self._normal, self._dates.keys(), self._is_dialled).end(text)

    def clear(self) -> None:
        """Forget everything."""
        self._exact.clear()
        self._normal.clear()
        self._escaped.clear()
        self._dates.clear()


def _whole(text: str, start: int, stop: int, length: int, form: _Form) -> Span | None:
    """The span of an occurrence, with the country code of a telephone number; None if it is part of something else."""
    if form.is_name and text[start:stop].islower():
        return None
    if form.is_dialled:
        start = opens_number(text, start)
    if length < FREE and not (is_edge(text, start, length) and is_edge(text, stop, length)):
        return None
    return Span(start, stop, form.kind)


def json_forms(value: str) -> tuple[str, ...]:
    """*value* as it stands in a JSON string, with Unicode characters and without; empty if it stands there as it is."""
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return ()
    return json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]

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
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from hybrid_llm.core.looks import look, looked
from hybrid_llm.router.privacy.detectors import Prepared
from hybrid_llm.router.privacy.detectors.text import View, decoded
from hybrid_llm.router.privacy.pseudonyms.beginnings import Beginnings
from hybrid_llm.router.privacy.pseudonyms.dates import Date, dates, equivalents
from hybrid_llm.router.privacy.pseudonyms.patterns import Patterns
from hybrid_llm.router.privacy.pseudonyms.spans import Span
from hybrid_llm.router.privacy.pseudonyms.spelling import (
    SPACED,
    WIDEST,
    Normal,
    is_edge,
    is_encoded,
    national,
    normal_form,
    opens_number,
)

FREE: Final = 10
"""A normal form of so many characters is found within a longer word too."""
_PROPER: Final = 8
"""A word of letters only, such as the name `May`, is found in lower case if it has so many letters."""
_BATCH: Final = 4096
"""Matches between two looks at the deadline."""

_DATED: Final = re.compile("birth|date|dob", re.IGNORECASE)
_DIALLED: Final = re.compile("phone|fax|mobile|cell|^tel", re.IGNORECASE)
_LABELLED: Final = re.compile(r"[A-Za-z]{2,6}[ .:/#-]{1,3}(?=[A-Za-z]{0,3}[0-9])")
"""Letters before a number, such as those of `MRN: 4711-22-93`, that may be its name."""
_NUMBER: Final = 6
"""Digits that a telephone number has at least, without its country code."""


class _Form(NamedTuple):
    """What is known of a value in normal form."""

    kind: str
    is_name: bool = False
    """A short word of letters only, which in lower case is another word."""
    is_dialled: bool = False
    """A telephone number, which digits for the country and the trunk may precede."""


_form = lru_cache(maxsize=256)(_Form)


@lru_cache(maxsize=256)
def _traits(kind: str) -> tuple[bool, bool]:
    """Whether values of a *kind* are dates, and whether they are telephone numbers."""
    return _DATED.search(kind) is not None, _DIALLED.search(kind) is not None


class KnownValues:
    """Every value that was ever found in one session. Not thread-safe."""

    __slots__ = ("_dates", "_escaped", "_exact", "_implied", "_is_dialled", "_normal")

    def __init__(self) -> None:
        self._exact: Patterns[str] = Patterns()
        self._implied: Patterns[str] = Patterns()  # whatever holds one of them, undecoded, holds its normal form
        self._escaped: set[str] = set()
        self._normal: Patterns[_Form] = Patterns()
        self._dates: dict[Date, str] = {}
        self._is_dialled = False

    def __len__(self) -> int:
        return len(self._exact) + len(self._implied)

    def is_escaped(self, value: str) -> bool:
        """Whether *value* is known only as it stands in a JSON string."""
        return value in self._escaped

    def learn(self, value: str, kind: str) -> None:
        """Store a value, its JSON-escaped forms, in which tools and models return it, and its normal form."""
        if value in self._implied or value in self._exact:
            self._escaped.discard(value)
            return
        form = normal_form(value)
        (self._implied if _is_implied(value, form) else self._exact).add(value, kind)
        self._learn_escaped(value, kind)
        self._learn_normal(value, kind, form)

    def _learn_escaped(self, value: str, kind: str) -> None:
        for escaped in json_forms(value):
            if escaped not in self._exact:
                self._exact.add(escaped, kind)
                self._escaped.add(escaped)

    def _learn_normal(self, value: str, kind: str, form: str) -> None:
        is_date, is_dialled = _traits(kind)
        if len(form) >= (3 if form.isascii() else 2):
            is_name = len(form) < _PROPER and kind != "credential" and value.isalpha()
            self._add_form(form, _form(kind, is_name))
        for part in _parts(value, form):
            self._add_form(part, _form(kind))
        if is_dialled and len(digits := national(value)) >= _NUMBER:
            self._is_dialled = True
            self._add_form(digits, _form(kind, is_dialled=True))
        if is_date:
            found = [date for _, _, read in dates(decoded(value)) for date in read]
            self._dates.update(dict.fromkeys((each for date in found for each in equivalents(date)), kind))

    def _add_form(self, form: str, about: _Form) -> None:
        """Two values may have one form, which then is found wherever either would be."""
        known = self._normal.get(form)
        if known is not None:
            about = _form(known.kind, known.is_name and about.is_name, known.is_dialled or about.is_dialled)
        self._normal.add(form, about)

    def occurrences(self, prepared: Prepared) -> Iterator[Span]:
        """Yield where known values occur in *prepared*; they may overlap, in any order."""
        if not len(self):
            return
        look()
        yield from looked(self._all(prepared), _BATCH)
        for start, end, inner in prepared.inner:
            found = next(self.occurrences(inner), None)
            if found is not None:
                yield start, end, found[2]

    def _all(self, prepared: Prepared) -> Iterator[Span]:
        view = prepared.view
        yield from self._exact.matches(prepared.text)
        if view.source is None:
            yield from self._spelled(Normal(view))
        else:
            yield from self._implied.matches(prepared.text)
            for start, end, kind in self._spelled(Normal(view)):
                yield *view.origin(start, end), kind
        if self._dates and view.has_digit:
            for start, end, kind in self._dated(view):
                yield *view.origin(start, end), kind

    def _dated(self, view: View) -> Iterator[Span]:
        for start, end, read in dates(view):
            known = next((date for date in read if date in self._dates), None)
            if known is not None:
                yield start, end, self._dates[known]

    def _spelled(self, normal: Normal) -> Iterator[Span]:
        """The occurrences in normal form, as spans of the view."""
        for first, end, form in self._normal.matches(normal.text):
            start, stop = normal.place(first), normal.place(end - 1) + 1
            if stop - start == end - first or (end - first >= SPACED and normal.is_close(first, end)):
                found = _whole(normal.view.text, start, stop, end - first, form)
                if found is not None:
                    yield found

    def begins(self, text: str) -> bool:
        """Whether *text* ends with something that could begin a known value in any spelling.

        A stream that breaks off within a value ends so. A single character counts only at the beginning of a word.
        """
        return bool(len(self)) and self._beginnings().end(text)

    def _beginnings(self) -> Beginnings:
        return Beginnings((self._exact, self._implied), self._normal, self._dates.keys(), self._is_dialled)

    def clear(self) -> None:
        """Forget everything."""
        self._exact.clear()
        self._implied.clear()
        self._normal.clear()
        self._escaped.clear()
        self._dates.clear()


def _parts(value: str, form: str) -> Iterator[str]:
    """What *value* may be reduced to: an address without its sign, a number without its label."""
    if "@" in form and len(form) > FREE:
        yield form.replace("@", "")
    labelled = _LABELLED.match(value)
    if labelled and len(rest := normal_form(value[labelled.end() :])) >= SPACED:
        yield rest


def _is_implied(value: str, form: str) -> bool:
    """Whether a text without codes that holds *value* holds the normal *form* too, at the same place and acceptable."""
    if len(form) < FREE or len(value) - len(form) > WIDEST or not (value[0].isalnum() and value[-1].isalnum()):
        return False
    return not is_encoded(value)


def _whole(text: str, start: int, stop: int, length: int, form: _Form) -> Span | None:
    """The span of an occurrence, with the country code of a telephone number; None if it is part of something else."""
    if form.is_name and text[start:stop].islower():
        return None
    if form.is_dialled:
        start = opens_number(text, start)
    if length < FREE and not (is_edge(text, start, length) and is_edge(text, stop, length)):
        return None
    return start, stop, form.kind


def json_forms(value: str) -> tuple[str, ...]:
    """*value* as it stands in a JSON string, with Unicode characters and without; empty if it stands there as it is."""
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return ()
    return json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]

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
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from hybrid_llm.core.looks import look, looked
from hybrid_llm.router.privacy.detectors import Prepared
from hybrid_llm.router.privacy.detectors.text import View, decoded
from hybrid_llm.router.privacy.pseudonyms.beginnings import Beginnings
from hybrid_llm.router.privacy.pseudonyms.dates import Date, dates, equivalents
from hybrid_llm.router.privacy.pseudonyms.kinds import is_naming
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
    normal_forms,
    opens_number,
)

FREE: Final = 10
"""A normal form of so many characters is found within a longer word too."""
_PROPER: Final = 8
"""A word of letters only, such as the name `May`, is found in lower case if it has so many letters."""
_BATCH: Final = 4096
"""Matches between two looks at the deadline."""
_LEARNED: Final = 1024
"""New values between two looks."""

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

    def learn(self, values: Mapping[str, str]) -> None:
        """Store *values*, each with its kind, in all forms.

        That is as it is, escaped for JSON, in which tools and models return it, and in normal form.
        """
        new: dict[str, list[str]] = {}
        for value, kind in values.items():
            if not self._has(value, kind):
                new.setdefault(kind, []).append(value)
        for kind, some in new.items():
            for at in range(0, len(some), _LEARNED):
                look()
                self._learn(some[at : at + _LEARNED], kind)
        self._escaped.difference_update(values)

    def _has(self, value: str, kind: str) -> bool:
        """Whether *value* is known, and not as a name only while it is of another *kind*."""
        known = self._exact if value in self._exact else self._implied
        return value in known and (is_naming(kind) or not is_naming(known[value]))

    def _learn(self, values: list[str], kind: str) -> None:
        """Store new *values* of one *kind*; they count as known once all of their forms are stored."""
        is_date, is_dialled = _traits(kind)
        formed = list(zip(values, normal_forms(values), strict=True))
        self._learn_normal(formed, _form(kind, False, is_dialled))
        if is_dialled:
            self._learn_numbers(values, _form(kind, False, True))
        if is_date:
            found = [date for value in values for _, _, read in dates(decoded(value)) for date in read]
            self._dates.update(dict.fromkeys((each for date in found for each in equivalents(date)), kind))
        if json_forms("".join(values)):
            self._learn_escaped(values, kind)
        exact = [value for value, form in formed if not _is_implied(value, form, is_dialled=is_dialled)]
        for patterns, some in ((self._exact, exact), (self._implied, set(values).difference(exact))):
            for value in patterns.add_all(some, kind):
                patterns[value] = kind

    def _learn_escaped(self, values: list[str], kind: str) -> None:
        escaped = {form for value in values for form in json_forms(value)}
        self._escaped |= escaped - self._exact.add_all(escaped, kind)

    def _learn_normal(self, formed: list[tuple[str, str]], about: _Form) -> None:
        """Store the normal forms of values; a short word of letters only is a name."""
        names, others = [], [part for value, form in formed for part in _parts(value, form)]
        for value, form in formed:
            if len(form) < _PROPER and about.kind != "credential" and value.isalpha():
                names.append(form)
            else:
                others.append(form)
        self._add_forms([form for form in names if _is_long(form)], about._replace(is_name=True))
        self._add_forms([form for form in others if _is_long(form)], about)

    def _learn_numbers(self, values: list[str], about: _Form) -> None:
        numbers = [digits for digits in map(national, values) if len(digits) >= _NUMBER]
        self._is_dialled = self._is_dialled or bool(numbers)
        self._add_forms(numbers, about)

    def _add_forms(self, forms: list[str], about: _Form) -> None:
        """Two values may have one form, which then is found wherever either would be."""
        for form in self._normal.add_all(forms, about):
            known = self._normal[form]
            is_name, is_dialled = known.is_name and about.is_name, known.is_dialled or about.is_dialled
            kind = about.kind if is_naming(known.kind) else known.kind
            self._normal[form] = _Form(kind, is_name, is_dialled)

    def occurrences(self, prepared: Prepared, found: Sequence[Span] = ()) -> Iterator[Span]:
        """Yield where known values occur in *prepared*; they may overlap, in any order.

        Those that lie within one of the spans *found*, which are in order and do not overlap, may be left out.
        """
        if not len(self):
            return
        look()
        yield from looked(self._all(prepared, found), _BATCH)
        for start, end, inner in prepared.inner:
            held = next(self.occurrences(inner), None)
            if held is not None:
                yield start, end, held[2]

    def _all(self, prepared: Prepared, found: Sequence[Span]) -> Iterator[Span]:
        view = prepared.view
        yield from self._exact.matches(prepared.text)
        if view.source is None:
            yield from self._spelled(Normal(view), found)
        else:
            yield from self._implied.matches(prepared.text)
            for start, end, kind in self._spelled(Normal(view)):
                yield *view.origin(start, end), kind
        if self._dates and view.digits:
            for start, end, kind in self._dated(view):
                yield *view.origin(start, end), kind

    def _dated(self, view: View) -> Iterator[Span]:
        for start, end, read in dates(view):
            known = next((date for date in read if date in self._dates), None)
            if known is not None:
                yield start, end, self._dates[known]

    def _spelled(self, normal: Normal, found: Sequence[Span] = ()) -> Iterator[Span]:
        """The occurrences in normal form, as spans of the view, but for those within a span *found*."""
        text, places = normal.view.text, normal.places
        starts = [start for start, _, _ in found]
        for first, end, form in self._normal.matches(normal.text):
            start, stop = places[first], places[end - 1] + 1
            is_tight = stop - start == end - first
            if form.is_dialled:
                start = opens_number(text, start)
            before = bisect_right(starts, start)
            if before and found[before - 1][1] >= stop:
                continue
            is_close = is_tight or (end - first >= SPACED and normal.is_close(first, end))
            if is_close and _is_whole(text, start, stop, end - first, form):
                yield start, stop, form.kind

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


def _is_long(form: str) -> bool:
    """Whether a normal form is long enough to be searched for."""
    return len(form) >= (3 if form.isascii() else 2)


def _is_implied(value: str, form: str, *, is_dialled: bool) -> bool:
    """Whether a text without codes that holds *value* holds the normal *form* too, at the same place and acceptable."""
    if len(form) < FREE or len(value) - len(form) > WIDEST or not value[-1].isalnum() or is_encoded(value):
        return False
    return value[0].isalnum() or (is_dialled and value[1].isalnum() and opens_number(value, 1) == 0)


def _is_whole(text: str, start: int, stop: int, length: int, form: _Form) -> bool:
    """Whether an occurrence, with the country code of a telephone number, is not a part of something else."""
    if form.is_name and text[start:stop].islower():
        return False
    return length >= FREE or (is_edge(text, start, length) and is_edge(text, stop, length))


def json_forms(value: str) -> tuple[str, ...]:
    """*value* as it stands in a JSON string, with Unicode characters and without; empty if it stands there as it is."""
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return ()
    return json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]

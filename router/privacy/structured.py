r"""Edits texts that are JSON token by token, so that they stay the same JSON (RFC 8259) with pseudonyms in it.

A text that is JSON has an *open form*: its strings without escapes, everything else as it is. Values are replaced
there, so `jos\u00e9@x.org` gets the pseudonym of `josé@x.org`; each pseudonym is then written into the text itself,
where order, white space, numbers and all other escapes keep their spelling. Names of properties are strings like
others, and JSON inside a string is edited as JSON too.

A number becomes a string. In a schema, and in an answer that follows one, that would not be valid: such a request stays
on the device. The schema's own words are no private values: keywords, types, formats, and bounds such as `maximum`.

No number, `true`, `false` or `null` of JSON is the name of a person or a place, whatever a model says: only a
finding of another kind, such as `phone`, makes a number a string. That holds for JSON in other text too, whose marks
and escapes a name does not cut; what else is found there is replaced as in any text.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.lazy import cached_property
from hybrid_llm.core.protocols import Finding
from hybrid_llm.core.request import TextForm
from hybrid_llm.router.privacy.json_tokens import Token, decode, embedded, read_tokens
from hybrid_llm.router.privacy.pseudonyms.kinds import is_naming
from hybrid_llm.router.privacy.pseudonyms.spans import Placed, Span
from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable

_DEPTH: Final = 3
"""How many levels of JSON inside strings of JSON are edited as JSON."""
_LITERALS: Final = frozenset({"true", "false", "null"})
_POSTAL: Final = 4
"""A house number has fewer digits; those of a postal code may stand beside letters, as in `IL62704`."""
_NUMBER: Final = "a private number in a schema, a tool or an answer cannot be replaced"
_APART: Final = "a private value and the JSON around it cannot be told apart"


class _Edit(NamedTuple):
    """The characters *start* to *end* become *new*."""

    start: int
    end: int
    new: str
    value: str = ""
    """What *new* is restored to."""


_Slot = tuple[str, Sequence[int], str, bool, bool]
"""A token that can be edited: its *text* without escapes; its *origin*, where in the raw text each of its characters
begins; what stands for a *quote* here, since JSON inside a string escapes it; whether it *is a number*, and *at the
top*, not in JSON inside a string. A plain tuple, as `Token` is.
"""


_Words = list[Sequence[int]]
"""Stretches of a text, in order, each as the places where its characters begin; last, where it ends."""


class _Layout(NamedTuple):
    """The open form, and where each slot begins in it; where it begins and ends in the text."""

    open_form: str
    begins: list[int]
    starts: list[int]
    ends: list[int]


class Structured:
    """One *text* of a request in its *form*."""

    def __init__(self, text: str, form: TextForm) -> None:
        self.text = text
        self._form = form

    @cached_property
    def _tokens(self) -> list[Token] | None:
        return read_tokens(self.text, self._form)

    @cached_property
    def _slots(self) -> list[_Slot]:
        return list(_slots_of(self.text, self._tokens or (), range(len(self.text) + 1), 0))

    @cached_property
    def _layout(self) -> _Layout:
        parts: list[str] = []
        begins: list[int] = []
        done = size = 0
        for text, origin, *_ in self._slots:
            between = self.text[done : origin[0]]
            parts += (between, text)
            begins.append(size + len(between))
            size = begins[-1] + len(text)
            done = origin[-1]
        starts, ends = [slot[1][0] for slot in self._slots], [slot[1][-1] for slot in self._slots]
        return _Layout("".join([*parts, self.text[done:]]), begins, starts, ends)

    @property
    def open_form(self) -> str:
        """The text in which values are replaced: the text itself unless it is JSON."""
        return self.text if self._tokens is None else self._layout.open_form

    def private(self, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """*findings* without those that lie in the schema's own words and bounds."""
        if self._form is not TextForm.SCHEMA or not findings or self._tokens is None:
            return tuple(findings)
        return tuple([finding for finding in findings if not self._is_fixed(finding, self._tokens)])

    def _is_fixed(self, finding: Finding, tokens: Sequence[Token]) -> bool:
        first = bisect_right(tokens, finding.start, key=itemgetter(1))
        last = bisect_left(tokens, finding.end, key=itemgetter(0))
        return first < last and all(fixed for _, _, _, fixed, _ in tokens[first:last])

    def named(self, finding: Finding) -> Iterator[Finding]:
        """What of *finding*, a name, lies in words: in strings of JSON, and around JSON."""
        for start, end in _within(self._words, finding.start, finding.end):
            value, is_whole = self.text[start:end], (start, end) == (finding.start, finding.end)
            if value.strip() not in _LITERALS and (is_whole or any(map(str.isalnum, value))):
                yield Finding(kind=finding.kind, start=start, end=end)

    def kept(self, span: Span) -> Iterator[Span]:
        """What is replaced of *span* of the open form, in which a value stands that is known from elsewhere."""
        start, end, kind = span
        if not is_naming(kind):
            yield span
        elif not _is_in_number(self.open_form, start, end):
            yield from ((*place, kind) for place in _within(self._open_words, start, end))

    @cached_property
    def _words(self) -> _Words:
        """Where names may stand in the text."""
        if self._tokens is None:
            return list(_words_of(self.text, range(len(self.text) + 1), 0))
        slots = [(text, origin) for text, origin, _, is_number, _ in self._slots if not is_number]
        return [words for text, origin in slots for words in _words_of(text, origin, 0)]

    @cached_property
    def _open_words(self) -> _Words:
        """Where names may stand in the open form."""
        if self._tokens is None:
            return self._words
        begins = zip(self._slots, self._layout.begins, strict=True)
        slots = [(text, begin) for (text, _, _, is_number, _), begin in begins if not is_number]
        return [words for text, at in slots for words in _words_of(text, range(at, at + len(text) + 1), 0)]

    def clipped(self, findings: Sequence[Finding]) -> list[Finding]:
        """*findings* in the open form: what each covers of strings, and whole numbers."""
        if self._tokens is None:
            return list(findings)
        return [piece for finding in findings for piece in self._pieces(finding)]

    def _pieces(self, finding: Finding) -> list[Finding]:
        slots, (_, begins, starts, ends) = self._slots, self._layout
        first, last = bisect_right(ends, finding.start), bisect_left(starts, finding.end)
        pieces = []
        for (text, origin, _, is_number, _), begin in zip(slots[first:last], begins[first:last], strict=True):
            start, end = 0, len(text)
            if not is_number:
                start = max(start, bisect_right(origin, finding.start) - 1)
                end = min(end, bisect_left(origin, finding.end))
            if start < end and (last - first == 1 or any(map(str.isalnum, text[start:end]))):
                pieces.append(Finding(kind=finding.kind, start=begin + start, end=begin + end))
        return pieces

    def rewritten(self, written: str, table: PseudonymTable) -> str:
        """The text with the pseudonyms that its open form has in *written*.

        Raises:
            PrivacyViolation: it would not be valid with them, or not restore exactly.
        """
        if self._tokens is None:
            if self._form is TextForm.SCHEMA and written != self.text:
                raise _violation(_APART)
            return written
        if written == self.open_form:
            return self.text
        text, placed = _edited(self.text, self._raw_edits(list(_edits_of(self.open_form, written, table))))
        if [*table.pseudonyms(text)] != placed:
            raise _violation(_APART)
        return text

    def _raw_edits(self, edits: Sequence[_Edit]) -> Iterator[_Edit]:
        """*edits* of the open form as edits of the text; those that touch no slot are none."""
        begins = self._layout.begins
        for index, group in groupby(edits, key=lambda edit: bisect_right(begins, edit.start) - 1):
            slot = self._slots[index] if index >= 0 else None
            begin, end = (begins[index], begins[index] + len(slot[0])) if slot is not None else (0, 0)
            following = begins[index + 1] if index + 1 < len(begins) else len(self.open_form)
            touching = [edit for edit in group if edit.start < end or edit.end > following]
            if any(edit.end > end for edit in touching):
                raise _violation(_APART)
            if slot is not None and touching:
                yield from self._within(
                    slot, [edit._replace(start=edit.start - begin, end=edit.end - begin) for edit in touching]
                )

    def _within(self, slot: _Slot, edits: Sequence[_Edit]) -> Iterator[_Edit]:
        """*edits* of the text of *slot* as edits of the raw text: a number gets quotes around it."""
        _, origin, mark, is_number, at_top = slot
        if is_number and at_top and self._form is not TextForm.CONTENT:
            raise _violation(_NUMBER)
        if not at_top and any(_escaped(edit.value) != edit.value for edit in edits):
            raise _violation(_APART)  # it would be restored as part of the outer string, with one escape too few
        quote = mark if is_number else ""
        yield _Edit(origin[0], origin[0], quote)
        for edit in edits:
            yield _Edit(origin[edit.start], origin[edit.end], edit.new)
        yield _Edit(origin[-1], origin[-1], quote)


def _slots_of(text: str, tokens: Iterable[Token], places: Sequence[int], depth: int) -> Iterator[_Slot]:
    """The slots of the *tokens* of *text*, whose characters begin at *places* of the raw text."""
    quote = _quote(depth)
    for start, end, is_number, fixed, nested in tokens:
        if fixed:
            continue
        value, origin = decode(text, start, end)
        inner = read_tokens(value, TextForm.CONTENT) if nested and depth < _DEPTH else None
        raw = _composed(places, origin)
        if inner is None:
            yield value, raw, quote, is_number, depth == 0
        else:
            yield from _slots_of(value, inner, raw, depth + 1)


def _words_of(text: str, places: Sequence[int], depth: int) -> Iterator[Sequence[int]]:
    """The stretches of *text*, whose characters stand at *places*, around JSON and in its strings."""
    done = 0
    for start, end, tokens in embedded(text) if depth < _DEPTH else ():
        yield places[done : start + 1]
        for begin, stop, is_number, _, _ in tokens:
            if not is_number:
                value, origin = decode(text, begin, stop)
                yield from _words_of(value, _composed(places, origin), depth + 1)
        done = end
    yield places[done:]


def _within(words: _Words, start: int, end: int) -> Iterator[Placed]:
    """What *words* have of the characters *start* to *end*, with whole escapes."""
    first = bisect_right(words, start, key=itemgetter(-1))
    last = bisect_left(words, end, key=itemgetter(0))
    for origin in words[first:last]:
        begin = origin[max(0, bisect_right(origin, start) - 1)]
        stop = origin[min(len(origin) - 1, bisect_left(origin, end))]
        if begin < stop:
            yield begin, stop


def _is_in_number(text: str, start: int, end: int) -> bool:
    """Whether the characters *start* to *end* are digits within a longer number, or few of them within a word."""
    if any(map(str.isalpha, text[start:end])):
        return False
    return any(
        char.isdigit() or (end - start < _POSTAL and char.isascii() and char.isalpha())
        for char in (text[start - 1 : start], text[end : end + 1])
    )


def _composed(places: Sequence[int], origin: Sequence[int]) -> Sequence[int]:
    if isinstance(origin, range):
        return places[origin.start : origin.stop]
    return [places[at] for at in origin]


def _quote(depth: int) -> str:
    """A quote in JSON that *depth* strings of JSON enclose."""
    quote = '"'
    for _ in range(depth):
        quote = _escaped(quote)
    return quote


def _escaped(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]


def _edits_of(source: str, written: str, table: PseudonymTable) -> Iterator[_Edit]:
    """What was replaced in *source* to get *written*."""
    done = shift = 0
    for start, end in table.pseudonyms(written):
        name, at = written[start:end], start - shift
        entry = table.entry(name)
        # A value known only in its escaped form would be restored as if it were escaped.
        if entry is None or entry.escaped != _escaped(entry.value):
            raise _violation(_APART)
        if source[done : at + len(entry.value)] != written[done + shift : start] + entry.value:
            raise _violation(_APART)
        done = at + len(entry.value)
        shift += len(name) - len(entry.value)
        yield _Edit(at, done, name, entry.value)
    if source[done:] != written[done + shift :]:
        raise _violation(_APART)


def _edited(text: str, edits: Iterable[_Edit]) -> tuple[str, list[tuple[int, int]]]:
    """*text* with *edits*, and where their names are in it."""
    parts: list[str] = []
    placed: list[tuple[int, int]] = []
    done = size = 0
    for edit in edits:
        parts += [text[done : edit.start], edit.new]
        size += edit.start - done + len(edit.new)
        done = edit.end
        if edit.start < edit.end:  # else a quote
            placed.append((size - len(edit.new), size))
    return "".join([*parts, text[done:]]), placed


def _violation(why: str) -> PrivacyViolation:
    return PrivacyViolation(why, location="cloud")

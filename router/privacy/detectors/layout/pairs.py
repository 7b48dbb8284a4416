"""Keys and values: JSON and its like, YAML, `.env`, query strings, forms; also rows and columns in JSON.

Every expression is bounded, and brackets are matched in one pass, so the time is linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hybrid_llm.core.looks import bounded, looked
from hybrid_llm.router.privacy.detectors.text import Regex

Label = tuple[tuple[int, int], ...]
"""The spans of the words that name a value, in the same text."""


class Cell(NamedTuple):
    """The characters *start* to *end* (exclusive), and what names them.

    *label* is its own name: a key, a column header. *wider* names it too, less directly: the first cell of its row, a
    string beside its key.
    """

    start: int
    end: int
    label: Label
    wider: Label = ()


_QUOTED: Final = re.compile(
    rb"(?:\"([^\"\n{}]{1,64})\"|'([^'\n{}]{1,64})')\s{0,8}(?::|=>|=)\s{0,8}"
    rb"(?:[\"']?([\[{])|\"([^\"]{0,400})\"|'([^'\n]{0,400})'|([^\s,;{}\[\]\"'&][^\n,;{}\[\]\"'&]{0,80}))"
)
_QUOTE: Final = 0x22
_OPENS: Final = frozenset([b"[", b"{", b",", b":", b" ", b"\n", b"\t"])
_CLOSES: Final = frozenset([b",", b":", b"]", b"}"])
"""What stands before and behind a string of JSON."""
_OPENER: Final = 3
"""The group of a bracket that begins a value."""
_FORM: Final = re.compile(
    rb"(?:\A|[\n\r,;{}&?|(])[ \t>*#+`_~-]{0,8}([A-Za-z\x80-\xa1][A-Za-z0-9_\x80-\xa1 .\-/#'()]{0,47})"
    rb"[*_`\"]{0,3}[ \t]{0,4}(?::=|[:=])[*_`]{0,3}[ \t]{0,4}"
    rb"(?:[|>][+-]?[ \t]{0,4}\r?\n[ \t]{1,24})?[*_`\"']{0,3}([^\s,;&|{}\[\]<>\"'][^\n\r,;&|{}<>]{0,200})"
)
_LONGEST: Final = 800
"""More characters than a pair has at most."""
_BRACKET: Final = re.compile(rb"\"[^\"\n\[\]{}]{0,200}[\[\]{}][^\"\n]{0,400}\"|[\[\]{}]")
"""A bracket, or a string with one."""
_ELEMENT: Final = re.compile(rb"\"([^\"]*)\"|'([^']*)'|([^,\s\"'][^,\n]*)")
_NAMING: Final = re.compile(
    rb"(?:key|name|label|field|path|type|kind|system|title|question|attribute|property|param(?:eter)?|header|column|code|id"
    rb"|display(?:_?name)?|description|category|prompt|q|k)(?:_?name)?",
    re.IGNORECASE,
)
"""Keys whose value names the value beside it: `{"key": "ssn", "value": "..."}`."""
_NAMED: Final = re.compile(
    rb"(?:current_?|default_?|raw_?|string_?|initial_?)?(?:value|val|v|content|data|text|answer|a|response|default|example|input)s?"
    rb"(?:_?(?:string|text))?",
    re.IGNORECASE,
)
"""Keys that say nothing about their value."""
_NEXT_LINE: Final = 80
"""How far behind a name its value may begin: `- name: SSN`, and on the next line `value: "123456789"`."""
_COLUMNS: Final = re.compile(rb"columns?|headers?|fields?|cols?|schema|names", re.IGNORECASE)
_CALL: Final = re.compile(
    rb"\([ ]?(?:\"([^\"\n]{1,64})\"|'([^'\n]{1,64})')\s{0,3},\s{0,3}(?:\"([^\"\n]{1,200})\"|'([^'\n]{1,200})')\s{0,2}\)"
)
"""A name and a value in brackets, as in `define('ssn', '...')`."""
_RESULT: Final = Regex(
    rb"(?:^|\n)[ \t]*(?:\([a-zA-Z]+\+?\)|>>>|[>$]|[Ii]n ?\[[0-9]+\]:|[\w:().-]{1,40}[>#])[ \t]+(?:[a-z]{1,8}[ (]{1,2})?"
    rb"([$A-Za-z_\x80-\xa1][\w.$>\[\]'\"\x80-\xa1-]{1,80})\)?;?[ \t]*\r?\n"
)
"""An expression behind the prompt of a debugger or an interpreter, whose value is on the next line."""
_SHOWN: Final = re.compile(
    rb"[ \t]{0,8}(?:\$[0-9]{1,4} = |=> |Out ?\[[0-9]{1,4}\]: |\([\w ]{1,24}\) )?(?:[\w$]{1,24} = )?"
    rb"(?:0x[0-9a-f]{1,16} )?[\"']?([^\s\"'][^\n\"']{0,200})"
)
_NAME_BEFORE: Final = re.compile(rb"[A-Za-z_\x80-\xa1][\w.\x80-\xa1-]*$")
_LONGEST_NAME: Final = 48
_BLOCK: Final = re.compile(
    rb"\"([^\"\n{}]{1,64})\"[ ]{0,2}\{\s{1,24}(?:[a-z_]{1,16}[ ]{0,8}=[^\n{}]{0,60}\n\s{0,24}){0,4}$"
)
"""A named block of settings, up to one of its settings."""
_REACH: Final = 240
"""How far before a setting the name of its block is looked for."""
_WORD: Final = re.compile(rb"[^0-9]*[A-Za-z\x80-\xa1][^0-9]*[0-9]?[^0-9]*")
_Span = tuple[int, int]


class _Pair(NamedTuple):
    key: _Span
    value: _Span
    opens: bool
    names: bool
    """Whether its value names the value beside it."""
    is_named: bool
    """Whether its key says nothing about its value."""


class _Roles(dict[bytes, tuple[bool, bool]]):
    """What the keys of a text say, each found out once: most keys occur in every record."""

    def __missing__(self, key: bytes) -> tuple[bool, bool]:
        roles = self[key] = (_NAMING.fullmatch(key) is not None, _NAMED.fullmatch(key) is not None)
        return roles

    def pair(self, data: bytes, match: re.Match[bytes]) -> _Pair:
        """The pair that *match* found in *data*."""
        start, end = key = match.span(1 if match.start(1) >= 0 else 2)
        last = match.lastindex or 0
        return _Pair(key, match.span(last), last == _OPENER, *self[data[start:end]])


@dataclass(slots=True)
class _Group:
    """What stands within one pair of brackets."""

    key: _Span | None = None
    pairs: list[_Pair] = field(default_factory=list)
    names: list[_Span] = field(default_factory=list)


def pairs(data: bytes) -> Iterator[Cell]:
    """Yield the value of each pair in *data*, labelled by its key, and the fields of rows in JSON."""
    naming: _Span | None = None
    for match in bounded(_FORM, data, _LONGEST):
        key, value = (match.start(1), match.start(1) + len(match[1].rstrip())), match.span(2)
        near = naming if naming is not None and key[0] - naming[1] <= _NEXT_LINE else None
        name = (_block(data, key[0]) or near) if _NAMED.fullmatch(data, *key) else None
        yield Cell(*value, (name or key,))
        naming = value if _NAMING.fullmatch(data, *key) else naming if name is not None else None
    roles = _Roles()
    quoted = [roles.pair(data, match) for match in bounded(_QUOTED, data, _LONGEST)]
    for match in looked(_CALL.finditer(data)) if b"(" in data else ():
        yield Cell(*match.span(match.lastindex or 0), (match.span(1) if match.start(1) >= 0 else match.span(2),))
    yield from results(data)
    if b'="' in data and b"<" not in data:
        yield from _attributes(data)
    if quoted or b"[" in data:
        yield from _nested(data, quoted)


def _attributes(data: bytes) -> Iterator[Cell]:
    """Values in quotes behind their names, set apart by spaces, as in logs: `[meta usPassport="E12345678"]`."""
    at = data.find(b'="')
    while at >= 0:
        name, end = _NAME_BEFORE.search(data[max(0, at - _LONGEST_NAME) : at]), data.find(b'"', at + 2, at + _REACH)
        if name is not None and end > at + 2:
            yield Cell(at + 2, end, ((at - len(name[0]), at),))
        at = data.find(b'="', at + 2)


def results(data: bytes) -> Iterator[Cell]:
    """What a debugger or an interpreter prints, named by the expression before it."""
    for start, end, _ in _RESULT.finditer(data):
        shown = _SHOWN.match(data, data.find(b"\n", end) + 1)
        if shown is not None:
            yield Cell(*shown.span(1), ((start, end),))


def _block(data: bytes, at: int) -> _Span | None:
    """The name of the block of settings that the key at *at* is in: `variable "ssn" { default = "..." }`."""
    offset = max(0, at - _REACH)
    match = _BLOCK.search(data[offset:at]) if data.find(b"{", offset, at) >= 0 else None
    return (offset + match.start(1), offset + match.end(1)) if match else None


def _nested(data: bytes, quoted: list[_Pair]) -> Iterator[Cell]:
    """The pairs with quoted keys, group by group, and the arrays of arrays."""
    keys = {pair.value[0]: pair.key for pair in quoted if pair.opens}
    rows = _Rows(data)
    stack: list[tuple[int, _Group]] = [(-1, _Group())]
    upcoming = iter(quoted)
    pair = next(upcoming, None)
    for at in looked(_brackets(data)):
        while pair is not None and pair.key[0] < at:
            _add(stack[-1][1], pair)
            pair = next(upcoming, None)
        if data[at] in b"[{":
            stack.append((at, _Group(keys.get(at))))
            rows.opened(at)
        elif len(stack) > 1:
            start, group = stack.pop()
            yield from _closed(data, group, start, at, _parents(stack))
            yield from rows.closed(start, at, group)
    while pair is not None:
        _add(stack[-1][1], pair)
        pair = next(upcoming, None)
    while stack:
        start, group = stack.pop()
        yield from _closed(data, group, start, len(data), _parents(stack))


def _brackets(data: bytes) -> Iterator[int]:
    """Where the brackets are; those inside a string are none."""
    match = _BRACKET.search(data)
    while match is not None:
        start, end = match.span()
        if data[start] != _QUOTE:
            yield start
        elif data[max(0, start - 1) : start] not in _OPENS or data[end : end + 8].lstrip()[:1] not in _CLOSES:
            end = start + 1
        match = _BRACKET.search(data, end)


def _parents(stack: list[tuple[int, _Group]]) -> Label:
    """The keys of the two groups around one."""
    return tuple([group.key for _, group in stack[-2:] if group.key is not None])


def _add(group: _Group, pair: _Pair) -> None:
    if pair.opens:
        return
    group.pairs.append(pair)
    if pair.names:
        group.names.append(pair.value)


def _closed(data: bytes, group: _Group, start: int, end: int, parents: Label) -> list[Cell]:
    """The cells of a group: its pairs, and all of an array that a key names."""
    cells: list[Cell] = []
    if group.key is not None:
        parents = (group.key, *parents)
        if data.startswith(b"[", start):
            cells.append(Cell(start + 1, end, (), (group.key,)))
    names: Label = tuple(group.names)
    for pair in group.pairs:
        key, (first, last) = pair.key, pair.value
        if pair.is_named:
            cells.append(Cell(first, last, (key, *(names or parents))))
        else:
            others = tuple([name for name in names if name != pair.value]) if names else ()
            cells.append(Cell(first, last, (key,), others + parents))
    return cells


class _Rows:
    """Arrays that follow an array of names, `[["name", "ssn"], ["Jane", "123456789"]]`, or the names of columns."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._header: list[_Span] = []
        self._columns: list[_Span] = []
        self._last = -1

    def opened(self, at: int) -> None:
        """A bracket opens at *at*."""
        self._last = at

    def closed(self, start: int, end: int, group: _Group) -> Iterator[Cell]:
        """The bracket that opened at *start* closes at *end*: yield its fields where it is a row."""
        if self._data[start] == b"{"[0]:
            self._columns += group.names[:1]
        elif start == self._last:
            elements = looked(_ELEMENT.finditer(self._data, start + 1, end))
            yield from self._row([_span(found) for found in elements], group)
        elif group.key is not None and _COLUMNS.fullmatch(self._data, *group.key) and self._columns:
            self._header = self._columns
        if self._data[start] != b"{"[0]:
            self._columns = []

    def _row(self, fields: list[_Span], group: _Group) -> Iterator[Cell]:
        if group.key is not None and not _COLUMNS.fullmatch(self._data, *group.key):
            yield from (Cell(*span, (group.key,)) for span in fields)
        elif fields and len(fields) == len(self._header):
            yield from (Cell(*span, (name,)) for span, name in zip(fields, self._header, strict=True))
        elif fields and all(_WORD.fullmatch(self._data, *span) for span in fields):
            self._header = fields


def _span(found: re.Match[bytes]) -> _Span:
    return found.span(found.lastindex or 0)

"""Tables in lines: CSV with any usual separator, Markdown, columns set apart by spaces, and lists below a heading.

A header is a line of short names without numbers above a line of as many fields; it names the fields below it for as
long as the lines have that form.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Final

from hybrid_llm.router.privacy.detectors.layout.pairs import Cell
from hybrid_llm.router.privacy.detectors.text import Regex

_Span = tuple[int, int]
_TWO: Final = 2
"""The fields of a line that holds a name and its value."""
_RAGGED: Final = 2
"""The fields that a row with a number may have less or more than a header of three or more."""
_LINE: Final = re.compile(rb"[^\r\n]+")
_SIGNS: Final = rb",;|\t^~"
"""What separates fields, but for spaces; as in a class of characters, where the caret is not the first."""
_OTHERS: Final = rb"!?:=" + _SIGNS + rb"\r\n"
_CELL: Final = rb"[ \"'*_`#]*[A-Za-z\x80-\xa1_][^0-9%s]*(?:[0-9][^0-9%s]*)?[?:]?\"?" % (_OTHERS, _OTHERS)
_HEADER: Final = Regex(
    rb"(?:^|\n|[:=] ?\")([ \t|]*(?:[ #\xa1]*[%(signs)s])?%(cell)s(?:(?:[%(signs)s] *)*(?:[%(signs)s]"
    rb"|  )%(cell)s)+[ %(signs)s]*)"
    rb"(?:\r?\n|$)" % {b"signs": _SIGNS, b"cell": _CELL}
)
"""A line of names: it may be above the fields that they name. A text in JSON may begin with one."""
_ROW: Final = Regex(
    rb"(?:^|\n)([ \t]*\|?[ \t]*[A-Za-z\x80-\xa1_][^0-9%(others)s]*(?:[%(signs)s]|  )"
    rb"[^%(signs)s\r\n]*[0-9][^%(signs)s\r\n]*\|?[ \t]*)(?:\r?\n|$)" % {b"others": _OTHERS, b"signs": _SIGNS}
)
"""A name and a value."""
_LIST: Final = Regex(
    rb"(?:^|\n)([ \t#>*_-]*[A-Za-z\x80-\xa1][^0-9\r\n,;|:=]*[:=]?[ \t]*)\r?\n"
    rb"[ \t]*(?:[-*+\xa1] |[0-9]+[.)] )?[ ]*[^ \t\r\n]*[0-9][^ \t\r\n]*(?:[ -][^ \t\r\n]+)*[ \t]*(?:\r?\n|$)"
)
"""A heading above an item with a number."""
_NAME: Final = re.compile(rb"[\s\"'*_`#]{0,6}[A-Za-z\x80-\xa1_][^0-9!?:=]{0,40}(?:[0-9][^0-9!?:=]{0,12})?[?:]?\"?")
_UNNAMED: Final = re.compile(rb"[\s#\xa1]*")
_INSERT: Final = Regex(
    rb"(?i:insert|replace)\s+(?i:ignore\s+)?(?i:into)\s+[\w.\"`\[\]]{1,80}\s*\(([^()]{1,900})\)\s*(?i:values)"
)
"""The names of the columns that a statement of SQL fills."""
_ROW_OF_SQL: Final = re.compile(rb"\s{0,9},?\s{0,9}\(")
_SQL: Final = re.compile(
    rb"\s{0,9}(?:[NEnex]?'([^']{0,900})'|\"([^\"]{0,900})\"|((?:[^,'\"()]|\([^()]{0,60}\))*))\s{0,9}([,)])"
)
_RAGGED_ROW: Final = re.compile(rb"[^0-9=(){}\[\]:]*[0-9][^=(){}\[\]:]*")
"""A line with a number that is no program text."""
_REMARK: Final = re.compile(rb"[ \t]*(?:#|//|--[ \t]|%|/\*|<!--|REM\b).*")
"""A line that says something about its table."""
_RULE: Final = re.compile(rb"[\s|:+=-]*--[\s|:+=-]*|[\s|:+=-]*==[\s|:+=-]*")
_ITEM: Final = re.compile(rb"\s{0,8}(?:[-*+\xa1] |[0-9]{1,3}[.)] )?\s{0,2}(\S+(?:[ -]\S+){0,4})\s{0,4}")
_NEAR: Final = 6
"""The lines below a header among which its first row is."""
_LONGEST: Final = 60
"""The length of a line that may be a heading or an item of a list."""
_FIELDS: Final = {
    separator: re.compile(
        (
            rb" *(?:\"((?:[^\"]|\"\")*)\"|([^\"%(s)s][^%(s)s]*)|( *)) *(?:%(s)s|\Z)"
            if separator == b"\t"
            else rb"\s*(?:\"((?:[^\"]|\"\")*)\"|([^\"%(s)s][^%(s)s]*)|(\s*))\s*(?:%(s)s|\Z)"
        )
        % {b"s": re.escape(separator)}
    )
    for separator in (b"\t", b"|", b";", b",", b"^", b"~")
}
_GAP: Final = b"  "
_COLUMN: Final = re.compile(rb"\S+(?: \S+)*")


def tables(data: bytes) -> Iterator[Cell]:
    """Yield the fields below a header in *data*, labelled by it, and those beside a name."""
    behind = 0
    for start, end, _ in _HEADER.finditer(data):
        if start >= behind:
            behind = yield from below(data, (start, end))
    for start, end, _ in _ROW.finditer(data):
        yield from beside_name(data, (start, end))
    yield from inserted(data)
    behind = 0
    for start, end, _ in _LIST.finditer(data):
        if start >= behind and end - start <= _LONGEST:
            behind = yield from _items(data, (start, end))


def _lines(data: bytes, start: int) -> Iterator[_Span]:
    """The lines that are not empty, from *start* on."""
    for match in _LINE.finditer(data, start):
        yield match.span()


def _separator(data: bytes, line: _Span, below: _Span) -> bytes:
    """What separates the fields of both lines; empty where nothing does."""
    for separator in _FIELDS:
        count = data.count(separator, *line)
        least = count if count < _TWO or not _RAGGED_ROW.fullmatch(data, *below) else max(1, count - _RAGGED)
        if count and (data.count(separator, *below) >= least or _RULE.fullmatch(data, *below)):
            return separator
    return _GAP if data.find(_GAP, *line) >= 0 and data.find(_GAP, *below) >= 0 else b""


def _fields(data: bytes, line: _Span, separator: bytes) -> list[_Span]:
    start, end = line
    if separator == _GAP:
        return [match.span() for match in _COLUMN.finditer(data, start, end)]
    if separator == b"|":
        start, end = _trimmed(data, start, end)
    fields: list[_Span] = []
    while start < end:
        match = _FIELDS[separator].match(data, start, end)
        if match is None:  # a quote that nothing closes
            behind = data.find(separator, start, end)
            fields.append((start, end if behind < 0 else behind))
            start = end if behind < 0 else behind + 1
            continue
        fields.append(match.span(match.lastindex or 0))
        start = match.end()
    if separator and separator != b"|" and data.startswith(separator, end - 1):
        fields.append((end, end))  # an empty field ends the line
    return fields


def _trimmed(data: bytes, start: int, end: int) -> _Span:
    """A row of Markdown without the bars at its ends."""
    while start < end and data[start] in b" \t":
        start += 1
    while start < end and data[end - 1] in b" \t":
        end -= 1
    return start + data.startswith(b"|", start, end), end - data.endswith(b"|", start + 1, end)


def below(data: bytes, line: _Span) -> Generator[Cell, None, int]:
    """The rows below a header, which remarks or one other line may interrupt; returns where they end."""
    near = list(islice(_lines(data, line[1]), _NEAR))
    first = next((row for row in near if not _REMARK.fullmatch(data, *row)), near[0] if near else None)
    separator = _separator(data, line, first) if first is not None else b""
    header = _fields(data, line, separator) if separator else []
    behind = line[1]
    if len(header) < _TWO or not all(_NAME.fullmatch(data, *n) or _UNNAMED.fullmatch(data, *n) for n in header):
        return behind
    labels = [(name,) for name in header]
    was_row = True
    for row in _lines(data, line[1]):
        fields = _fields(data, row, separator)
        is_row = len(fields) == len(header) or (was_row and _is_ragged(data, row, len(fields), len(header), separator))
        if not is_row and not was_row:
            break
        if is_row and not _RULE.fullmatch(data, *row):
            yield from _labelled(data, fields, labels)
        was_row = is_row or _RULE.fullmatch(data, *row) is not None or _REMARK.fullmatch(data, *row) is not None
        behind = row[1] if was_row else behind
    return behind


def _is_ragged(data: bytes, row: _Span, fields: int, names: int, separator: bytes) -> bool:
    """Whether a line has a few fields less or more than its header, and is neither prose nor code."""
    is_near = min(fields, names - 1) >= _TWO and abs(fields - names) <= _RAGGED
    return is_near and separator != _GAP and _RAGGED_ROW.fullmatch(data, *row) is not None


def _labelled(data: bytes, fields: list[_Span], labels: list[tuple[_Span]]) -> Iterator[Cell]:
    """The fields of a row; a name in the first one names the others too, and more so where there are only two."""
    first = (fields[0],) if _NAME.fullmatch(data, *fields[0]) else ()
    yield Cell(*fields[0], labels[0])
    for span, label in zip(fields[1:], labels[1:], strict=False):
        yield Cell(*span, (*label, *first) if len(fields) == _TWO else label, first)


def beside_name(data: bytes, line: _Span) -> Iterator[Cell]:
    """The second of two fields, where the first is a name."""
    fields = _fields(data, line, _separator(data, line, line))
    if len(fields) == _TWO and _NAME.fullmatch(data, *fields[0]):
        yield Cell(*fields[1], (fields[0],))


def _items(data: bytes, heading: _Span) -> Generator[Cell, None, int]:
    """The items of a list below a heading; returns where they end."""
    behind = heading[1]
    for line in _lines(data, heading[1]):
        item = _ITEM.fullmatch(data, *line) if line[1] - line[0] <= _LONGEST else None
        if item is None or not any(48 <= byte <= 57 for byte in item[1]):
            break
        yield Cell(*item.span(1), (heading,))
        behind = line[1]
    return behind


def inserted(data: bytes) -> Iterator[Cell]:
    """The values of the statements of SQL in *data*."""
    for start, end, _ in _INSERT.finditer(data):
        yield from _inserted(data, (start, end))


def _inserted(data: bytes, names: _Span) -> Iterator[Cell]:
    """The values of a statement of SQL, by the names of its columns."""
    labels = [(name,) for name in _fields(data, names, b",")]
    row = _ROW_OF_SQL.search(data, names[1] + 1, names[1] + 60)
    while row is not None:
        at, index = row.end(), 0
        value = _SQL.match(data, at)
        while value is not None:
            if index < len(labels):
                yield Cell(*next(value.span(group) for group in (1, 2, 3) if value.start(group) >= 0), labels[index])
            at, index = value.end(), index + 1
            if value[4] == b")":
                break
            value = _SQL.match(data, at)
        row = _ROW_OF_SQL.match(data, at) if value is not None else None

"""Tables in lines: CSV with any usual separator, Markdown, columns set apart by spaces, and lists below a heading.

A header is a line of short names without numbers above a line of as many fields; it names the fields below it for as
long as the lines have that form.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import Final

from hybrid_llm.router.privacy.detectors.pairs import Cell

_Span = tuple[int, int]
_LINE: Final = re.compile(rb"[^\r\n]+")
_NAME: Final = re.compile(rb"[\s\"'*_`#]{0,6}[A-Za-z\x80-\xa1_][^0-9.!?:=]{0,40}[0-9]?[^0-9!?:=]{0,12}")
_RULE: Final = re.compile(rb"[\s|:+=-]*--[\s|:+=-]*|[\s|:+=-]*==[\s|:+=-]*")
_HEADING: Final = re.compile(rb"[\s#>*_-]{0,6}[A-Za-z\x80-\xa1][^0-9\r\n,;|:=]{1,60}[:=]?\s{0,4}")
_ITEM: Final = re.compile(rb"\s{0,8}(?:[-*+\xa1] |[0-9]{1,3}[.)] )?\s{0,2}(\S+(?:[ -]\S+){0,4})\s{0,4}")
_LONGEST: Final = 60
"""The length of a line that may be an item of a list."""
_FIELDS: Final = {
    separator: re.compile(
        rb"\s*(?:\"([^\"]*)\"|([^\""
        + re.escape(separator)
        + rb"][^"
        + re.escape(separator)
        + rb"]*)|(\s*))\s*(?:"
        + re.escape(separator)
        + rb"|\Z)"
    )
    for separator in (b"\t", b"|", b";", b",")
}
_GAP: Final = b"  "
_COLUMN: Final = re.compile(rb"\S+(?: \S+)*")


def tables(data: bytes) -> Iterator[Cell]:
    """Yield the fields below a header in *data*, labelled by it."""
    lines = [match.span() for match in _LINE.finditer(data)]
    index = 0
    while index < len(lines):
        separator = _separator(data, lines[index], lines[index + 1] if index + 1 < len(lines) else None)
        header = _fields(data, lines[index], separator) if separator else []
        if len(header) > 1 and all(_NAME.fullmatch(data, *name) or name[0] == name[1] for name in header):
            behind = yield from _rows(data, lines, index + 1, header, separator)
        elif len(header) == 2 and _NAME.fullmatch(data, *header[0]):  # a name and its value
            yield Cell(*header[1], (header[0],))
            behind = index + 1
        else:
            behind = yield from _items(data, lines, index)
        index = max(behind, index + 1)


def _separator(data: bytes, line: _Span, below: _Span | None) -> bytes:
    """What separates the fields of both lines; empty where nothing does."""
    below = line if below is None else below
    for separator in _FIELDS:
        count = data.count(separator, *line)
        if count and (data.count(separator, *below) >= count or _RULE.fullmatch(data, *below)):
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
    return fields


def _trimmed(data: bytes, start: int, end: int) -> _Span:
    """A row of Markdown without the bars at its ends."""
    while start < end and data[start] in b" \t":
        start += 1
    while start < end and data[end - 1] in b" \t":
        end -= 1
    return start + data.startswith(b"|", start, end), end - data.endswith(b"|", start + 1, end)


def _rows(
    data: bytes, lines: list[_Span], index: int, header: list[_Span], separator: bytes
) -> Generator[Cell, None, int]:
    """The rows from line *index* on; returns the index of the line that is none."""
    labels = [(name,) for name in header]
    while index < len(lines):
        if not _RULE.fullmatch(data, *lines[index]):
            fields = _fields(data, lines[index], separator)
            if len(fields) != len(header):
                break
            first = (fields[0],) if _NAME.fullmatch(data, *fields[0]) else ()
            for position, (span, label) in enumerate(zip(fields, labels, strict=True)):
                is_value = position == 1 and len(fields) == 2  # noqa: PLR2004  # a table of names and values
                yield Cell(*span, (*label, *first) if is_value else label, first if position else ())
        index += 1
    return index


def _items(data: bytes, lines: list[_Span], index: int) -> Generator[Cell, None, int]:
    """The items of a list below the heading in line *index*; returns the index of the line that is none."""
    heading = lines[index]
    index += 1
    if not _HEADING.fullmatch(data, *heading):
        return index
    while index < len(lines) and lines[index][1] - lines[index][0] <= _LONGEST:
        item = _ITEM.fullmatch(data, *lines[index])
        if item is None or not any(48 <= byte <= 57 for byte in item[1]):
            break
        yield Cell(*item.span(1), (heading,))
        index += 1
    return index

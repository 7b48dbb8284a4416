"""Markdown for notebooks, in which the texts of a model stay texts.

A renderer would fetch the pictures that a text names, follow its links and take in its HTML: an answer could send out
what it was made of, or run a script. So every character that could mean something is written as a character reference,
which CommonMark (6.2) takes for that character alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

_INDENT: Final = "&nbsp;"
_FIRST_BEYOND_ASCII: Final = 0x80
_NO_TEXT: Final = frozenset({"Cc", "Cs"})
"""Categories of Unicode: control characters, and halves of characters."""
_MEANINGLESS: Final = frozenset(" ,;?'\"")
"""Characters of ASCII that mean nothing by themselves, where no bracket, ampersand or backslash is left."""


def literal(text: str) -> str:
    """*text* as Markdown that shows it as it is, with its line breaks and indents."""
    return "  \n".join([_line(line) for line in text.expandtabs(4).splitlines()])


def _line(line: str) -> str:
    rest = line.lstrip(" ")
    return _INDENT * (len(line) - len(rest)) + "".join([_character(each) for each in rest.rstrip(" ")])


def _character(each: str) -> str:
    if each.isalnum() or each in _MEANINGLESS:
        return each
    if ord(each) < _FIRST_BEYOND_ASCII and each.isprintable():
        return f"&#{ord(each)};"
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(each) in _NO_TEXT else each


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of GitHub's Markdown; *head* is ours, the cells are shown as they are."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join([literal(' '.join(str(cell).split())) for cell in row])} |" for row in rows]
    return "\n".join(lines)

"""A cell: a piece of text that something names, such as the value of a pair or the field of a table."""

from __future__ import annotations

from typing import NamedTuple

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

"""What a docstring says of a function and of its parameters, in the styles of Google, NumPy and Sphinx."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

_ARGUMENTS: Final = ("Args:", "Arguments:", "Parameters:", "Params:", "Attributes:")
_OTHERS: Final = ("Returns:", "Return:", "Yields:", "Raises:")
_NUMPY: Final = ("Parameters", "Other Parameters", "Returns", "Yields", "Raises")
_FIELD: Final = re.compile(r"[:@](?:param|parameter|arg|argument)\s+(?:[^:]*?\s)?\*{0,2}(\w+)\s*:\s*(.*)")
"""`:param city: ...`, `:param str city: ...`, `@param city: ...`."""
_OTHER_FIELD: Final = re.compile(r"[:@](?:type|rtype|returns?|raises?|except|yields?)\b")
_GOOGLE_ENTRY: Final = re.compile(r"\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:\s*(.*)")
_NUMPY_ENTRY: Final = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description in *text*, a docstring as `inspect.getdoc` returns it, and that of each parameter."""
    lines = text.splitlines()
    starts = [at for at in range(len(lines)) if _begins_section(lines, at)]
    body = lines[: starts[0]] if starts else lines
    described: dict[str, str] = {}
    for start, end in pairwise([*starts, len(lines)]):
        described |= _parameters(lines[start:end])
    return "\n".join(body).strip(), described


def _begins_section(lines: Sequence[str], at: int) -> bool:
    line = lines[at].rstrip()
    if line in (*_ARGUMENTS, *_OTHERS) or _OTHER_FIELD.match(line) or _FIELD.match(line):
        return True
    return line in _NUMPY and _is_ruled(lines, at)


def _is_ruled(lines: Sequence[str], at: int) -> bool:
    ruler = lines[at + 1].strip() if at + 1 < len(lines) else ""
    return len(ruler) > 2 and set(ruler) == {"-"}


def _parameters(section: Sequence[str]) -> dict[str, str]:
    """The parameters that one section describes: a field of Sphinx, or a list of entries."""
    head = section[0].rstrip()
    if field := _FIELD.match(head):
        return {field[1]: _joined([field[2], *_indented(section[1:])])}
    if head in _ARGUMENTS:
        return _entries(_indented(section[1:]), _GOOGLE_ENTRY)
    if head.endswith("Parameters") and head in _NUMPY:
        return _entries(section[2:], _NUMPY_ENTRY)
    return {}


def _indented(lines: Sequence[str]) -> list[str]:
    """The first of *lines* that are blank or indented."""
    end = next((at for at, line in enumerate(lines) if line.strip() and not line[0].isspace()), len(lines))
    return list(lines[:end])


def _entries(lines: Sequence[str], pattern: re.Pattern[str]) -> dict[str, str]:
    """Entries that begin in the column of the first one, with the lines that are indented further."""
    filled = [line for line in lines if line.strip()]
    column = min((len(line) - len(line.lstrip()) for line in filled), default=0)
    described: dict[str, str] = {}
    names: list[str] = []
    for line in filled:
        entry = pattern.fullmatch(line.strip()) if not line[column].isspace() else None
        if entry is not None:
            names = [name.strip().lstrip("*") for name in entry[1].split(",")]
            described |= dict.fromkeys(names, entry[2] if entry.lastindex == 2 else "")
        else:
            described |= {name: _joined([described[name], line]) for name in names}
    return described


def _joined(lines: Sequence[str]) -> str:
    return " ".join(filter(None, (line.strip() for line in lines)))

"""Reads mappings made in Python into the tables of `core.fields`; what is wrong is reported by its path of keys."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.fields import Table
from hybrid_llm.policies.reader import yamltext
from hybrid_llm.policies.reader.fields import WRONG, Reader
from hybrid_llm.policies.reader.source import Fault, Faults

PLAIN: Final = "the configuration"
"""What messages call a mapping made in Python."""
_MAX_DEPTH: Final = 40
_MAX_VALUES: Final = 100_000


class KeyFaults(Faults):
    """The errors of a mapping made in Python. An offset is the number of a value; `backends.cloud.model` its label."""

    def __init__(self, what: str) -> None:
        super().__init__("", "", what)
        self._paths: list[str] = []

    def number(self, path: str) -> int:
        """The offset of the value at *path*."""
        self._paths.append(path)
        return len(self._paths) - 1

    def label(self, offset: int) -> str:
        """The keys that lead to the value."""
        return self._paths[offset] or self.what

    def position(self, offset: int) -> tuple[int, int]:  # noqa: ARG002  # the signature of the base class
        """No line and no column."""
        return 0, 0

    def _shown(self, fault: Fault, kind: str = "") -> str:
        hint = f"\n    hint: {fault.hint}" if fault.hint else ""
        return f"{self.label(fault.offset)}: {kind}{fault.message}{hint}"


class PlainDocument:
    """A mapping as the reader of files reads it; it does not change when the mapping does later.

    Texts stand for themselves, so that none needs the quotes of YAML.
    """

    def __init__(self, values: Mapping[str, Any], what: str) -> None:
        """*what* names the whole in messages."""
        self._faults = KeyFaults(what)
        self._root = self._value(values, "", 0)

    def read(self, table: Table, folder: Path) -> Any:
        """The record of *table* that the mapping holds; paths are relative to *folder*.

        Raises:
            PolicyError: it is not what the table declares; `.errors` has everything that is wrong.
        """
        faults = self._faults
        found = Reader(faults, folder=folder).read(table, self._root, faults.what) if not faults.count else WRONG
        faults.check()
        return found

    def _value(self, value: Any, path: str, depth: int) -> yamltext.Value:
        offset = self._faults.number(path)
        if depth > _MAX_DEPTH or offset > _MAX_VALUES:
            self._faults.add("nested too deeply" if depth > _MAX_DEPTH else "more values than are read", offset)
        elif isinstance(value, Mapping):
            return yamltext.Mapping(tuple(self._entries(value, path, offset, depth)), offset)
        elif isinstance(value, Sequence | Set) and not isinstance(value, str | bytes | bytearray):
            items = sorted(value, key=str) if isinstance(value, Set) else value
            return yamltext.Sequence(
                tuple([self._value(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(items)]), offset
            )
        return self._scalar(value, offset)

    def _entries(self, value: Mapping[Any, Any], path: str, offset: int, depth: int) -> Iterator[yamltext.Entry]:
        for name, item in value.items():
            if not isinstance(name, str):
                self._faults.add(f"a key must be a text, not {type(name).__name__}", offset)
                continue
            inner = f"{path}.{name}" if path else name
            key = _scalar(name, self._faults.number(inner), quoted=True)
            yield yamltext.Entry(key, self._value(item, inner, depth + 1))

    def _scalar(self, value: Any, offset: int) -> yamltext.Scalar:
        match value.value if isinstance(value, Enum) else value:
            case bool() as flag:
                return _scalar(str(flag).lower(), offset)
            case int() | float() | Decimal() as number:
                return _scalar(_digits(number), offset)
            case str() as text:
                return _scalar(text, offset, quoted=True)
            case os.PathLike() as path:
                return _scalar(os.fsdecode(path), offset, quoted=True)
            case None:
                return _scalar("", offset)
        self._faults.add(f"a value of the type {type(value).__name__} has no counterpart in a file", offset)
        return _scalar("", offset)


ConfigSource = Path | PlainDocument
"""What a configuration is read from: a file, or a mapping as it was when it was given."""


def config_source(given: str | os.PathLike[str] | Mapping[str, Any]) -> ConfigSource:
    """The path of a file, or what a mapping with the keys of `hybrid.yaml` holds now."""
    return PlainDocument(given, PLAIN) if isinstance(given, Mapping) else Path(given)


def _scalar(text: str, offset: int, *, quoted: bool = False) -> yamltext.Scalar:
    return yamltext.Scalar(text, offset, offset, text, '"' if quoted else "")


def _digits(number: float | Decimal) -> str:
    """*number* as a file has it: without an exponent."""
    exact = Decimal(number if isinstance(number, int) else str(number))
    return format(exact, "f") if exact.is_finite() else str(exact)

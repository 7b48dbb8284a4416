"""Reads YAML into the tables of `core.fields`: one reader for `hybrid.yaml`, policies, cases and world files.

Everything that is wrong in a file is reported at once, each with its position and, where there is one, a hint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import VERSION, File, Found, Key, Kind, ListOf, MapOf, Name, OneOf, Table, Text, Variants
from hybrid_llm.core.secret import without_credentials
from hybrid_llm.policies.reader import yamltext
from hybrid_llm.policies.reader.scalars import Names, read_scalar
from hybrid_llm.policies.reader.source import Fault, Faults, did_you_mean
from hybrid_llm.policies.reader.yamltext import Scalar, Sequence, Value, read_yaml

WRONG: Final = object()
"""What reading returns for a value that was reported."""


def read_text(path: Path, what: str, error: type[ConfigError] = ConfigError) -> str:
    """The text of the file at *path*, which messages call *what*.

    Raises:
        ConfigError: as *error*: the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as problem:
        raise error(f"{path}: {what} cannot be read: {problem.strerror}", path=str(path)) from problem
    except UnicodeDecodeError as problem:
        message = f"{path}: {what} is not UTF-8 text (byte {problem.start}); save the file as UTF-8"
        raise error(message, path=str(path)) from problem


def read_document(text: str, table: Table, faults: Faults, names: Names | None = None, folder: Path = Path()) -> Any:
    """The record of *table* that *text* holds; None where there is none, with the reasons in *faults*.

    Paths in the text are relative to *folder*.
    """
    root = read_yaml(text, faults)
    found = Reader(faults, names, folder).read(table, root, table.title) if root is not None else WRONG
    return None if found is WRONG else found


def parse_document(text: str, path: str, what: str, table: Table, folder: Path = Path()) -> Any:
    """The record of *table* that *text* holds; *path* and *what* name the file in messages.

    Raises:
        PolicyError: the text is not what the table declares; `.errors` has everything that is wrong.
    """
    faults = Faults(text, path, what)
    found = read_document(text, table, faults, folder=folder)
    faults.check()
    return found


class Reader:
    """Reads values of the kinds that tables declare; whatever is wrong goes to *faults*."""

    def __init__(self, faults: Faults, names: Names | None = None, folder: Path = Path()) -> None:
        self._faults = faults
        self._names = names or {}
        self._folder = folder

    def read(self, kind: Kind, value: Value, label: str, entry: str = "", offset: int | None = None) -> Any:
        """The value, or `WRONG` after a report.

        Args:
            kind: What is expected.
            value: What the file has.
            label: Names the value in messages.
            entry: The name of the entry, or the number of the item, that the value belongs to.
            offset: Where that entry begins; what is missing in a table is reported there.
        """
        offset = value.offset if offset is None else offset
        match kind:
            case ListOf():
                return self._list(kind, value, label)
            case OneOf():
                return self._one_of(kind, value, label, entry)
            case MapOf() | Table() | Variants():
                if not isinstance(value, yamltext.Mapping):
                    return self._reject(value, f"{label} must be {kind.words}, not {_shape(value)}")
                return self._mapping(kind, value, label, entry, offset)
        try:
            return self._scalar(kind, value)
        except Fault as fault:
            return self._reject(value, fault.message, fault.hint)

    def _reject(self, value: Value, message: str, hint: str | None = None) -> Any:
        self._faults.add(message, value.offset, hint)
        return WRONG

    def _one_of(self, kind: OneOf, value: Value, label: str, entry: str) -> Any:
        """The first kind that fits; where none does, the one of the value's shape reports why."""
        fitting = [one for one in kind.kinds if isinstance(value, _SHAPES.get(type(one), Scalar))]
        # A list or a mapping has one kind to be; a text may be a number, a duration or a word, so each is tried.
        if not isinstance(value, Scalar) or len(fitting) == 1:
            if not fitting:
                return self._reject(value, f"expected {kind.words}, found {_shape(value)}")
            return self.read(fitting[0], value, label, entry)
        hints = []
        for one in fitting:
            try:
                return self._scalar(one, value)
            except Fault as fault:
                hints.append(fault.hint)
        shown = without_credentials(value.text)
        return self._reject(value, f"`{shown}` is not {kind.words}", next(filter(None, hints), None))

    def _list(self, kind: ListOf, value: Value, label: str) -> Any:
        if isinstance(value, Scalar) and kind.single:
            value = Sequence((value,), value.offset)
        if not isinstance(value, Sequence):
            hint = f"write it in brackets: [{value.text}]" if isinstance(value, Scalar) and value.text else None
            return self._reject(value, f"{label} must be {kind.words}, not {_shape(value)}", hint)
        if not kind.least <= len(value.items) <= kind.most:
            limit, number = ("at least", kind.least) if len(value.items) < kind.least else ("at most", kind.most)
            return self._reject(value, f"{label} must have {limit} {number} item{'s' * (number != 1)}")
        found: list[Any] = []
        for number, item in enumerate(value.items):
            read = self.read(kind.item, item, f"item {number + 1} of {label}", str(number))
            if isinstance(item, Scalar) and read in found:
                self._faults.add(f"`{item.text}` is in the list twice", item.offset)
            elif read is not WRONG:
                found.append(read)
        return kind.into(found)

    def _mapping(
        self, kind: MapOf | Table | Variants, value: yamltext.Mapping, label: str, entry: str, offset: int
    ) -> Any:
        if isinstance(kind, MapOf):
            return self._map(kind, value, label)
        if isinstance(kind, Table):
            return self._table(kind, value, entry, offset)
        chosen = value.get("kind")
        name = chosen.text if isinstance(chosen, Scalar) else ""
        if name in kind.names():
            others = tuple(item for item in value.entries if item.key.text != "kind")
            return self._table(kind.get(name), replace(value, entries=others), entry, offset)
        message = f"`{name}` is not a kind of {kind.noun}" if chosen else "`kind` is missing"
        self._faults.add(message, chosen.offset if chosen else offset, did_you_mean(name, kind.names()))
        return WRONG

    def _map(self, kind: MapOf, value: yamltext.Mapping, label: str) -> Any:
        if len(value.entries) < kind.least:
            return self._reject(value, f"{label} must have at least {kind.least} entry")
        found: dict[str, Any] = {}
        for item in value.entries:
            name = self.read(kind.name, item.key, "a name")
            read = self.read(kind.value, item.value, f"`{item.key.text}`", item.key.text, item.key.offset)
            if WRONG not in (name, read):
                found[name] = read
        return MappingProxyType(found)

    def _table(self, table: Table, value: yamltext.Mapping, entry: str, offset: int) -> Any:
        entries = self._entries(table, value)
        values: dict[str, Any] = {}
        wrong: set[str] = set()
        for key in table.keys:
            if key.name in entries:
                read = self.read(key.kind, entries[key.name], f"`{key.name}`")
                if read is WRONG:
                    wrong.add(key.name)
                # A stand-in lets the rest of the file be checked; the record is never used once there is an error.
                values[key.attribute] = _neutral(key) if read is WRONG else read
            else:  # setdefault: an alternative key may have set the attribute already
                values.setdefault(key.attribute, _neutral(key))
        values.pop(VERSION.name, None)
        self._check_presence(table, entries, offset)

        def reject(message: str, hint: str = "", at: str = "") -> None:
            self._faults.add(message, entries[at].offset if at in entries else offset, hint or None)

        return table.make(Found(values, frozenset(entries), frozenset(wrong), entry, offset, reject))

    def _entries(self, table: Table, value: yamltext.Mapping) -> dict[str, Value]:
        known = {key.name for key in table.keys}
        for item in value.entries:
            name = item.key.text
            if name in table.reserved:
                hint = "remove it: it would have no effect"
                self._faults.add(f"`{name}` is not available in this version", item.key.offset, hint)
            elif name not in known:
                self._faults.add(f"{table.title} has no key `{name}`", item.key.offset, did_you_mean(name, known))
        return {item.key.text: item.value for item in value.entries if item.key.text in known}

    def _check_presence(self, table: Table, entries: Mapping[str, Value], offset: int) -> None:
        """Report keys that are missing, and alternatives that are there together."""
        for keys in alternatives(table):
            here = [key.name for key in keys if key.name in entries]
            if len(here) > 1:
                message = f"{table.title} has `{here[0]}` or `{here[1]}`, not both"
                self._faults.add(message, entries[here[1]].offset)
            elif not here and keys[0].required:
                self._faults.add(f"`{keys[0].name}` is missing", offset, keys[0].hint or None)
        here = [name for name in table.exactly_one if name in entries]
        if table.exactly_one and len(here) != 1:
            found = f"are {' and '.join(here)}" if here else "is none"
            wanted = f"{', '.join(table.exactly_one[:-1])} and {table.exactly_one[-1]}"
            self._faults.add(f"{table.title} has exactly one of {wanted}; here {found}", offset)

    def _scalar(self, kind: Kind, value: Value) -> Any:
        if isinstance(value, Scalar):
            return read_scalar(kind, value, self._names, self._folder)
        raise Fault(f"expected {kind.words}, found {_shape(value)}", value.offset)


def alternatives(table: Table) -> Iterator[list[Key]]:
    """The keys of *table*, those of one attribute together."""
    groups: dict[str, list[Key]] = {}
    for key in table.keys:
        groups.setdefault(key.attribute, []).append(key)
    yield from groups.values()


def _neutral(key: Key) -> Any:
    """What stands in for a value that is missing or wrong, so that the rest of the file can be checked."""
    if not key.required:
        return key.default
    match key.kind:
        case ListOf(into=into):
            return into(())
        case MapOf():
            return {}
        case File():
            return Path()
        case Text() | Name():
            return ""
    return None


def _shape(value: Value) -> str:
    return {Sequence: "a list", yamltext.Mapping: "a mapping"}.get(type(value), "a single value")


_SHAPES: Final[Mapping[type, type]] = {
    ListOf: Sequence,
    MapOf: yamltext.Mapping,
    Table: yamltext.Mapping,
    Variants: yamltext.Mapping,
}
"""The kinds that are not scalars -> what they look like in YAML."""

"""Reads YAML into the tables of `core.fields`: one reader for `hybrid.yaml`, policies, cases and world files.

Everything that is wrong in a file is reported at once, each with its position and, where there is one, a hint.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import (
    Amount,
    Choice,
    Expression,
    File,
    Flag,
    Found,
    Key,
    Kind,
    ListOf,
    MapOf,
    Money,
    Name,
    Number,
    OneOf,
    Quantity,
    Table,
    Text,
    Variants,
    Version,
    Whole,
)
from hybrid_llm.policies.reader import yamltext
from hybrid_llm.policies.reader.source import Faults, Source, did_you_mean
from hybrid_llm.policies.reader.yamltext import Scalar, Sequence, Value, read_yaml

NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
MONEY: Final = rf"({NUMBER}) ([A-Z]{{3}})"
PER_DAY: Final = "/day"
WRONG: Final = object()
"""What reading returns for a value that was reported."""
_LONGEST_NUMBER: Final = 300
LONGEST_QUANTITY: Final = 39
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_NUMBER: Final = re.compile(NUMBER)
_SIGNED: Final = re.compile(f"-?{NUMBER}")
# What YAML 1.1 reads as a boolean, null, number, sexagesimal or octal, YAML 1.2 as a text, or the other way round.
_YAML_11: Final = re.compile(r"(?i:y|n|yes|no|on|off|true|false|null|~|\.nan|[-+]?\.inf)?")
_NUMBER_LIKE: Final = re.compile(
    r"[-+]?(?:0[xXoObB][0-9a-fA-F_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9]*)?|[0-9][0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]+)?)"
)

Names = Mapping[str, Collection[str]]
"""The words of a `Name` -> the names that are declared; without an entry any name is accepted."""


def read_text(path: Path, what: str) -> str:
    """The text of the file at *path*, which messages call *what*.

    Raises:
        ConfigError: the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {what} cannot be read: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        message = f"{path}: {what} is not UTF-8 text (byte {error.start}); save the file as UTF-8"
        raise ConfigError(message, path=str(path)) from error


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
    faults = Faults(Source(text, path), what)
    found = read_document(text, table, faults, folder=folder)
    faults.check()
    return found


class _Wrong(Exception):
    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


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
                return self._mapping(kind, value, entry, offset)
        try:
            return self._scalar(kind, value)
        except _Wrong as wrong:
            return self._reject(value, wrong.message, wrong.hint)

    def _reject(self, value: Value, message: str, hint: str | None = None) -> Any:
        self._faults.add(message, value.offset, hint)
        return WRONG

    def _one_of(self, kind: OneOf, value: Value, label: str, entry: str) -> Any:
        """The first kind that fits; where none does, the one of the value's shape reports why."""
        fitting = [one for one in kind.kinds if isinstance(value, _SHAPES.get(type(one), Scalar))]
        if not isinstance(value, Scalar) or len(fitting) == 1:
            return self.read(fitting[0], value, label, entry) if fitting else self._misshapen(kind, value)
        hints = []
        for one in fitting:
            try:
                return self._scalar(one, value)
            except _Wrong as wrong:
                hints.append(wrong.hint)
        return self._reject(value, f"`{value.text}` is not {kind.words}", next(filter(None, hints), None))

    def _misshapen(self, kind: Kind, value: Value) -> Any:
        return self._reject(value, f"expected is {kind.words}, here is {_shape(value)}")

    def _list(self, kind: ListOf, value: Value, label: str) -> Any:
        if isinstance(value, Scalar) and kind.single:
            value = Sequence((value,), value.offset)
        if not isinstance(value, Sequence):
            hint = f"write it in brackets: [{value.text}]" if isinstance(value, Scalar) and value.text else None
            return self._reject(value, f"{label} must be {kind.words}, not {_shape(value)}", hint)
        if len(value.items) < kind.least:
            return self._reject(value, f"{label} must have at least {kind.least} item")
        found: list[Any] = []
        for number, item in enumerate(value.items):
            read = self.read(kind.item, item, f"item {number + 1} of {label}", str(number))
            if isinstance(item, Scalar) and read in found:
                self._faults.add(f"`{item.text}` is in the list twice", item.offset)
            elif read is not WRONG:
                found.append(read)
        return kind.into(found)

    def _mapping(self, kind: MapOf | Table | Variants, value: yamltext.Mapping, entry: str, offset: int) -> Any:
        if isinstance(kind, MapOf):
            return self._map(kind, value)
        if isinstance(kind, Table):
            return self._table(kind, value, entry, offset)
        chosen = value.get("kind")
        name = chosen.text if isinstance(chosen, Scalar) else ""
        if name in kind.names():
            return self._table(kind.get(name), value, entry, offset)
        message = f"`{name}` is not a kind of {kind.words}" if chosen else "`kind` is missing"
        self._faults.add(message, chosen.offset if chosen else offset, did_you_mean(name, kind.names()))
        return WRONG

    def _map(self, kind: MapOf, value: yamltext.Mapping) -> Any:
        if len(value.entries) < kind.least:
            return self._reject(value, f"there must be at least {kind.least} entry")
        found: dict[str, Any] = {}
        for item in value.entries:
            name = self.read(Text("a name"), item.key, "a name")
            read = self.read(kind.value, item.value, f"`{item.key.text}`", item.key.text, item.key.offset)
            if WRONG not in (name, read):
                found[name] = read
        return MappingProxyType(found)

    def _table(self, table: Table, value: yamltext.Mapping, entry: str, offset: int) -> Any:
        entries = self._entries(table, value)
        values: dict[str, Any] = {}
        for key in table.keys:
            if key.name in entries:
                read = self.read(key.kind, entries[key.name], f"`{key.name}`")
                values[key.attribute] = _neutral(key) if read is WRONG else read
            else:
                values.setdefault(key.attribute, _neutral(key))
        self._count(table, entries, offset)

        def reject(message: str, hint: str = "", at: str = "") -> None:
            self._faults.add(message, entries[at].offset if at in entries else offset, hint or None)

        return table.make(Found(values, frozenset(entries), entry, value.offset, reject))

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

    def _count(self, table: Table, entries: Mapping[str, Value], offset: int) -> None:
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
        if not isinstance(value, Scalar):
            raise _Wrong(f"expected is {kind.words}, here is {_shape(value)}")
        match kind:
            case Name():
                return self._name(kind, value)
            case File():
                return self._folder / _text(Text(kind.words), value)
        return _SCALARS[type(kind)](kind, value)

    def _name(self, kind: Name, value: Scalar) -> str:
        name, known = _text(Text(kind.words), value), self._names.get(kind.words)
        if known is not None and name not in known:
            raise _Wrong(f"`{name}` is not {kind.words}", did_you_mean(name, known))
        return str(name)


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


def _text(kind: Text, value: Scalar) -> Any:
    """A text. One that YAML readers take for something else must be in quotes."""
    text = value.text
    if value.plain and not text:
        raise _Wrong(f"the value is missing, expected is {kind.words}", "write a value or remove the key")
    if value.plain and (_YAML_11.fullmatch(text) or _NUMBER_LIKE.fullmatch(text)):
        message = f"`{text}` is not a text to every reader of YAML, expected is {kind.words}"
        raise _Wrong(message, f'"{text}" in quotes is a text')
    if not text.strip():
        raise _Wrong(f"the text is empty, expected is {kind.words}")
    try:
        return kind.convert(text)
    except ValueError as error:
        raise _Wrong(str(error)) from None


def _choice(kind: Choice, value: Scalar) -> Any:
    if value.text in kind.values:
        return kind.values[value.text]
    raise _Wrong(f"`{value.text}` is not {kind.words}", did_you_mean(value.text, kind.values))


def _version(kind: Version, value: Scalar) -> int:
    if value.plain and value.text == kind.words:
        return int(value.text)
    raise _Wrong(f"only version {kind.words} can be read, not `{value.text}`", f"write `version: {kind.words}`")


def _flag(kind: Flag, value: Scalar) -> bool:
    """`true` or `false`, and none of YAML 1.1's other words."""
    text = value.text
    if value.plain and text in {"true", "false"}:
        return text == "true"
    meant = {True: "true", False: "false"}.get(text.lower() in {"y", "yes", "on", "true"})
    near = difflib.get_close_matches(text, ("true", "false"), n=1)
    hint = f"did you mean `{near[0]}`?" if near and text not in near else f"write {meant}, without quotes"
    raise _Wrong(f"`{text}` is not {kind.words}", hint)


def _whole(kind: Whole, value: Scalar) -> int:
    if value.plain and _WHOLE.fullmatch(value.text) and kind.least <= int(value.text) <= kind.most:
        return int(value.text)
    raise _Wrong(f"`{value.text}` is not {kind.words}", _number_hint(value))


def _number(kind: Number, value: Scalar) -> float:
    form = _SIGNED if kind.least < 0.0 else _NUMBER
    if value.plain and form.fullmatch(value.text) and len(value.text) <= _LONGEST_NUMBER:
        number = float(value.text)
        if kind.least <= number <= kind.most:
            return number
    raise _Wrong(f"`{value.text}` is not {kind.words}", _number_hint(value))


def _number_hint(value: Scalar) -> str | None:
    if not value.plain:
        return "write the number without quotes"
    if _NUMBER_LIKE.fullmatch(value.text) and re.search("[xXoObB_:eE]", value.text):
        return "readers of YAML disagree on this form; write digits only"
    return None


def _quantity(kind: Quantity, value: Scalar) -> float:
    units = "|".join(kind.units)
    match = _matched(rf"({NUMBER})({units})", value, kind.words)
    number = float(match[1]) * kind.units[match[2]]
    if kind.positive and number <= 0.0:
        raise _Wrong("this must be more than 0")
    if number > kind.most:
        raise _Wrong(f"`{value.text}` is more than {shown_quantity(kind, kind.most)}")
    if number < kind.least:
        raise _Wrong(f"`{value.text}` is less than {shown_quantity(kind, kind.least)}")
    return number


def _amount(kind: Amount, value: Scalar) -> Money:
    match = _matched(MONEY + (PER_DAY if kind.per_day else ""), value, kind.words)
    if float(match[1]) <= 0.0:
        raise _Wrong("this must be more than 0")
    return Money(float(match[1]), match[2])


def _matched(form: str, value: Scalar, words: str) -> re.Match[str]:
    match = re.fullmatch(form, value.text) if len(value.text) <= LONGEST_QUANTITY else None
    if match is None:
        raise _Wrong(f"`{value.text}` is not {words}", "write a number and its unit" if value.text else None)
    return match


def shown_quantity(kind: Quantity, value: float) -> str:
    """*value* as a file has it, in the largest unit that it is a whole number of, else in the smallest."""
    for unit, factor in sorted(kind.units.items(), key=lambda pair: -pair[1]):
        number = round(value / factor, 9)
        if number >= 1 and number == int(number):
            return f"{int(number)}{unit}"
    unit, factor = min(kind.units.items(), key=lambda pair: pair[1])
    return f"{value / factor:g}{unit}"


_SHAPES: Final[Mapping[type, type]] = {
    ListOf: Sequence,
    MapOf: yamltext.Mapping,
    Table: yamltext.Mapping,
    Variants: yamltext.Mapping,
}
"""The kinds that are not scalars -> what they look like in YAML."""
_SCALARS: Final[Mapping[type, Callable[[Any, Scalar], Any]]] = {
    Amount: _amount,
    Choice: _choice,
    Expression: lambda _, value: value,
    Flag: _flag,
    Number: _number,
    Quantity: _quantity,
    Text: _text,
    Version: _version,
    Whole: _whole,
}

"""Makes options of a table of keys, and of the options the values that the reader of files reads."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.core.fields import (
    Choice,
    File,
    Flag,
    Key,
    Kind,
    ListOf,
    MapOf,
    Name,
    OneOf,
    Table,
    Text,
    Variants,
    noun_of,
)
from hybrid_llm.policies.reader.plain import KeyFaults
from hybrid_llm.policies.reader.source import Faults
from hybrid_llm.policies.reader.yamltext import Entry, Mapping, Scalar, Sequence, Value, read_yaml

_TEXTS: Final = (Text, Name, File, Choice)
_PAIR: Final = re.compile(r"(?P<name>[^=]+)=(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Option:
    """A key as an option: *path* leads to it, through the tables that it is in."""

    key: Key
    path: tuple[str, ...]

    @property
    def flag(self) -> str:
        """`--learning-rate`."""
        return f"--{self.dest.replace('_', '-').replace('.', '-')}"

    @property
    def dest(self) -> str:
        """Its name among the parsed arguments."""
        return ".".join(self.path)

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.key.required

    @property
    def example(self) -> str:
        """A value for an example."""
        return str(self.key.examples[0]) if self.key.examples else self.path[-1].upper()


def options_of(table: Table, above: tuple[str, ...] = ()) -> tuple[Option, ...]:
    """The keys of *table*, those of tables in it too."""
    return tuple(_flat(table, above))


def _flat(table: Table, above: tuple[str, ...]) -> Iterator[Option]:
    for key in table.keys:
        path = (*above, key.name)
        if isinstance(key.kind, Table):
            yield from _flat(key.kind, path)
        else:
            yield Option(key, path)


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """Add *options* to *parser*; what their values may be is left to the reader."""
    group = parser.add_argument_group("options of the step")
    for option in options:
        group.add_argument(option.flag, dest=option.dest, help=_help(option.key), **_form(option))


def _form(option: Option) -> dict[str, Any]:
    word = option.path[-1].upper()
    match option.key.kind:
        case Flag():
            return {"action": argparse.BooleanOptionalAction}
        case ListOf():
            return {"nargs": "*", "metavar": word}
        case MapOf():
            return {"nargs": "*", "metavar": "NAME=VALUE"}
    return {"metavar": word}


def _help(key: Key) -> str:
    """What the key means; where that leaves it open, what its values are; and its default."""
    noun = "" if isinstance(key.kind, Text | File | Name | MapOf | Flag) else noun_of(key.kind)
    default = "" if key.required or key.default in (None, "", (), {}) else f"default: {_shown(key)}"
    more = "; ".join(part for part in (noun, default) if part)
    return (f"{key.about.rstrip('.')} ({more})" if more else key.about.rstrip(".")).replace("%", "%%")


def _shown(key: Key) -> str:
    if isinstance(key.kind, Choice):
        return next((word for word, value in key.kind.values.items() if value == key.default), str(key.default))
    if isinstance(key.kind, Flag):
        return "yes" if key.default else "no"
    return _written(key.default)


def _written(value: object) -> str:
    """*value* as it is given on the command line."""
    match value:
        case dict():
            return " ".join(f"{name}={_written(one)}" for name, one in value.items())
        case tuple() | list():
            return " ".join(f'"{one}"' if " " in str(one) else _written(one) for one in value)
    return str(value)


def given_values(options: Iterable[Option], args: argparse.Namespace, faults: KeyFaults) -> Mapping:
    """The values on the command line as the reader takes those of a file; offsets in *faults* stand for options."""
    whole, root = _Tree(), faults.number("")
    for option in options:
        given = getattr(args, option.dest)
        if given is not None:
            whole.put(option.path, _value(option.key.kind, given, option.flag, faults))
    return whole.mapping(root)


class _Tree:
    """Values by their paths."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}
        self._tables: dict[str, _Tree] = {}

    def put(self, path: tuple[str, ...], value: Value) -> None:
        first, *rest = path
        if rest:
            self._tables.setdefault(first, _Tree()).put(tuple(rest), value)
        else:
            self._values[first] = value

    def mapping(self, offset: int) -> Mapping:
        found = {**self._values, **{name: table.mapping(offset) for name, table in self._tables.items()}}
        return Mapping(tuple(Entry(_scalar(name, value.offset, '"'), value) for name, value in found.items()), offset)


def _value(kind: Kind, given: Any, flag: str, faults: KeyFaults) -> Value:
    offset = faults.number(flag)
    match kind:
        case Flag():
            return _scalar(str(given).lower(), offset)
        case ListOf():
            return Sequence(tuple(_value(kind.item, one, flag, faults) for one in given), offset)
        case MapOf():
            return Mapping(tuple(_pair(kind, one, flag, faults) for one in given), offset)
        case Table() | Variants():
            return _yaml(given, offset)
        case OneOf() if any(not isinstance(one, _TEXTS) for one in kind.kinds):
            return _yaml(given, offset)
    return _scalar(given, offset, '"' if isinstance(kind, (*_TEXTS, OneOf)) else "")


def _pair(kind: MapOf, given: str, flag: str, faults: KeyFaults) -> Entry:
    match = _PAIR.fullmatch(given)
    if match is None:
        faults.add(f"`{given}` is not NAME=VALUE", faults.number(flag))
        match = _PAIR.fullmatch(f"{given}=0")
        assert match is not None
    return Entry(_scalar(match["name"], faults.number(flag), '"'), _value(kind.value, match["value"], flag, faults))


def _yaml(text: str, offset: int) -> Value:
    """A value that is written as in a recipe."""
    read = read_yaml(text, Faults(text, "", "the value")) if text else None
    if read is None:
        return _scalar(text, offset)
    return _placed(read, offset)


def _placed(value: Value, offset: int) -> Value:
    """*value* with the offset of its option."""
    match value:
        case Scalar():
            return _scalar(value.text, offset, value.quoted)
        case Sequence():
            return Sequence(tuple(_placed(item, offset) for item in value.items), offset)
    entries = (Entry(_scalar(one.key.text, offset, '"'), _placed(one.value, offset)) for one in value.entries)
    return Mapping(tuple(entries), offset)


def _scalar(text: str, offset: int, quoted: str = "") -> Scalar:
    return Scalar(text, offset, offset, text, quoted)

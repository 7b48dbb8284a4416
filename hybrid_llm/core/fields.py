"""Declares the keys of configuration files: one line for each key, from which checks, schemas and docs are made.

A table is a frozen dataclass whose fields are made by `key`:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class RecordSpec:
        path: Path = key(File(), "Where decisions are recorded.")
        max_mb: int = key(Whole(1, 100_000), "Size of one file, MiB.", default=64)

This module holds data only. `policies.reader` reads YAML into such records, reports what is wrong with line and column,
and writes the JSON Schema and the Markdown table of the same keys.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, Final

from hybrid_llm.core.hosts import canonical_address, canonical_host

_METADATA: Final = "hybrid_llm.key"
_LARGEST: Final = 10**9 - 1
SECONDS: Final[Mapping[str, float]] = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Units of a duration, in seconds."""


@dataclass(frozen=True, slots=True)
class Flag:
    """`true` or `false`."""

    words: ClassVar[str] = "true or false"


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition of a rule, which is returned with its position in the file."""

    words: ClassVar[str] = "a condition"


@dataclass(frozen=True, slots=True)
class Version:
    """The version of the format."""

    words: ClassVar[str] = "1"


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is not empty. *convert* makes the value, or raises `ValueError` with the message to report."""

    words: str = "a text"
    pattern: str = r"\S"
    """A regular expression that every valid text matches somewhere; for JSON Schema."""
    convert: Callable[[str], Any] = str


def _as_written(check: Callable[[str], object]) -> Callable[[str], str]:
    """The text itself, once *check* has not raised."""

    def convert(text: str) -> str:
        check(text)
        return text

    return convert


ADDRESS: Final = Text("HOST:PORT", ":[0-9]{1,5}$", _as_written(canonical_address))
"""A host name or address, with its port; an IPv6 address stands in brackets."""
HOST: Final = Text("a host name", r"\S", _as_written(canonical_host))
"""A host name or an IP address."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name that is declared elsewhere; *words*, such as "a detector", select the names that the reader knows."""

    words: str


@dataclass(frozen=True, slots=True)
class File:
    """A path, relative to the folder of the file that names it.

    With *names*, one of these stands for its path, and any other word must be a path that exists or has a slash; the
    hint about one that does not ends with *remedy*.
    """

    words: str = "a path"
    names: Callable[[], Mapping[str, Any]] | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words, each of which stands for a value; *noun* is what they are, such as "a location"."""

    values: Mapping[str, Any]
    noun: str = ""

    @classmethod
    def of(cls, *words: str) -> Choice:
        """Words that stand for themselves; members of a `StrEnum` too."""
        return cls({str(word): word for word in words})

    @property
    def words(self) -> str:
        """The kind in messages."""
        listed = any_of(f"`{word}`" for word in self.values)
        return f"{self.noun}: {listed}" if self.noun else listed


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from *least* to *most*."""

    least: int = 0
    most: int = _LARGEST

    @property
    def words(self) -> str:
        """The kind in messages."""
        return f"a whole number {_span(self.least, self.most, _LARGEST)}"


@dataclass(frozen=True, slots=True)
class Number:
    """A number from *least* to *most*."""

    least: float = 0.0
    most: float = math.inf

    @property
    def words(self) -> str:
        """The kind in messages."""
        return "a number" if math.isinf(self.least) else f"a number {_span(self.least, self.most, math.inf)}"


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit. *units* maps each unit to its factor in the value that is read."""

    words: str
    units: Mapping[str, float]
    positive: bool = True
    least: float = 0.0
    most: float = math.inf


def duration(unit: str = "s", least: float = 0.0, most: float = math.inf, *, positive: bool = True) -> Quantity:
    """A duration, read as a number of *unit*; *least* and *most* are in that unit."""
    units = {name: seconds / SECONDS[unit] for name, seconds in SECONDS.items()}
    return Quantity("a duration such as 400ms", units, positive, least, most)


def percentage(whole: float = 1.0, most: float = 1.0) -> Quantity:
    """A percentage, read so that 100 % is *whole*."""
    return Quantity("a percentage such as 10%", {"%": whole / 100.0}, positive=False, most=most)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in a currency, by its three letters of ISO 4217."""

    amount: float
    currency: str


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of money of more than 0, in total or *per_day*; it is read as `Money`."""

    per_day: bool = False

    @property
    def words(self) -> str:
        """The kind in messages."""
        return "an amount for each day, such as 5 USD/day" if self.per_day else "an amount such as 0.02 USD"


@dataclass(frozen=True, slots=True)
class ListOf:
    """Items of one kind, each once; *single* lets one item stand without brackets."""

    item: Kind
    least: int = 0
    most: int = 1_000_000
    single: bool = False
    into: Callable[[Iterable[Any]], Any] = tuple

    @property
    def words(self) -> str:
        """The kind in messages."""
        noun = noun_of(self.item)
        return f"{noun}, or a list of them" if self.single else f"a list, each item {noun}"


@dataclass(frozen=True, slots=True)
class MapOf:
    """Values of one kind under names of the user's choice."""

    value: Kind
    least: int = 0
    name: Text | Name = Text("a name")

    @property
    def words(self) -> str:
        """The kind in messages."""
        return f"a mapping of names, each to {noun_of(self.value)}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """A value of the first of *kinds* that it fits."""

    kinds: tuple[Kind, ...]

    @property
    def words(self) -> str:
        """The kind in messages."""
        return any_of(kind.words for kind in self.kinds)


def one_of(*kinds: Kind) -> Kind:
    """A value of one of *kinds*."""
    return OneOf(kinds) if len(kinds) > 1 else kinds[0]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table. *attribute* is what takes its value in the record; by default it has the same name."""

    name: str
    kind: Kind
    about: str
    attribute: str = ""
    default: Any = None
    required: bool = False
    hint: str = ""
    examples: tuple[Any, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attribute", self.attribute or self.name)


VERSION: Final = Key("version", Version(), "The version of the format.", required=True, hint="begin with version: 1")
"""The first key of every file."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file has for one table, for the function that makes the record and checks keys against each other."""

    values: Mapping[str, Any]
    """Attribute -> value; a default, or a neutral value, where the file has none or a wrong one."""
    present: frozenset[str]
    """The keys that the file has."""
    wrong: frozenset[str]
    """Those of them whose values were reported."""
    name: str
    """The name of an entry of a mapping, the number of an item of a list, or empty."""
    offset: int
    """Where its entry begins, in characters from the start of the file."""
    reject: Callable[..., None]
    """Reports a message and a hint at a key, or at the whole table where the key is empty: `reject(text, hint, at)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A mapping with fixed keys. *title* names it in messages and schemas."""

    title: str
    about: str
    keys: tuple[Key, ...]
    """Several keys of one attribute are alternatives, of which a file has one."""
    make: Callable[[Found], Any]
    exactly_one: tuple[str, ...] = ()
    """Of these keys the file must have exactly one."""
    reserved: tuple[str, ...] = ()
    """Keys of a later version, which are rejected by name."""
    json: Mapping[str, Any] | None = None
    """Further keywords for JSON Schema: what holds between keys."""

    @property
    def words(self) -> str:
        """The kind in messages."""
        return f"a mapping with the keys {', '.join(key.name for key in self.keys)}"


@dataclass(frozen=True, slots=True)
class Variants:
    """A mapping whose key `kind` selects the table of its other keys; *noun* says what it is a kind of."""

    noun: str
    names: Callable[[], Collection[str]]
    """The names of all kinds."""
    get: Callable[[str], Table]
    """The table of a kind; it may import the module that declares it."""

    @property
    def words(self) -> str:
        """The kind in messages."""
        return f"a mapping with the key kind: {any_of(self.names())}"


Scalar = Flag | Expression | Version | Text | Name | File | Choice | Whole | Number | Quantity | Amount
Kind = Scalar | ListOf | MapOf | OneOf | Table | Variants
"""What a value may be. Every kind has `words`, its name in messages: "`x` is not a whole number from 0 to 10"."""


def key(
    kind: Kind,
    about: str,
    *,
    default: Any = MISSING,
    name: str = "",
    hint: str = "",
    examples: tuple[Any, ...] = (),
    source: str = "",
) -> Any:
    """A field of a record that is a key of a file; without *default* the key is required.

    Args:
        kind: What the value may be.
        about: One sentence for users: what the key means, with its unit.
        default: The value where the file has none.
        name: The name in the file, where it differs from that of the attribute.
        hint: What to write where the key is missing.
        examples: Values as they stand in a file.
        source: Where the default comes from: measured, cited or assumed.
    """
    required = default is MISSING
    declared = Key(name, kind, about, "", None if required else default, required, hint, examples, source)
    metadata = {_METADATA: declared}
    if not required and type(default).__hash__ is None:  # dataclasses take it for a mutable default
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


def keys_of(record: type) -> tuple[Key, ...]:
    """The keys that *record* declares, in its order."""
    declared = ((item.name, item.metadata.get(_METADATA)) for item in fields(record))
    return tuple(replace(key, name=key.name or name, attribute=name) for name, key in declared if key is not None)


def table(
    record: type,
    title: str,
    *,
    make: Callable[[Found], Any] | None = None,
    extra: tuple[Key, ...] = (),
    **options: Any,
) -> Table:
    """The table that *record* declares; its docstring is the description.

    *make* replaces the plain constructor. *extra* are keys that come first and are no fields of *record*; *options* are
    further fields of the table.
    """
    return Table(
        title=title,
        about=" ".join((inspect.getdoc(record) or "").split("\n\n")[0].split()),
        keys=(*extra, *keys_of(record)),
        make=make or (lambda found: record(**found.values)),
        **options,
    )


def declared(record: type) -> Table | None:
    """What `table()` of *record* returns, where its keys depend on each other; None if it has none."""
    return record.table() if hasattr(record, "table") else None


def noun_of(kind: Kind) -> str:
    """The kind in one phrase: a table by its title, such as "a rule", others by their words."""
    match kind:
        case Table():
            return kind.title
        case Variants():
            return f"a {kind.noun}"
    return kind.words


def _span(least: float, most: float, unlimited: float) -> str:
    return f"of at least {_plain(least)}" if most == unlimited else f"from {_plain(least)} to {_plain(most)}"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


def any_of(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last

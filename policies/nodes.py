"""The nouns of the expression language: types, quantities and the tree that the parser builds, and ways to walk it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "BOOL",
    "DOUBLE",
    "DURATION",
    "INT",
    "MONEY",
    "PERCENT",
    "STRING",
    "UNKNOWN",
    "Binary",
    "Call",
    "Conditional",
    "Field",
    "Has",
    "ListOf",
    "Literal",
    "Logic",
    "Negate",
    "Node",
    "Not",
    "Type",
    "atoms_of",
    "children",
    "fields_of",
]


@dataclass(frozen=True, slots=True)
class Type:
    """A type of the language. *unit* tells which quantity may stand beside a value.

    Units are ms, mb, share, percent and money; of a literal of money, its currency.
    """

    kind: str
    unit: str = ""
    item: Type | None = None

    @property
    def numeric(self) -> bool:
        """Int and double."""
        return self.kind in {"int", "double"}

    def __str__(self) -> str:
        return f"list({self.item})" if self.item is not None else self.kind


INT = Type("int")
DOUBLE = Type("double")
STRING = Type("string")
BOOL = Type("bool")
DURATION = Type("duration")
"""A literal such as `400ms`; its value is in ms."""
PERCENT = Type("percent")
"""A literal such as `20%`; its value is 20.0."""
MONEY = Type("money")
"""A literal such as `0.02 USD`, before its currency is known."""
UNKNOWN = Type("unknown")
"""What a fault leaves behind: it agrees with everything, so that one mistake is told once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """*start* and *end* are offsets in the expression; *type* is filled in by the checker."""

    start: int
    end: int
    type: Type = UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal(_Base):
    """A value as written."""

    value: bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOf(_Base):
    """`[a, b]`: items of one type."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field(_Base):
    """A name such as `device.battery`. *key* is its canonical name, once it is resolved."""

    path: tuple[str, ...]
    key: str = ""

    @property
    def name(self) -> str:
        """The name as written."""
        return ".".join(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Has(_Base):
    """`has(device.battery)`."""

    field: Field


@dataclass(frozen=True, slots=True, kw_only=True)
class Not(_Base):
    """`!a`."""

    item: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Negate(_Base):
    """`-a`."""

    item: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Logic(_Base):
    """`a && b && c`, or the same with `||`."""

    op: str
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary(_Base):
    """Arithmetic, comparison or `in`; *at* is the offset of the operator."""

    op: str
    left: Node
    right: Node
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditional(_Base):
    """`condition ? then : otherwise`."""

    condition: Node
    then: Node
    otherwise: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(_Base):
    """A declared function; of a method call, the receiver is the first argument."""

    function: str
    args: tuple[Node, ...]


Node = Literal | ListOf | Field | Has | Not | Negate | Logic | Binary | Conditional | Call


def children(node: Node) -> tuple[Node, ...]:
    """The parts of *node*, in the order of the text."""
    match node:
        case Has():
            return (node.field,)
        case Not() | Negate():
            return (node.item,)
        case Binary():
            return (node.left, node.right)
        case Conditional():
            return (node.condition, node.then, node.otherwise)
        case ListOf(items=parts) | Logic(items=parts) | Call(args=parts):
            return parts
        case _:
            return ()


def fields_of(node: Node) -> Iterator[Field]:
    """Every field that *node* reads or asks has() for, in the order of the text."""
    if isinstance(node, Field):
        yield node
    for child in children(node):
        yield from fields_of(child)


def atoms_of(node: Node) -> Iterator[Node]:
    """The sub-conditions that `&&`, `||`, `!` and `?:` put together."""
    if isinstance(node, Logic | Not | Conditional):
        for child in children(node):
            yield from atoms_of(child)
    elif node.type == BOOL:
        yield node

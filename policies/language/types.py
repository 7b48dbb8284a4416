"""The types, units and syntax tree of the expression language, and the types that may be combined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Type:
    """A type of the language. *unit* says which quantities the value can meet.

    Units are ms, mb, share, percent and money; for a literal of money, its currency.
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
"""The type after an error: it agrees with every type, so that one mistake is reported once."""


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
class Unary(_Base):
    """`!a` or `-a`."""

    op: str
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


Node = Literal | ListOf | Field | Has | Unary | Logic | Binary | Conditional | Call


def children(node: Node) -> tuple[Node, ...]:
    """The parts of *node*, in the order of the text."""
    match node:
        case Has():
            return (node.field,)
        case Unary():
            return (node.item,)
        case Binary():
            return (node.left, node.right)
        case Conditional():
            return (node.condition, node.then, node.otherwise)
        case ListOf(items=parts) | Logic(items=parts) | Call(args=parts):
            return parts
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """*node* and all nodes below it, in the order of the text."""
    yield node
    for child in children(node):
        yield from walk(child)


def fields_of(node: Node) -> Iterator[Field]:
    """Every field that *node* reads or tests with has(), in the order of the text."""
    return (part for part in walk(node) if isinstance(part, Field))


def texts_of(node: Node) -> Iterator[tuple[str, int]]:
    """A literal text, or those of a list, each with its offset."""
    for item in node.items if isinstance(node, ListOf) else (node,):
        if isinstance(item, Literal) and isinstance(item.value, str):
            yield item.value, item.start


def atoms_of(node: Node) -> Iterator[Node]:
    """The sub-conditions that `&&`, `||`, `!` and `?:` combine."""
    if isinstance(node, Logic | Conditional) or (isinstance(node, Unary) and node.op == "!"):
        for child in children(node):
            yield from atoms_of(child)
    elif node.type == BOOL:
        yield node


_DIVISORS = {
    ("duration", "ms"): 1.0,
    ("percent", "share"): 100.0,
    ("percent", "percent"): 1.0,
    ("money", "money"): 1.0,
}
"""Kind of the literal and unit of the field that it meets -> divisor of the literal's value."""
_RATIOS = frozenset({"ms", "mb", "money"})
"""Units whose ratio is a share."""
_NAMES = {"money": "an amount of money", "ms": "ms", "mb": "MiB", "share": "a share", "percent": "a percentage"}


def in_unit_of(node: Node, other: Type) -> Node:
    """*node*, a quantity or a list of quantities that meets type *other*, as numbers in the unit of *other*."""
    if isinstance(node, ListOf):
        items = tuple(in_unit_of(item, other) for item in node.items)
        return replace(node, items=items, type=Type("list", item=items[0].type)) if items != node.items else node
    if not isinstance(node, Literal) or not isinstance(node.value, float):
        return node
    divisor = _DIVISORS.get((node.type.kind, other.unit)) if other.kind == "double" else None
    return node if divisor is None else replace(node, value=node.value / divisor, type=other)


def result_type(op: str, left: Type, right: Type) -> Type | None:
    """The type of `left op right`; None if the operator does not take the two."""
    if left == STRING and right == STRING:
        return STRING if op == "+" else None
    if left.kind != right.kind or left.kind not in {"int", "double", "duration", "money"}:
        return None
    if left == INT:
        return INT
    if op == "%" or (left.kind != "double" and op not in "+-"):
        return None
    return left if left.kind != "double" else _double(op, left, right)


def _double(op: str, left: Type, right: Type) -> Type | None:
    """Sums need one unit; an amount stays one when it is scaled; the ratio of two alike is a share."""
    if op in "+-":
        return Type("double", left.unit or right.unit) if may_meet(left, right) else None
    if op == "/" and left.unit == right.unit and left.unit in _RATIOS:
        return Type("double", "share")
    if left.unit == "money" and not right.unit:
        return left
    return right if op == "*" and right.unit == "money" and not left.unit else Type("double")


def may_meet(left: Type, right: Type) -> bool:
    """Whether the two have one unit, or one of them has none."""
    return not left.unit or not right.unit or left.unit == right.unit


def same(left: Type, right: Type) -> bool:
    """Whether the two are of one kind; the type after an error agrees with every type."""
    if "unknown" in (left.kind, right.kind):
        return True
    if left.item is not None and right.item is not None:
        return same(left.item, right.item)
    return left.kind == right.kind


def joined(left: Type, right: Type) -> Type:
    """The more specific of two types that agree: `[]` beside `[[1]]` is a list of lists too."""
    if left.item is not None and right.item is not None:
        return Type("list", item=joined(left.item, right.item))
    return right if left.kind == "unknown" else left


def clash_hint(left: Type, right: Type) -> str | None:
    """What to write if two types do not agree."""
    if DURATION in (left, right):
        return "a duration compares with a field that ends in _ms, or with another duration"
    if PERCENT in (left, right):
        return "a percentage compares with a field that is a share, such as device.battery"
    if "money" in (left.kind, right.kind):
        return "an amount of money compares with a price or a budget, such as budget.left"
    if not may_meet(left, right):
        return f"the left is {_NAMES[left.unit]}, the right {_NAMES[right.unit]}"
    return None


def article(kind: str) -> str:
    """*kind* with its article."""
    return _NAMES.get(kind) or (f"an {kind}" if kind[0] in "aeiou" else f"a {kind}")


def named(kind: Type) -> str:
    """A type as errors name it, with its unit: `a double`, `a double (ms)`."""
    return f"a double ({kind.unit})" if kind.kind == "double" and kind.unit else article(str(kind))

"""What units mean: a literal such as `400ms` beside a field, and which types may meet. It resolves no names."""

from __future__ import annotations

from dataclasses import replace

from hybrid_llm.policies.nodes import (
    DURATION,
    INT,
    PERCENT,
    STRING,
    ListOf,
    Literal,
    Node,
    Type,
)

__all__ = ["article", "clash_hint", "in_unit_of", "joined", "may_meet", "named", "result_type", "same"]

_DIVISORS = {
    ("duration", "ms"): 1.0,
    ("percent", "share"): 100.0,
    ("percent", "percent"): 1.0,
    ("money", "money"): 1.0,
}
"""Literal and unit of the field beside it -> by what the literal's value is divided."""
_RATIOS = frozenset({"ms", "mb", "money"})
"""One of these divided by another of the same unit is a share."""
_NAMES = {"money": "an amount of money", "ms": "ms", "mb": "MiB", "share": "a share", "percent": "a percentage"}


def in_unit_of(node: Node, other: Type) -> Node:
    """*node*, a quantity or a list of them beside something of type *other*, as numbers of the unit of that."""
    if isinstance(node, ListOf):
        items = tuple(in_unit_of(item, other) for item in node.items)
        return replace(node, items=items, type=Type("list", item=items[0].type)) if items != node.items else node
    if not isinstance(node, Literal) or not isinstance(node.value, float):
        return node
    divisor = _DIVISORS.get((node.type.kind, other.unit)) if other.kind == "double" else None
    return node if divisor is None else replace(node, value=node.value / divisor, type=other)


def result_type(op: str, left: Type, right: Type) -> Type | None:
    """The type of `left op right`; None where the operator does not take the two."""
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
    """Are the two of one unit, or is one without a unit?"""
    return not left.unit or not right.unit or left.unit == right.unit


def same(left: Type, right: Type) -> bool:
    """Are the two of one kind? What a fault left behind agrees with everything."""
    if "unknown" in (left.kind, right.kind):
        return True
    if left.item is not None and right.item is not None:
        return same(left.item, right.item)
    return left.kind == right.kind


def joined(left: Type, right: Type) -> Type:
    """The type that says more of two that are the same: `[]` beside `[[1]]` is a list of lists too."""
    if left.item is not None and right.item is not None:
        return Type("list", item=joined(left.item, right.item))
    return right if left.kind == "unknown" else left


def clash_hint(left: Type, right: Type) -> str | None:
    """What to write where two types do not fit."""
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
    """A type as errors name it, its unit where it has one: `a double`, `a double (ms)`."""
    return f"a double ({kind.unit})" if kind.kind == "double" and kind.unit else article(str(kind))

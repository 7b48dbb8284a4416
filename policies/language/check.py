"""Resolves the names of an expression and checks its types; all errors of an expression are reported at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from hybrid_llm.policies.language.parser import unsupported_name
from hybrid_llm.policies.language.runtime import compile_pattern
from hybrid_llm.policies.language.schema import FieldSpec, Schema
from hybrid_llm.policies.language.types import (
    BOOL,
    DOUBLE,
    INT,
    STRING,
    UNKNOWN,
    Binary,
    Call,
    Conditional,
    Field,
    Has,
    ListOf,
    Literal,
    Logic,
    Negate,
    Node,
    Not,
    Type,
    article,
    children,
    clash_hint,
    in_unit_of,
    joined,
    may_meet,
    named,
    result_type,
    same,
)
from hybrid_llm.policies.reader.source import did_you_mean

Report = Callable[[str, int, str | None], None]
"""Takes a message, an offset in the expression and a hint."""

_COMPARISONS = frozenset({"<", "<=", ">", ">="})
_ORDERED = frozenset({"int", "double", "string", "duration", "percent", "money", "bool"})
_MAX_PATTERN = 500


class Checker:
    """Checks the expressions of one policy against its schema and its declared tags.

    *currency* is that of the objectives; if they have none, the first amount in an expression sets it.
    """

    def __init__(self, schema: Schema, tags: frozenset[str], currency: str | None = None) -> None:
        self._schema = schema
        self._tags = tags
        self._currency = currency

    def condition(self, node: Node, report: Report) -> Node:
        """The typed tree of *node*, which must be a bool; errors go to *report*."""
        typed = self.expression(node, report)
        if typed.type not in (BOOL, UNKNOWN):
            report(f"a condition must be a bool, this is {named(typed.type)}", typed.start, "compare it with something")
        return typed

    def expression(self, node: Node, report: Report) -> Node:
        """The typed tree of *node*, of any type; errors go to *report*."""
        self._check_money(node, report)
        return _Pass(self._schema, self._tags, report).check(node)

    def _check_money(self, node: Node, report: Report) -> None:
        """Report amounts in a second currency; nothing is converted."""
        if isinstance(node, Literal) and node.type.kind == "money":
            self._currency = self._currency or node.type.unit
            if node.type.unit != self._currency:
                hint = f"write it in {self._currency}; nothing is converted"
                report(f"this policy counts in {self._currency}, this amount is in {node.type.unit}", node.start, hint)
        for child in children(node):
            self._check_money(child, report)


class _Pass:
    def __init__(self, schema: Schema, tags: frozenset[str], report: Report) -> None:
        self._schema = schema
        self._tags = tags
        self._report = report

    def check(self, node: Node) -> Node:
        match node:
            case Literal():
                return node
            case Field():
                return self._field(node)
            case Has():
                return replace(node, field=self._field(node.field), type=BOOL)
            case Not() | Negate():
                return self._unary(node)
            case Logic():
                return replace(node, items=tuple(self._bool(item, f"`{node.op}`") for item in node.items), type=BOOL)
            case _:
                return self._compound(node)

    def _compound(self, node: Binary | Conditional | Call | ListOf) -> Node:
        match node:
            case ListOf():
                return self._list(node)
            case Conditional():
                return self._conditional(node)
            case Call():
                return self._call(node)
            case Binary():
                return self._binary(node)

    def _error(self, message: str, offset: int, hint: str | None = None) -> None:
        self._report(message, offset, hint)

    def _bool(self, node: Node, purpose: str) -> Node:
        typed = self.check(node)
        if typed.type not in (BOOL, UNKNOWN):
            self._error(f"{purpose} needs a bool, this is {named(typed.type)}", typed.start)
        return typed

    def _field(self, node: Field) -> Field:
        spec = self._resolve(node)
        return node if spec is None else replace(node, key=spec.key, type=spec.type)

    def _resolve(self, node: Field) -> FieldSpec | None:
        root, *rest = node.path
        known = self._schema.fields(root)
        if not known:
            message, hint = unsupported_name(root) or (f"there is no `{root}`", did_you_mean(root, self._schema.roots))
            self._error(message, node.start, hint)
        elif not rest:
            self._error(f"`{root}` is a group of fields, not a value", node.start, did_you_mean("", known))
        elif rest[0] not in known:
            offset = node.start + len(root) + 1
            self._error(f"`{root}` has no field `{rest[0]}`", offset, did_you_mean(rest[0], known))
        elif len(rest) > 1:
            self._error(f"`{root}.{rest[0]}` has no fields", node.start)
        else:
            return known[rest[0]]
        return None

    def _unary(self, node: Not | Negate) -> Node:
        if isinstance(node, Not):
            return replace(node, item=self._bool(node.item, "`!`"), type=BOOL)
        item = self.check(node.item)
        if not item.type.numeric and item.type is not UNKNOWN:
            self._error(f"`-` needs a number, this is {named(item.type)}", item.start)
            return replace(node, item=item)
        return replace(node, item=item, type=item.type)

    def _list(self, node: ListOf) -> Node:
        items = tuple(self.check(item) for item in node.items)
        kinds = [item.type for item in items if item.type is not UNKNOWN]
        odd = next((item for item in items if kinds and not same(item.type, kinds[0])), None)
        if odd is not None:
            self._error(f"a list holds one type: {kinds[0]} first, and here {named(odd.type)}", odd.start)
        kind = functools.reduce(joined, kinds) if kinds and odd is None else UNKNOWN
        return replace(node, items=items, type=Type("list", item=kind))

    def _conditional(self, node: Conditional) -> Node:
        condition = self._bool(node.condition, "`?`")
        then, otherwise = self._fit(self.check(node.then), self.check(node.otherwise))
        if not same(then.type, otherwise.type):
            self._error(f"both values of `?` must have one type: {then.type} and {otherwise.type}", otherwise.start)
            return replace(node, condition=condition, then=then, otherwise=otherwise)
        kind = otherwise.type if then.type is UNKNOWN else then.type
        return replace(node, condition=condition, then=then, otherwise=otherwise, type=kind)

    def _call(self, node: Call) -> Node:
        args = tuple(self.check(arg) for arg in node.args)
        typed = replace(node, args=args)
        match node.function:
            case "size":
                self._need(args[0], "size()", "string", "list")
                return replace(typed, type=INT)
            case "double":
                self._need(args[0], "double()", "int", "double")
                return replace(typed, type=DOUBLE)
            case _:
                for arg in args:
                    self._need(arg, f"{node.function}()", "string")
                if node.function == "matches":
                    self._pattern(args[1])
                return replace(typed, type=BOOL)

    def _pattern(self, node: Node) -> None:
        """Compile the pattern of `matches` once, so that a bad one is reported with its position."""
        if not isinstance(node, Literal) or not isinstance(node.value, str):
            if node.type in (STRING, UNKNOWN):
                self._error("the pattern of matches() must be a text in quotes", node.start, "it is compiled at load")
            return
        if len(node.value) > _MAX_PATTERN:
            self._error(f"the pattern is longer than {_MAX_PATTERN} characters", node.start, "split it")
            return
        try:
            compile_pattern(node.value)
        except ValueError as error:
            hint = "patterns are those of RE2, without look-around and back-references; r'...' keeps backslashes"
            self._error(f"this is not a pattern: {error}", node.start, hint)

    def _need(self, node: Node, purpose: str, *kinds: str) -> None:
        if node.type.kind not in (*kinds, "unknown"):
            self._error(
                f"{purpose} needs {' or '.join(article(kind) for kind in kinds)}, this is {named(node.type)}",
                node.start,
            )

    def _binary(self, node: Binary) -> Node:
        left, right = self._fit(self.check(node.left), self.check(node.right))
        typed = replace(node, left=left, right=right)
        if node.op == "in":
            return self._membership(typed)
        self._tag_literals(left, right)
        if UNKNOWN in (left.type, right.type):
            return replace(typed, type=BOOL if node.op in _COMPARISONS or node.op in {"==", "!="} else UNKNOWN)
        if node.op in _COMPARISONS or node.op in {"==", "!="}:
            return self._comparison(typed)
        return self._arithmetic(typed)

    def _fit(self, left: Node, right: Node) -> tuple[Node, Node]:
        """Turn a quantity that meets a field with a unit into a number of that unit."""
        return in_unit_of(left, right.type), in_unit_of(right, left.type)

    def _comparison(self, node: Binary) -> Node:
        left, right = node.left.type, node.right.type
        agree = may_meet(left, right) and (same(left, right) or (left.numeric and right.numeric))
        if not agree:
            self._error(
                f"`{node.op}` cannot compare {named(left)} with {named(right)}", node.at, clash_hint(left, right)
            )
        elif node.op in _COMPARISONS and left.kind not in _ORDERED:
            self._error(f"`{node.op}` has no order for {named(left)}", node.at, "test membership with `in`")
        self._known_values(node)
        return replace(node, type=BOOL)

    def _arithmetic(self, node: Binary) -> Node:
        left, right = node.left.type, node.right.type
        kind = result_type(node.op, left, right)
        if kind is None:
            mixed = left.numeric and right.numeric and left.kind != right.kind
            hint = "write 100.0 instead of 100, or double(...)" if mixed else clash_hint(left, right)
            self._error(f"`{node.op}` does not take {named(left)} and {named(right)}", node.at, hint)
            return node
        return replace(node, type=kind)

    def _membership(self, node: Binary) -> Node:
        item, group = node.left.type, node.right.type
        if group.kind not in {"list", "unknown"}:
            hint = "write text.contains(part)" if group == STRING else None
            self._error(f"`in` needs a list on the right, this is {named(group)}", node.right.start, hint)
        elif group.item is not None and not same(item, group.item) and not (item.numeric and group.item.numeric):
            self._error(f"{named(item)} is never in {named(group)}", node.at)
        self._tag_literals(node.left, node.right)
        self._known_values(node)
        return replace(node, type=BOOL)

    def _tag_literals(self, left: Node, right: Node) -> None:
        """Report tags that the policy does not declare: no request can have them."""
        for side, other in ((left, right), (right, left)):
            if isinstance(other, Field) and other.key == "request.tags":
                self._literals(side, self._tags, "is not a declared tag")

    def _known_values(self, node: Binary) -> None:
        for side, other in ((node.left, node.right), (node.right, node.left)):
            values = self._values(other)
            if values:
                self._literals(side, values, f"is not a value of {_text(other)}")

    def _values(self, node: Node) -> frozenset[str]:
        if not isinstance(node, Field) or len(node.path) != 2:
            return frozenset()
        spec = self._schema.fields(node.path[0]).get(node.path[1])
        return spec.values if spec else frozenset()

    def _literals(self, node: Node, known: frozenset[str], message: str) -> None:
        for item in node.items if isinstance(node, ListOf) else (node,):
            if isinstance(item, Literal) and isinstance(item.value, str) and item.value not in known:
                self._error(f'"{item.value}" {message}', item.start, did_you_mean(item.value, known))


def _text(node: Node) -> str:
    return node.name if isinstance(node, Field) else "this"

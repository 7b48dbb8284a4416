"""Resolves the names of an expression and checks its types; all errors of an expression are reported at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from hybrid_llm.policies.language import types
from hybrid_llm.policies.language.parser import unsupported_name
from hybrid_llm.policies.language.runtime import compile_pattern
from hybrid_llm.policies.language.schema import FieldSpec, Schema
from hybrid_llm.policies.language.types import Node, article, named
from hybrid_llm.policies.reader.source import did_you_mean

Report = Callable[[str, int, str | None], None]
"""Takes a message, an offset in the expression and a hint."""

_ORDERING = frozenset({"<", "<=", ">", ">="})
_COMPARISONS = _ORDERING | {"==", "!="}
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
        self._report: Report

    def condition(self, node: Node, report: Report) -> Node:
        """The typed tree of *node*, which must be a bool; errors go to *report*."""
        typed = self.expression(node, report)
        if typed.type not in (types.BOOL, types.UNKNOWN):
            report(f"a condition must be a bool, this is {named(typed.type)}", typed.start, "compare it with something")
        return typed

    def expression(self, node: Node, report: Report) -> Node:
        """The typed tree of *node*, of any type; errors go to *report*."""
        self._report = report
        self._check_money(node)
        return self._check(node)

    def _check_money(self, node: Node) -> None:
        """Report amounts in a second currency; nothing is converted."""
        for part in types.walk(node):
            if part.type.kind == "money":
                self._currency = self._currency or part.type.unit
                if part.type.unit != self._currency:
                    hint = f"write it in {self._currency}; nothing is converted"
                    message = f"this policy counts in {self._currency}, this amount is in {part.type.unit}"
                    self._error(message, part.start, hint)

    def _check(self, node: Node) -> Node:
        match node:
            case types.Field():
                return self._field(node)
            case types.Has():
                return replace(node, field=self._field(node.field), type=types.BOOL)
            case types.Unary():
                return self._unary(node)
            case types.Logic() | types.ListOf():
                return self._several(node)
            case types.Conditional():
                return self._conditional(node)
            case types.Call():
                return self._call(node)
            case types.Binary():
                return self._binary(node)
        return node

    def _error(self, message: str, offset: int, hint: str | None = None) -> None:
        self._report(message, offset, hint)

    def _bool(self, node: Node, purpose: str) -> Node:
        typed = self._check(node)
        self._need(typed, purpose, "bool")
        return typed

    def _field(self, node: types.Field) -> types.Field:
        spec = self._resolve(node)
        return node if spec is None else replace(node, key=spec.key, type=spec.type)

    def _resolve(self, node: types.Field) -> FieldSpec | None:
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

    def _unary(self, node: types.Unary) -> Node:
        if node.op == "!":
            return replace(node, item=self._bool(node.item, "`!`"), type=types.BOOL)
        item = self._check(node.item)
        if not item.type.numeric and item.type is not types.UNKNOWN:
            self._error(f"`-` needs a number, this is {named(item.type)}", item.start)
            return replace(node, item=item)
        return replace(node, item=item, type=item.type)

    def _several(self, node: types.Logic | types.ListOf) -> Node:
        if isinstance(node, types.Logic):
            items = tuple(self._bool(item, f"`{node.op}`") for item in node.items)
            return replace(node, items=items, type=types.BOOL)
        items = tuple(self._check(item) for item in node.items)
        kinds = [item.type for item in items if item.type is not types.UNKNOWN]
        odd = next((item for item in items if kinds and not types.same(item.type, kinds[0])), None)
        if odd is not None:
            self._error(f"a list holds one type: {kinds[0]} first, and here {named(odd.type)}", odd.start)
        kind = functools.reduce(types.joined, kinds) if kinds and odd is None else types.UNKNOWN
        return replace(node, items=items, type=types.Type("list", item=kind))

    def _conditional(self, node: types.Conditional) -> Node:
        condition = self._bool(node.condition, "`?`")
        then, otherwise = self._fit(self._check(node.then), self._check(node.otherwise))
        if not types.same(then.type, otherwise.type):
            self._error(f"both values of `?` must have one type: {then.type} and {otherwise.type}", otherwise.start)
            return replace(node, condition=condition, then=then, otherwise=otherwise)
        kind = otherwise.type if then.type is types.UNKNOWN else then.type
        return replace(node, condition=condition, then=then, otherwise=otherwise, type=kind)

    def _call(self, node: types.Call) -> Node:
        args = tuple(self._check(arg) for arg in node.args)
        typed = replace(node, args=args)
        match node.function:
            case "size":
                self._need(args[0], "size()", "string", "list")
                return replace(typed, type=types.INT)
            case "double":
                self._need(args[0], "double()", "int", "double")
                return replace(typed, type=types.DOUBLE)
            case _:
                for arg in args:
                    self._need(arg, f"{node.function}()", "string")
                if node.function == "matches":
                    self._pattern(args[1])
                return replace(typed, type=types.BOOL)

    def _pattern(self, node: Node) -> None:
        """Compile the pattern of `matches` once, so that a bad one is reported with its position."""
        if not isinstance(node, types.Literal) or not isinstance(node.value, str):
            if node.type in (types.STRING, types.UNKNOWN):
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
            wanted = " or ".join(map(article, kinds))
            self._error(f"{purpose} needs {wanted}, this is {named(node.type)}", node.start)

    def _binary(self, node: types.Binary) -> Node:
        left, right = self._fit(self._check(node.left), self._check(node.right))
        typed = replace(node, left=left, right=right)
        if node.op == "in":
            return self._membership(typed)
        compares = node.op in _COMPARISONS
        if compares:
            self._known_values(typed)
        if types.UNKNOWN in (left.type, right.type):
            return replace(typed, type=types.BOOL if compares else types.UNKNOWN)
        return self._comparison(typed) if compares else self._arithmetic(typed)

    def _fit(self, left: Node, right: Node) -> tuple[Node, Node]:
        """Turn a quantity that meets a field with a unit into a number of that unit."""
        return types.in_unit_of(left, right.type), types.in_unit_of(right, left.type)

    def _comparison(self, node: types.Binary) -> Node:
        left, right = node.left.type, node.right.type
        agree = types.may_meet(left, right) and (types.same(left, right) or (left.numeric and right.numeric))
        if not agree:
            hint = types.clash_hint(left, right)
            self._error(f"`{node.op}` cannot compare {named(left)} with {named(right)}", node.at, hint)
        elif node.op in _ORDERING and left.kind not in _ORDERED:
            self._error(f"`{node.op}` has no order for {named(left)}", node.at, "test membership with `in`")
        return replace(node, type=types.BOOL)

    def _arithmetic(self, node: types.Binary) -> Node:
        left, right = node.left.type, node.right.type
        kind = types.result_type(node.op, left, right)
        if kind is None:
            mixed = left.numeric and right.numeric and left.kind != right.kind
            hint = "write 100.0 instead of 100, or double(...)" if mixed else types.clash_hint(left, right)
            self._error(f"`{node.op}` does not take {named(left)} and {named(right)}", node.at, hint)
            return node
        return replace(node, type=kind)

    def _membership(self, node: types.Binary) -> Node:
        item, group = node.left.type, node.right.type
        if group.kind not in {"list", "unknown"}:
            hint = "write text.contains(part)" if group == types.STRING else None
            self._error(f"`in` needs a list on the right, this is {named(group)}", node.right.start, hint)
        elif group.item is not None and not types.same(item, group.item) and not (item.numeric and group.item.numeric):
            self._error(f"{named(item)} is never in {named(group)}", node.at)
        self._known_values(node)
        return replace(node, type=types.BOOL)

    def _known_values(self, node: types.Binary) -> None:
        """Report texts that the field beside them never has: no request has a tag that the policy does not declare."""
        for side, other in ((node.left, node.right), (node.right, node.left)):
            if not isinstance(other, types.Field) or not other.key:
                continue
            if other.key == "request.tags":
                self._literals(side, self._tags, "is not a declared tag")
            elif values := self._schema.spec(other).values:
                self._literals(side, values, f"is not a value of {other.name}")

    def _literals(self, node: Node, known: frozenset[str], message: str) -> None:
        for text, offset in types.texts_of(node):
            if text not in known:
                self._error(f'"{text}" {message}', offset, did_you_mean(text, known))

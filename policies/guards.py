"""Finds reads of signals that may be absent and are not guarded by has(), by following what each branch knows."""

from __future__ import annotations

from dataclasses import dataclass, field

from hybrid_llm.policies.check import Report
from hybrid_llm.policies.nodes import (
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
)
from hybrid_llm.policies.schema import Schema

__all__ = ["check_guards"]

_Keys = frozenset[str]
_NONE: _Keys = frozenset()


@dataclass(frozen=True, slots=True)
class _Known:
    """What is present for certain once a condition came out true, and once it came out false."""

    true: _Keys = _NONE
    false: _Keys = _NONE


def check_guards(node: Node, schema: Schema, report: Report) -> None:
    """Report every read in *node* of a field that may be absent where no has() made sure of it."""
    _Flow(schema, report).visit(node, _NONE)


@dataclass(slots=True)
class _Flow:
    schema: Schema
    report: Report
    told: set[str] = field(default_factory=set)

    def visit(self, node: Node, known: _Keys) -> _Known:
        match node:
            case Field():
                self._read(node, known)
                return _Known()
            case Has():
                return _Known(true=frozenset({node.field.key}))
            case Not():
                inner = self.visit(node.item, known)
                return _Known(true=inner.false, false=inner.true)
            case Logic():
                return self._logic(node, known)
            case Conditional():
                return self._conditional(node, known)
            case _:
                self._parts(node, known)
                return _Known()

    def _parts(self, node: Literal | ListOf | Negate | Binary | Call, known: _Keys) -> None:
        match node:
            case Binary():
                self.visit(node.left, known)
                self.visit(node.right, known)
            case Negate():
                self.visit(node.item, known)
            case ListOf(items=parts) | Call(args=parts):
                for part in parts:
                    self.visit(part, known)
            case Literal():
                pass

    def _logic(self, node: Logic, known: _Keys) -> _Known:
        """`a && b` is true when both are, and false when a is false, or a is true and b false; `||` mirrors it."""
        conjunction = node.op == "&&"
        passed = _NONE
        stopped: _Keys | None = None
        for item in node.items:
            found = self.visit(item, known | passed)
            going, stopping = (found.true, found.false) if conjunction else (found.false, found.true)
            here = passed | stopping
            stopped = here if stopped is None else stopped & here
            passed |= going
        stopped = stopped or _NONE
        return _Known(true=passed, false=stopped) if conjunction else _Known(true=stopped, false=passed)

    def _conditional(self, node: Conditional, known: _Keys) -> _Known:
        condition = self.visit(node.condition, known)
        then = self.visit(node.then, known | condition.true)
        otherwise = self.visit(node.otherwise, known | condition.false)
        return _Known(
            true=(condition.true | then.true) & (condition.false | otherwise.true),
            false=(condition.true | then.false) & (condition.false | otherwise.false),
        )

    def _read(self, node: Field, known: _Keys) -> None:
        spec = self.schema.fields(node.path[0]).get(node.path[1]) if node.key else None
        if spec is None or not spec.optional or node.key in known or node.key in self.told:
            return
        self.told.add(node.key)
        if spec.root == "objectives":
            name = node.path[1].removesuffix("_ms")
            self.report(f"this policy sets no `{node.name}`", node.start, f"add `{name}` under `objectives:`")
            return
        self.report(
            f"`{node.name}` may be absent here and is read without a guard",
            node.start,
            f"write has({node.name}) && ... in front of it",
        )

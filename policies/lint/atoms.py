"""Turns atomic conditions into constraints on one subject each: the sets of values that make them true, and false.

Sets are intervals of numbers, or choices of texts. A set may be larger than what is possible and is never smaller, so
that an empty set is a proof.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, reduce

from hybrid_llm.policies.language.compile import constant_value, is_constant
from hybrid_llm.policies.language.runtime import compile_pattern
from hybrid_llm.policies.language.schema import FieldSpec, Schema
from hybrid_llm.policies.language.types import Binary, Call, Field, Has, ListOf, Literal, Node, Unary, children, walk

Choice = bool | int | str
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_UNORDERED = "unordered"
_SIGNS: dict[str, frozenset[Choice]] = {
    "<": frozenset({-1}),
    "<=": frozenset({-1, 0}),
    ">": frozenset({1}),
    ">=": frozenset({0, 1}),
    "==": frozenset({0}),
    "!=": frozenset({-1, 1, _UNORDERED}),
}
"""Operator -> the signs of `left - right` for which it is true; NaN is unordered, and unequal to everything."""
_ANY_SIGN = frozenset[Choice]().union(*_SIGNS.values())


@dataclass(frozen=True, slots=True)
class Span:
    """An interval from *low* to *high*; an open end is not part of it."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False

    def meet(self, other: Span) -> Span:
        """The intersection."""
        low, low_open = max((self.low, self.low_open), (other.low, other.low_open))
        high, closed = min((self.high, not self.high_open), (other.high, not other.high_open))
        return Span(low, high, low_open, not closed)

    def holds_any(self, *, whole: bool) -> bool:
        """Whether it holds a number, or a whole number if *whole*."""
        if whole and math.isfinite(self.low) and math.isfinite(self.high):
            least = math.floor(self.low) + 1 if self.low_open else math.ceil(self.low)
            most = math.ceil(self.high) - 1 if self.high_open else math.floor(self.high)
            return least <= most
        return self.low < self.high or (self.low == self.high and not self.low_open and not self.high_open)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of *spans*, only whole ones if *whole*, and NaN if *nan*."""

    spans: tuple[Span, ...]
    whole: bool = False
    nan: bool = False

    def meet(self, other: Values) -> Numbers:
        """The intersection."""
        assert isinstance(other, Numbers)
        whole = self.whole or other.whole
        met = (mine.meet(theirs) for mine in self.spans for theirs in other.spans)
        spans = tuple(span for span in met if span.holds_any(whole=whole))
        return Numbers(spans, whole, self.nan and other.nan)

    @property
    def empty(self) -> bool:
        """Whether no value is left."""
        return not self.spans and not self.nan


ANY_NUMBER = Numbers((Span(-math.inf, math.inf),), nan=True)
_INT = Numbers((Span(-(2**63), 2**63 - 1),), whole=True)
_COUNT = Numbers((Span(0, 2**63 - 1),), whole=True)


def compared(signs: frozenset[Choice], value: float) -> Numbers:
    """The numbers for which the sign of `number - value` is one of *signs*."""
    spans = {
        -1: Span(-math.inf, value, high_open=True),
        0: Span(value, value),
        1: Span(value, math.inf, low_open=True),
    }
    return Numbers(tuple(span for sign, span in spans.items() if sign in signs), nan=_UNORDERED in signs)


@dataclass(frozen=True, slots=True)
class TextTest:
    """A test of a text: *kind* is startsWith, endsWith, contains, matches or a comparison."""

    kind: str
    value: str

    def holds(self, text: str) -> bool:
        """Whether *text* passes."""
        return _TESTS[self.kind](text, self.value)

    def implies(self, other: TextTest) -> bool:
        """Whether every text that passes this test passes *other*; False if that is not known."""
        if self == other:
            return True
        known = self.kind in {"startsWith", "endsWith", "contains"}
        return known and other.kind in {self.kind, "contains"} and other.holds(self.value)

    def excludes(self, other: TextTest) -> bool:
        """Whether no text passes both; False if that is not known."""
        if self.kind != other.kind or self.kind not in {"startsWith", "endsWith"}:
            return False
        return not self.implies(other) and not other.implies(self)


_compiled = lru_cache(maxsize=256)(compile_pattern)
_TESTS: dict[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": operator.contains,
    "matches": lambda text, pattern: _compiled(pattern)(text) is not None,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Choices:
    """One of *items*, or anything but them if *others*; each of *tests* has the result beside it."""

    items: frozenset[Choice]
    others: bool = False
    tests: frozenset[tuple[TextTest, bool]] = frozenset()

    def meet(self, other: Values) -> Choices:
        """The intersection."""
        assert isinstance(other, Choices)
        tests = self.tests | other.tests
        if self.others and other.others:
            return Choices(self.items | other.items, others=True, tests=tests)
        if self.others or other.others:
            open_one, closed_one = (self, other) if self.others else (other, self)
            items = closed_one.items - open_one.items
        else:
            items = self.items & other.items
        return Choices(frozenset(item for item in items if _passes(item, tests)), tests=tests)

    @property
    def empty(self) -> bool:
        """Whether no value is left."""
        if not self.others:
            return not self.items
        true = [test for test, answer in self.tests if answer]
        false = [test for test, answer in self.tests if not answer]
        return any(yes.implies(no) for yes in true for no in false) or any(a.excludes(b) for a in true for b in true)


def _passes(item: Choice, tests: Iterable[tuple[TextTest, bool]]) -> bool:
    return not isinstance(item, str) or all(test.holds(item) is answer for test, answer in tests)


ANY_TEXT = Choices(frozenset(), others=True)
BOTH = Choices(frozenset({True, False}))
_YES, _NO = Choices(frozenset({True})), Choices(frozenset({False}))
Values = Numbers | Choices


@dataclass(frozen=True, slots=True)
class Domain:
    """What a part of a condition can be: absent, *broken* (it cannot be read), or one of *values*."""

    values: Values
    absent: bool = False
    broken: bool = False

    def meet(self, other: Domain) -> Domain:
        """The intersection."""
        return Domain(
            self.values.meet(other.values),
            absent=self.absent and other.absent,
            broken=self.broken and other.broken,
        )

    def having(self, values: Values) -> Domain:
        """This domain, restricted to *values*; neither absent nor broken."""
        return Domain(self.values.meet(values))

    def or_failing(self, base: Domain) -> Domain:
        """This domain, and absent or broken if *base* can be."""
        return replace(self, absent=self.absent or base.absent, broken=self.broken or base.broken)

    @property
    def empty(self) -> bool:
        """Whether nothing is possible."""
        return not self.absent and not self.broken and self.values.empty


@dataclass(frozen=True, slots=True)
class Atom:
    """A constraint on *subject*: it holds for *true*, does not for *false*, and fails for *failing*."""

    subject: str
    true: Domain
    false: Domain
    failing: Domain


class AtomReader:
    """Makes atoms of bool nodes other than `&&`, `||`, `!` and `?:`."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def read(self, node: Node) -> Atom:
        """The atom of *node*; a node that is not understood becomes its own subject."""
        match node:
            case Has():
                return self._presence(node.field)
            case Binary(op="in"):
                return self._membership(node)
            case Binary():
                return self._comparison(node)
            case Call(function="startsWith" | "endsWith" | "contains" | "matches"):
                return self._text_test(node)
            case _:
                return self._opaque(node)

    def _opaque(self, node: Node) -> Atom:
        return self._asked(node, _YES, _NO)

    def _asked(self, node: Node, true: Values, false: Values) -> Atom:
        return _split(self._name(node), self._base(node), true, false)

    def _presence(self, field: Field) -> Atom:
        base = self._base(field)
        there = replace(base, absent=False)
        missing = Domain(_nothing(base.values), absent=base.absent)
        lost = Domain(_nothing(base.values), broken=self._schema.spec(field).root == "backend")
        return Atom(self._name(field), there, missing, lost)

    def _comparison(self, node: Binary) -> Atom:
        left, right, op = node.left, node.right, node.op
        if self._constant(left):
            left, right, op = right, left, _FLIPPED[op]
        if not self._constant(right):
            ordered = left.type.numeric or left.type.kind == "string"
            return self._pair(left, right, op) if ordered else self._opaque(node)
        value = constant_value(right, self._schema)
        if isinstance(value, str):
            return self._text_comparison(left, op, value)
        if left.type.numeric and isinstance(value, int | float) and value == value:
            return self._asked(left, compared(_SIGNS[op], value), compared(_ANY_SIGN - _SIGNS[op], value))
        return self._opaque(node)

    def _text_comparison(self, left: Node, op: str, value: str) -> Atom:
        if op in {"==", "!="}:
            same, other = Choices(frozenset({value})), Choices(frozenset({value}), others=True)
            return self._asked(left, same, other) if op == "==" else self._asked(left, other, same)
        return self._tested(left, TextTest(op, value))

    def _tested(self, text: Node, test: TextTest) -> Atom:
        yes, no = (replace(ANY_TEXT, tests=frozenset({(test, answer)})) for answer in (True, False))
        atom = self._asked(text, yes, no)
        return replace(atom, failing=replace(atom.failing, broken=True)) if test.kind == "matches" else atom

    def _text_test(self, node: Call) -> Atom:
        text, part = node.args
        if isinstance(part, Literal) and isinstance(part.value, str) and not self._constant(text):
            return self._tested(text, TextTest(node.function, part.value))
        return self._opaque(node)

    def _membership(self, node: Binary) -> Atom:
        item, group = node.left, node.right
        if not isinstance(group, ListOf) or self._constant(item) or not all(map(self._constant, group.items)):
            return self._opaque(node)
        values = [constant_value(one, self._schema) for one in group.items]
        if item.type.kind == "string":
            found = frozenset(value for value in values if isinstance(value, str))
            return self._asked(item, Choices(found), Choices(found, others=True))
        numbers = [value for value in values if isinstance(value, int | float) and value == value]
        if not item.type.numeric or len(numbers) != len(values):
            return self._opaque(node)
        inside = Numbers(tuple(Span(number, number) for number in numbers))
        outside: Numbers = reduce(Numbers.meet, (compared(_SIGNS["!="], number) for number in numbers), ANY_NUMBER)
        return self._asked(item, inside, outside)

    def _pair(self, left: Node, right: Node, op: str) -> Atom:
        """Two compared nodes as one subject: less, equal, greater or (NaN) unordered."""
        names = self._name(left), self._name(right)
        if names[0] > names[1]:
            names, op = (names[1], names[0]), _FLIPPED[op]
        signs = _SIGNS["=="] if names[0] == names[1] else _ANY_SIGN - {_UNORDERED}
        if any(part.type.kind == "double" and not isinstance(part, Field) for part in (left, right)):
            signs |= {_UNORDERED}
        base = Domain(Choices(signs), broken=self._fragile(left) or self._fragile(right))
        return _split(" ? ".join(names), base, Choices(_SIGNS[op]), Choices(_SIGNS[op], others=True))

    def _constant(self, node: Node) -> bool:
        return is_constant(node, self._schema)

    def _fragile(self, node: Node) -> bool:
        """Whether evaluating *node* can fail: a double can be NaN, a backend unknown, an int can overflow."""
        return any(map(self._fails, walk(node)))

    def _fails(self, node: Node) -> bool:
        match node:
            case Field():
                spec = self._schema.spec(node)
                return spec.root == "backend" or spec.type.kind == "double" or spec.optional
            case Call():
                return node.function in {"matches", "double"}
            case Binary():
                return node.type.kind == "int"
        return isinstance(node, Unary) and node.op == "-"

    def _base(self, node: Node) -> Domain:
        """Every value that *node* can have."""
        if isinstance(node, Field):
            spec = self._schema.spec(node)
            fails = spec.root == "backend" or spec.type.kind == "double"
            return Domain(_readings(spec), absent=spec.optional, broken=fails)
        fragile = self._fragile(node)
        if node.type.kind == "string":
            return Domain(ANY_TEXT, broken=fragile)
        if node.type.kind == "int":
            counted = isinstance(node, Call) and node.function == "size"
            return Domain(_COUNT if counted else _INT, broken=fragile)
        return Domain(ANY_NUMBER if node.type.numeric else BOTH, broken=fragile)

    def _name(self, node: Node) -> str:
        """One name for all nodes that certainly have one value: the same text, with canonical names of fields."""
        if isinstance(node, Field):
            return node.key
        if self._constant(node):
            return repr(constant_value(node, self._schema))
        parts = [self._name(child) for child in children(node)]
        if isinstance(node, Binary):
            if node.op in "+*" and node.type.numeric:
                parts.sort()
            return f"({f' {node.op} '.join(parts)})"
        return f"{type(node).__name__} {getattr(node, 'function', getattr(node, 'op', ''))}({', '.join(parts)})"


def _split(name: str, base: Domain, true: Values, false: Values) -> Atom:
    failing = Domain(_nothing(base.values), absent=base.absent, broken=base.broken)
    return Atom(name, base.having(true), base.having(false), failing)


def _nothing(values: Values) -> Values:
    return Numbers(()) if isinstance(values, Numbers) else Choices(frozenset())


def _readings(spec: FieldSpec) -> Values:
    """The values that the field can have, by the ranges of its record."""
    if spec.type.kind == "bool":
        return BOTH
    if spec.type.kind == "string":
        return Choices(frozenset(spec.values)) if spec.values else ANY_TEXT
    if not spec.type.numeric:
        return ANY_TEXT
    return Numbers((Span(spec.least, spec.most),), whole=spec.type.kind == "int")

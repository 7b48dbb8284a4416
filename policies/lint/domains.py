"""Sets of values that a part of a condition can have: intervals of numbers, choices of texts; it knows no conditions.

All of them may be larger than what is truly possible and never smaller, so that an empty set is a proof.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from hybrid_llm.policies.language.runtime import compile_pattern


@dataclass(frozen=True, slots=True)
class Span:
    """An interval from *low* to *high*; an end that is open is not part of it."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False

    def meet(self, other: Span) -> Span:
        """What both hold."""
        low, low_open = max((self.low, self.low_open), (other.low, other.low_open))
        high, closed = min((self.high, not self.high_open), (other.high, not other.high_open))
        return Span(low, high, low_open, not closed)

    def holds_any(self, *, whole: bool) -> bool:
        """Is there a number in it; where *whole* is true, a whole one?"""
        if whole and math.isfinite(self.low) and math.isfinite(self.high):
            least = math.floor(self.low) + 1 if self.low_open else math.ceil(self.low)
            most = math.ceil(self.high) - 1 if self.high_open else math.floor(self.high)
            return least <= most
        return self.low < self.high or (self.low == self.high and not self.low_open and not self.high_open)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of *spans*, only whole ones where *whole* is true, and NaN where *nan* is."""

    spans: tuple[Span, ...]
    whole: bool = False
    nan: bool = False

    def meet(self, other: Values) -> Numbers:
        """What both hold."""
        assert isinstance(other, Numbers)
        whole = self.whole or other.whole
        met = (mine.meet(theirs) for mine in self.spans for theirs in other.spans)
        spans = tuple(span for span in met if span.holds_any(whole=whole))
        return Numbers(spans, whole, self.nan and other.nan)

    @property
    def empty(self) -> bool:
        """Is there nothing in it?"""
        return not self.spans and not self.nan


ANY_NUMBER = Numbers((Span(-math.inf, math.inf),), nan=True)


def compared(op: str, value: float) -> Numbers:
    """The numbers that `number op value` is true for; NaN is unequal to everything."""
    below, above = Span(-math.inf, value, high_open=True), Span(value, math.inf, low_open=True)
    at = Span(value, value)
    spans = {"<": (below,), "<=": (below, at), ">": (above,), ">=": (at, above), "==": (at,), "!=": (below, above)}
    return Numbers(spans[op], nan=op == "!=")


@dataclass(frozen=True, slots=True)
class TextTest:
    """A question to a text: *kind* is startsWith, endsWith, contains, matches or a comparison."""

    kind: str
    value: str

    def holds(self, text: str) -> bool:
        """The answer for *text*."""
        match self.kind:
            case "startsWith":
                return text.startswith(self.value)
            case "endsWith":
                return text.endswith(self.value)
            case "contains":
                return self.value in text
            case "matches":
                return _search(self.value, text)
            case _:
                return {"<": text < self.value, "<=": text <= self.value, ">": text > self.value}.get(
                    self.kind, text >= self.value
                )

    def implies(self, other: TextTest) -> bool:
        """Is *other* true of every text that this is true of? False where it is not known."""
        if self == other:
            return True
        known = self.kind in {"startsWith", "endsWith", "contains"}
        return known and other.kind in {self.kind, "contains"} and other.holds(self.value)

    def excludes(self, other: TextTest) -> bool:
        """Is there no text that both are true of? False where it is not known."""
        if self.kind != other.kind or self.kind not in {"startsWith", "endsWith"}:
            return False
        return not self.implies(other) and not other.implies(self)


@lru_cache(maxsize=256)
def _search(pattern: str, text: str) -> bool:
    return compile_pattern(pattern)(text) is not None


Choice = bool | int | str


@dataclass(frozen=True, slots=True)
class Choices:
    """One of *items*; where *others* is true, anything but them. All of *tests* have the answer beside them."""

    items: frozenset[Choice]
    others: bool = False
    tests: frozenset[tuple[TextTest, bool]] = frozenset()

    def meet(self, other: Values) -> Choices:
        """What both hold."""
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
        """Is there nothing in it?"""
        if not self.others:
            return not self.items
        true = [test for test, answer in self.tests if answer]
        false = [test for test, answer in self.tests if not answer]
        return any(yes.implies(no) for yes in true for no in false) or any(a.excludes(b) for a in true for b in true)


def _passes(item: Choice, tests: Iterable[tuple[TextTest, bool]]) -> bool:
    return not isinstance(item, str) or all(test.holds(item) is answer for test, answer in tests)


ANY_TEXT = Choices(frozenset(), others=True)
BOTH = Choices(frozenset({True, False}))
Values = Numbers | Choices


@dataclass(frozen=True, slots=True)
class Domain:
    """What a part of a condition can be: absent, *broken* (its reading fails), or one of *values*."""

    values: Values
    absent: bool = False
    broken: bool = False

    def meet(self, other: Domain) -> Domain:
        """What both hold."""
        return Domain(
            self.values.meet(other.values),
            absent=self.absent and other.absent,
            broken=self.broken and other.broken,
        )

    def having(self, values: Values) -> Domain:
        """This, where the reading succeeds and gives one of *values*."""
        return Domain(self.values.meet(values))

    def or_failing(self, base: Domain) -> Domain:
        """This, or a reading that fails; *base* tells whether it can."""
        return replace(self, absent=self.absent or base.absent, broken=self.broken or base.broken)

    @property
    def empty(self) -> bool:
        """Is nothing possible?"""
        return not self.absent and not self.broken and self.values.empty

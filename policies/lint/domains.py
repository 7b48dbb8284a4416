"""Sets of values that a part of a condition can have: intervals of numbers, sets of texts.

A set may be larger than what is possible and is never smaller, so that an empty set is a proof.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from hybrid_llm.policies.language.runtime import compile_pattern


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


def compared(op: str, value: float) -> Numbers:
    """The numbers for which `number op value` is true; NaN is unequal to everything."""
    below, above = Span(-math.inf, value, high_open=True), Span(value, math.inf, low_open=True)
    at = Span(value, value)
    spans = {"<": (below,), "<=": (below, at), ">": (above,), ">=": (at, above), "==": (at,), "!=": (below, above)}
    return Numbers(spans[op], nan=op == "!=")


@dataclass(frozen=True, slots=True)
class TextTest:
    """A test of a text: *kind* is startsWith, endsWith, contains, matches or a comparison."""

    kind: str
    value: str

    def holds(self, text: str) -> bool:
        """Whether *text* passes."""
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


@lru_cache(maxsize=256)
def _search(pattern: str, text: str) -> bool:
    return compile_pattern(pattern)(text) is not None


Choice = bool | int | str


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

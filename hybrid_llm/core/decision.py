"""Which backends are tried, in which order, and why: a `Decision` and the trace of its rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.markdown import literal, table

UNKNOWN_WINDOW: Final = 2**31 - 1
"""The context window of a node that has not reported its own: rules read no limit, and people read "unknown"."""

_LAST_RESORT: Final = "its circuit breaker is open, but it serves and nothing else is left: used as a last resort"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTrace:
    """What one rule read. *place* is `path:line:column`; *values* are the signals and their values."""

    rule: str
    place: str
    matched: bool
    because: str = ""
    condition: str = ""
    """The condition as written, its white space apart; empty where the rule always applies."""
    values: tuple[tuple[str, object], ...] = ()

    @property
    def shown_values(self) -> str:
        """The values in one line, rounded for people."""
        return _listed(self.values)

    @property
    def read(self) -> str:
        """Of these, the signals alone, without the sub-conditions that held."""
        return _listed((name, value) for name, value in self.values if value is not True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Which backends are tried, in which order, and why: a pure function of policy, metadata and signals."""

    order: tuple[str, ...]
    """Backends to try, best first; empty if none is eligible."""
    excluded: Mapping[str, str]
    """Backend -> why it is excluded, for people."""
    policy: str
    digest: str
    """The first 16 hex digits of the SHA-256 of the policy's text."""
    rule: str = ""
    """The rule that ordered the candidates, as `rules[3]`; `default` when none matched."""
    because: str = ""
    """That rule's reason, for people."""
    last_resort: frozenset[str] = frozenset()
    """Those of *order* whose circuit breaker is open: nothing else is left, and their probe finds that they serve."""
    tags: frozenset[str] = frozenset()
    """The effective privacy tags."""
    tracer: Callable[[], tuple[RuleTrace, ...]] = field(default=tuple, repr=False, compare=False)
    """Replays the decision and returns what each rule read; called on demand only."""

    @property
    def first(self) -> str:
        """The backend that is tried first; empty if none is eligible."""
        return self.order[0] if self.order else ""

    @property
    def trace(self) -> tuple[RuleTrace, ...]:
        """What each rule read, in the order of the policy."""
        return self.tracer()

    def to_dict(self) -> dict[str, Any]:
        """The decision with its trace as plain data, for JSON."""
        return cast("dict[str, Any]", jsonable(self)) | {"trace": jsonable(self.trace)}

    def explain(self) -> str:
        """The decision for people: order, exclusions, and every rule with the values it read."""
        lines = [f"policy {self.policy} ({self.digest})"]
        if self.tags:
            lines.append(f"tags: {', '.join(sorted(self.tags))}")
        lines.append(f"order: {' > '.join(self.order) or 'no eligible backend'}   by {self.rule}: {self.because}")
        lines += [f"{name}: {_LAST_RESORT}" for name in self.order if name in self.last_resort]
        lines += [f"excluded: {reason}" for reason in self.exclusions()]
        for entry in self.trace:
            lines += _trace_lines(entry)
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        """The decision in a notebook: each backend with its place or why it is excluded, and what each rule read."""
        backends = [*[(name, f"{at}.") for at, name in enumerate(self.order, 1)], *self.excluded.items()]
        rules = [
            (entry.rule, "yes" if entry.matched else "", entry.because, entry.condition, entry.shown_values)
            for entry in self.trace
        ]
        about = f"policy {self.policy} ({self.digest}), by {self.rule}: {self.because}"
        tags = f"tags: {', '.join(sorted(self.tags)) or 'none'}"
        parts = (literal(about), literal(tags), table(("backend", "tried"), backends))
        return "\n\n".join([*parts, table(("rule", "held", "because", "when", "read"), rules)])

    def exclusions(self) -> Iterator[str]:
        """Yield each excluded backend with the reason, and with the values that the rule behind it read."""
        read = {entry.rule.partition(" ")[0]: entry.read for entry in self.trace}
        for name, why in self.excluded.items():
            values = next((shown for rule, shown in read.items() if shown and why.endswith(f"({rule})")), "")
            yield f"{name}: {why}" + (f": {values}" if values else "")


def _trace_lines(entry: RuleTrace) -> Iterator[str]:
    mark = "x" if entry.matched else " "
    because = entry.because if entry.because != entry.condition else ""
    yield f"  [{mark}] {entry.place} {entry.rule}" + (f": {because}" if because else "")
    if entry.condition:
        yield f"        when {entry.condition}"
    if entry.values:
        yield f"        {entry.shown_values}"


def _listed(values: Iterable[tuple[str, object]]) -> str:
    return ", ".join(f"{name}={_rounded(value)}" for name, value in values)


def _rounded(value: object) -> object:
    """*value* with four significant digits, and a whole number as it is."""
    if value == UNKNOWN_WINDOW:
        return "unknown"
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return f"{value:,.0f}".replace(",", "") if abs(value) >= 1000 else f"{value:.4g}"

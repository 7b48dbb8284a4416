"""Which backends are tried, in which order, and why: a `Decision` and the trace of its rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from hybrid_llm.core.jsonable import jsonable


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTrace:
    """What one rule read. *place* is `path:line:column`; *values* are the signals and their values."""

    rule: str
    place: str
    matched: bool
    because: str = ""
    values: tuple[tuple[str, object], ...] = ()


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
    tags: frozenset[str] = frozenset()
    """The effective privacy tags."""
    tracer: Callable[[], tuple[RuleTrace, ...]] = field(default=tuple, repr=False, compare=False)
    """Replays the decision and returns what each rule read; called on demand only."""

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
        lines += [f"excluded: {name}: {why}" for name, why in self.excluded.items()]
        lines += [_trace_line(entry) for entry in self.trace]
        return "\n".join(lines)


def _trace_line(entry: RuleTrace) -> str:
    mark = "x" if entry.matched else " "
    values = ", ".join(f"{name}={value}" for name, value in entry.values)
    return f"  [{mark}] {entry.place} {entry.rule}" + (f"   {values}" if values else "")

"""Which backends are tried, in which order, and why: a `Decision` and the trace of its rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTrace:
    """What one rule saw. *place* is `path:line:column`; *values* are the signals it read and their values."""

    rule: str
    place: str
    matched: bool
    because: str = ""
    values: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Who is asked, in which order, and why. A pure function of policy, request and signals made it."""

    order: tuple[str, ...]
    """Backends to try, best first; empty when nobody is eligible."""
    excluded: Mapping[str, str]
    """Backend -> why it is out, for people."""
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
    """Replays the decision and tells what each rule saw; called on demand only."""

    @property
    def trace(self) -> tuple[RuleTrace, ...]:
        """What each rule saw, in the order of the policy."""
        return self.tracer()

    def explain(self) -> str:
        """The decision as a person reads it: order, exclusions, and every rule with the values it saw."""
        lines = [f"policy {self.policy} ({self.digest})"]
        if self.tags:
            lines.append(f"tags: {', '.join(sorted(self.tags))}")
        lines.append(f"order: {' > '.join(self.order) or 'nobody is eligible'}   by {self.rule}: {self.because}")
        lines += [f"excluded: {name}: {why}" for name, why in self.excluded.items()]
        lines += [_trace_line(entry) for entry in self.trace]
        return "\n".join(lines)


def _trace_line(entry: RuleTrace) -> str:
    mark = "x" if entry.matched else " "
    values = ", ".join(f"{name}={value}" for name, value in entry.values)
    return f"  [{mark}] {entry.place} {entry.rule}" + (f"   {values}" if values else "")

"""Counts of one step of the preparation: what came in, what went out, and what was dropped for which reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Figures:
    """Numbers only: no text of a record, and no value, is ever counted by itself."""

    entered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    more: dict[str, Any] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Count a record that is dropped for *reason*."""
        self.dropped[reason] += 1

    def count(self, group: str, name: str, number: int = 1) -> None:
        """Add *number* to a further count."""
        counts = self.more.setdefault(group, {})
        counts[name] = counts.get(name, 0) + number

    @property
    def left(self) -> int:
        """How many records were not dropped."""
        return self.entered - self.dropped.total()

    def to_json(self) -> dict[str, Any]:
        """The figures as `data.json` has them."""
        dropped = dict(sorted(self.dropped.items()))
        return {"in": self.entered, "out": self.left, "dropped": dropped, **self.more}
